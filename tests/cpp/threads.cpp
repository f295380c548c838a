// Threads that share one model: same scores, busy errors instead of races, handles freed anywhere. Exit code 0: all held.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "vprm/vprm.hpp"

namespace {

constexpr int kThreads = 4, kRounds = 3;
std::atomic<int> failures{0};

void expect(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "failed: %s\n", what);
    failures++;
}

std::vector<std::uint8_t> image_of(int seed) {
    std::vector<std::uint8_t> pixels(240 * 200 * 3);
    for (std::size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<std::uint8_t>(i * 7 + i / 720 * static_cast<std::size_t>(seed));
    return pixels;
}

std::vector<double> scores_of(const vprm::Model &model, const std::vector<std::uint8_t> &pixels) {
    vprm::Input input("How many bars?");
    input.add_rgb8(pixels, 240, 200);
    vprm::Responses responses;
    responses.add("One.\n\nTwo.").add("Three bars.").add_steps({});
    const vprm::Result result = model.score(input, responses);
    std::vector<double> scores;
    for (const vprm::Candidate &candidate : result.candidates()) scores.push_back(candidate.score.value_or(-1));
    return scores;
}

template <typename Work>
void in_threads(Work work) {
    std::vector<std::thread> threads;
    for (int number = 0; number < kThreads; number++) threads.emplace_back(work, number);
    for (std::thread &thread : threads) thread.join();
}

void check_scoring(const vprm::Model &model) {
    const std::vector<std::uint8_t> images[] = {image_of(1), image_of(2)};
    const std::vector<double> expected[] = {scores_of(model, images[0]), scores_of(model, images[1])};
    in_threads([&](int number) {
        for (int round = 0; round < kRounds; round++) {
            const int which = (number + round) % 2;
            expect(scores_of(model, images[which]) == expected[which], "threads get the scores of one thread");
        }
    });
    expect(model.prefix_cache_bytes() > 0, "prefixes are kept");
}

// A session for each thread; and one tree that all want: every call gives the right score or a busy error.
void check_sessions(const vprm::Model &model) {
    vprm::Session shared = model.session(vprm::Input("What is 1 + 1?"));
    const double expected = shared.fork().append("It is 2.");
    std::atomic<int> done{0};
    in_threads([&](int) {
        vprm::Session own = model.session(vprm::Input("What is 1 + 1?"));
        expect(own.append("It is 2.") == expected, "a session of its own gives the same score");
        for (int round = 0; round < 20 * kRounds; round++) {
            try {
                vprm::Session fork = shared.fork();
                expect(fork.append("It is 2.") == expected, "a fork gives the same score");
                done++;
            } catch (const vprm::Error &error) {
                expect(error.code() == VPRM_BUSY, error.what());
            }
        }
    });
    expect(done > 0, "some forks were scored");
    expect(shared.step_scores().empty(), "nothing was committed to the shared session");
}

void check_cancellation(const vprm::Model &model) {
    const std::vector<std::uint8_t> pixels = image_of(3);
    vprm::Input input("How many bars?");
    input.add_rgb8(pixels, 240, 200);
    vprm::Cancellation cancellation;
    std::thread other([&] { cancellation.cancel(); });
    try {
        while (true) model.score(input, vprm::Responses().add("One."), &cancellation);
    } catch (const vprm::Error &error) {
        expect(error.code() == VPRM_CANCELLED, error.what());
    }
    other.join();
}

}  // namespace

int main(int count, char **arguments) try {
    if (count != 2) return 2;
    vprm::ModelOptions options;
    options.threads(1).prefix_cache_bytes(std::size_t{64} << 20).max_block_tokens(64);
    const vprm::Model model(arguments[1], options);
    check_scoring(model);
    check_sessions(model);
    check_cancellation(model);
    return failures == 0 ? 0 : 1;
} catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
