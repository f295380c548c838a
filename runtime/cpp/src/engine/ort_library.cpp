#include "engine/ort_library.hpp"

#include <dlfcn.h>

#include <cstdlib>

#include "base/error.hpp"

namespace vprm::internal {

namespace {

constexpr char kDefaultName[] = "libonnxruntime.so.1";
constexpr char kVariable[] = "VPRM_ORT_LIBRARY";
constexpr int kErrorSeverity = 3;
enum { kArenaAllocator = 1, kDefaultMemory = 0 };

// Messages of ONNX Runtime that belong to no session: a library must not print into its host's streams.
void drop_message(void *, int, const char *, const char *, const char *, const char *) {}

const OrtApiBase *load_base(const std::string &given) {
    std::string path = given;
    if (path.empty())
        if (const char *named = std::getenv(kVariable)) path = named;
    if (path.empty()) path = kDefaultName;
    const std::string advice = std::string(": name ONNX Runtime's shared library (1.24 or later; pip's onnxruntime has it in "
                                           "onnxruntime/capi) by the option or in ") + kVariable;
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) throw engine_error("cannot load " + excerpt(path) + " (" + excerpt(dlerror()) + ")" + advice);
    void *symbol = dlsym(library, "OrtGetApiBase");
    if (symbol == nullptr) throw engine_error(excerpt(path) + " is no ONNX Runtime library" + advice);
    return reinterpret_cast<const OrtApiBase *(*)()>(symbol)();
}

}  // namespace

void check_status(const OrtApi *api, OrtStatus *status, const std::string &doing) {
    if (status == nullptr) return;
    const std::string message = ORT_GET_ERROR_MESSAGE(status);
    ORT_RELEASE_STATUS(status);
    throw engine_error(doing + ": " + excerpt(message));
}

OrtLibrary::OrtLibrary(const OrtApiBase *base, const std::string &path) {
    if (base == nullptr) base = load_base(path);
    version_ = base->get_version();
    const OrtApi *api = api_ = base->get_api(ORT_API_VERSION);
    if (api == nullptr) throw engine_error("ONNX Runtime " + version_ + " is too old: use version 1.24 or later");
    OrtEnv *env = nullptr;
    check_status(api, ORT_CREATE_ENV(drop_message, nullptr, kErrorSeverity, "vprm", &env), "ONNX Runtime does not start");
    env_ = OrtHandle<OrtEnv>(env, ORT_RELEASE_ENV);
    OrtMemoryInfo *memory = nullptr;
    check_status(api, ORT_CREATE_CPU_MEMORY(kArenaAllocator, kDefaultMemory, &memory), "ONNX Runtime does not start");
    cpu_memory_ = OrtHandle<OrtMemoryInfo>(memory, ORT_RELEASE_MEMORY);
}

}  // namespace vprm::internal
