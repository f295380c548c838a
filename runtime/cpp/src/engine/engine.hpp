// The two graphs of a bundle on the CPU. Threads may share an engine; a cache belongs to one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "bundle/bundle.hpp"
#include "engine/block.hpp"
#include "engine/kv_cache.hpp"
#include "engine/ort_graph.hpp"

namespace vprm::internal {

// Image embeddings [count, hidden] in the LLM graph's floating type.
struct Embeds {
    std::vector<std::byte> bytes;
    std::size_t count = 0, row_bytes = 0;

    EmbedRows rows(std::size_t start, std::size_t wanted) const { return {bytes.data() + start * row_bytes, wanted}; }
};

class Engine {
  public:
    // The manifest must outlive the engine. Throws a bundle error if the graphs are not the manifest's.
    Engine(std::shared_ptr<OrtLibrary> library, const Bundle &bundle, int threads, const Log &log);

    // Library, version and precisions, for people.
    std::string description() const;

    // Appends the embeddings of one tile, RGB8 [size, size, 3]: on a CPU batches gain nothing and cost memory.
    void encode_tile(const std::uint8_t *tile, Embeds &embeds) const;

    // Appends the block's rows to the cache; candidate-token logits [K, C] at its score positions.
    std::vector<float> forward(const Block &block, KvCache &cache) const;

  private:
    void check_tensors() const;

    const Manifest &manifest_;
    std::shared_ptr<OrtLibrary> library_;
    OrtGraph vision_, llm_;
    std::vector<std::string> past_names_, new_names_;  // of each layer's keys and values in turn
};

}  // namespace vprm::internal
