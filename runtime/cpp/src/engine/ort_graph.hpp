// One graph in ONNX Runtime on the CPU. Inputs and outputs are the caller's memory: nothing is copied.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "bundle/manifest.hpp"
#include "engine/ort_library.hpp"

namespace vprm::internal {

enum class ElementType { kFloat32 = ORT_FLOAT, kUint8 = ORT_UINT8, kInt64 = ORT_INT64, kBool = ORT_BOOL, kFloat16 = ORT_FLOAT16 };

// A named tensor in memory that somebody else owns. ONNX Runtime only reads inputs.
struct Tensor {
    const char *name;
    const void *data;
    ElementType type;
    std::vector<std::int64_t> shape;
};

class OrtGraph {
  public:
    // `threads` 0: all cores. Throws an engine error if the graph cannot be opened.
    OrtGraph(std::shared_ptr<OrtLibrary> library, const std::filesystem::path &path, const GraphInfo &graph, int threads,
             const Log &log);

    // Names of inputs and outputs.
    std::vector<std::string> tensors() const;

    // Fills the outputs, whose shapes are exactly the graph's for these inputs. Threads may share a graph.
    void run(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const;

  private:
    OrtHandle<OrtValue> value_of(const Tensor &tensor) const;

    std::shared_ptr<OrtLibrary> library_;
    std::unique_ptr<Log> log_;                                    // ONNX Runtime keeps its address
    OrtHandle<OrtCustomOpDomain> operators_{nullptr, nullptr};    // outlives the session
    OrtHandle<OrtSession> session_{nullptr, nullptr};
};

}  // namespace vprm::internal
