// ONNX Runtime, opened at run time: its shared library's table of functions, and an environment.
//
// The library is never linked, since its symbols carry its version, and never unloaded, since it does not survive that
// (microsoft/onnxruntime#5523). What is used of its interface is in `native/ort_abi.h`, for every version since 1.17.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "ort_abi.h"

namespace vprm::internal {

// Takes a status's message, releases it, and throws an engine error, unless it is NULL.
void check_status(const OrtApi *api, OrtStatus *status, const std::string &doing);

// An ONNX Runtime object that its table's function releases.
template <typename T>
using OrtHandle = std::unique_ptr<T, void (*)(T *)>;

class OrtLibrary {
  public:
    // `base` is the host's own ONNX Runtime, or NULL; then the library at `path`, at $VPRM_ORT_LIBRARY, or by its usual
    // name. Throws an engine error that says what was tried.
    OrtLibrary(const OrtApiBase *base, const std::string &path);

    const OrtApi *api() const { return api_; }
    const std::string &version() const { return version_; }
    const OrtEnv *env() const { return env_.get(); }
    const OrtMemoryInfo *cpu_memory() const { return cpu_memory_.get(); }

  private:
    const OrtApi *api_ = nullptr;
    std::string version_;
    OrtHandle<OrtEnv> env_{nullptr, nullptr};
    OrtHandle<OrtMemoryInfo> cpu_memory_{nullptr, nullptr};
};

}  // namespace vprm::internal
