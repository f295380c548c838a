// The golden vectors of tests/data/golden that Python is held to.
#include <doctest/doctest.h>

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "bundle/bundle.hpp"
#include "prompt/prompt_builder.hpp"
#include "scoring/blocks.hpp"
#include "scoring/probabilities.hpp"
#include "scoring/result.hpp"

using namespace vprm::internal;
using nlohmann::json;

namespace {

json vectors(const std::string &name) { return json::parse(read_file(std::string(VPRM_GOLDEN) + "/" + name)); }

// [id, count] stands for so many equal ids.
Ids ids_of(const json &runs) {
    Ids ids;
    for (const json &run : runs) {
        if (run.is_array())
            ids.insert(ids.end(), run[1].get<std::size_t>(), run[0].get<TokenId>());
        else
            ids.push_back(run.get<TokenId>());
    }
    return ids;
}

void check_block(const Block &block, const json &expected) {
    CHECK(block.input_ids == expected.at("input_ids").get<std::vector<std::int64_t>>());
    CHECK(block.position_ids == expected.at("position_ids").get<std::vector<std::int64_t>>());
    CHECK(block.score_positions == expected.at("score_positions").get<std::vector<std::int64_t>>());
    std::string seen, wanted;
    for (const std::uint8_t bit : block.attention_mask) seen += bit != 0 ? '1' : '0';
    for (const json &line : expected.at("attention_mask")) wanted += line.get<std::string>();
    CHECK(seen == wanted);
}

std::vector<StepScore> steps_of(const json &scores) {
    std::vector<StepScore> steps;
    for (const json &score : scores) steps.push_back({"", score.get<double>()});
    return steps;
}

}  // namespace

TEST_CASE("prompts are the golden ones: ids, score positions and refusals") {
    const Bundle bundle = Bundle::open(std::getenv("VPRM_TEST_BUNDLE"));
    const Tokenizer tokenizer(read_file(bundle.tokenizer_path()), {});
    const PromptBuilder builder(tokenizer, bundle.manifest);
    const json cases = vectors("prompts.json").at("cases");
    REQUIRE(cases.size() > 250);
    for (const json &one : cases) {
        const auto tiles = one.at("tiles").get<std::vector<int>>();
        const auto question = one.at("question").get<std::string>();
        const auto steps = one.at("steps").get<std::vector<std::string>>();
        CAPTURE(one.dump().substr(0, 200));
        try {
            const TokenisedPrompt prompt = builder.build(question, tiles, steps);
            REQUIRE(one.contains("ids"));
            CHECK(prompt.ids == ids_of(one["ids"]));
            CHECK(prompt.score_positions == one.at("score_positions").get<std::vector<std::int64_t>>());
        } catch (const Error &error) {
            REQUIRE(one.contains("error"));
            CHECK(one["error"] == error.reason());
        }
    }
}

TEST_CASE("blocks are the golden ones: ids, positions and masks") {
    const json document = vectors("blocks.json");
    REQUIRE(document.at("packed").size() >= 5);
    for (const json &one : document["packed"]) {
        std::vector<Candidate> candidates;
        for (const json &given : one.at("candidates"))
            candidates.push_back({candidates.size(),
                                  {ids_of(given.at("ids")), given.at("score_positions").get<std::vector<std::int64_t>>()},
                                  given.at("shared_tokens").get<std::size_t>()});
        const auto groups = grouped(candidates, one.at("max_block_tokens").get<std::size_t>());
        REQUIRE(groups.size() == one.at("blocks").size());
        for (std::size_t i = 0; i < groups.size(); i++) {
            std::vector<std::size_t> indices;
            for (const Candidate *candidate : groups[i]) indices.push_back(candidate->index);
            CHECK(indices == one["blocks"][i].at("candidates").get<std::vector<std::size_t>>());
            check_block(packed_block(groups[i], one.at("cached_tokens").get<std::size_t>(), one.at("past_rows").get<Rows>()),
                        one["blocks"][i]);
        }
    }
    const json &causal = document.at("causal");
    const Ids ids = ids_of(causal.at("ids"));
    check_block(causal_block(ids, 0, ids.size(), causal.at("cached_tokens").get<std::size_t>(),
                             causal.at("past_rows").get<Rows>(), {}, {2}),
                causal);
}

TEST_CASE("step scores and response scores are the golden ones, to the last digit") {
    const json document = vectors("scores.json");
    for (const json &one : document.at("softmax")) {
        std::vector<CandidateToken> candidates;
        for (const json &weight : one.at("weights")) candidates.push_back({0, weight.get<double>()});
        std::vector<float> logits;
        for (const json &row : one.at("logits"))
            for (const json &logit : row) logits.push_back(logit.get<float>());
        CHECK(probabilities(logits, candidates) == one.at("scores").get<std::vector<double>>());
        logits.back() = INFINITY;
        CHECK_THROWS_AS(probabilities(logits, candidates), Error);
    }
    const std::pair<const char *, Aggregate> aggregates[] = {{"mean", Aggregate::kMean}, {"min", Aggregate::kMin},
                                                             {"last", Aggregate::kLast}, {"product", Aggregate::kProduct},
                                                             {"max", Aggregate::kMax}};
    REQUIRE(document.at("aggregates").size() >= 5);
    for (const json &one : document["aggregates"]) {
        CHECK(one.size() == 1 + std::size(aggregates));
        for (const auto &[name, how] : aggregates)
            CHECK(aggregated(steps_of(one.at("steps")), how) == one.at(name).get<double>());
    }
}
