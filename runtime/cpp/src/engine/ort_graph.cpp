#include "engine/ort_graph.hpp"

#include <algorithm>

#include "engine/native.hpp"
#include "base/error.hpp"

namespace vprm::internal {

namespace {

constexpr int kErrorSeverity = 3;

void pass_on(void *context, int severity, const char *, const char *, const char *, const char *message) {
    const auto level = static_cast<LogLevel>(std::clamp(severity, 0, static_cast<int>(LogLevel::kError)));
    static_cast<const Log *>(context)->write(level, message);
}

std::size_t element_bytes(ElementType type) {
    switch (type) {
        case ElementType::kFloat32: return 4;
        case ElementType::kInt64: return 8;
        case ElementType::kFloat16: return 2;
        case ElementType::kUint8:
        case ElementType::kBool: return 1;
    }
    return 0;
}

std::string names_of(const OrtApi *api, const OrtSession *session, std::size_t index, bool is_input) {
    OrtAllocator *allocator = nullptr;
    check_status(api, ORT_DEFAULT_ALLOCATOR(&allocator), "ONNX Runtime has no allocator");
    char *name = nullptr;
    OrtStatus *status = is_input ? ORT_INPUT_NAME(session, index, allocator, &name)
                                 : ORT_OUTPUT_NAME(session, index, allocator, &name);
    check_status(api, status, "a graph's input or output has no name");
    std::string copy(name);
    check_status(api, ORT_FREE_MEMORY(allocator, name), "ONNX Runtime cannot free memory");
    return copy;
}

}  // namespace

OrtGraph::OrtGraph(std::shared_ptr<OrtLibrary> library, const std::filesystem::path &path, const GraphInfo &graph,
                   int threads, const Log &log)
    : library_(std::move(library)), log_(std::make_unique<Log>(log)) {
    const OrtApi *api = library_->api();
    const std::string doing = "ONNX Runtime " + library_->version() + " cannot open " + excerpt(path.string());
    OrtSessionOptions *made = nullptr;
    check_status(api, ORT_CREATE_SESSION_OPTIONS(&made), doing);
    const OrtHandle<OrtSessionOptions> options(made, ORT_RELEASE_SESSION_OPTIONS);
    check_status(api, ORT_SET_LOG_SEVERITY(options.get(), kErrorSeverity), doing);
    check_status(api, ORT_SET_LOGGER(options.get(), pass_on, log_.get()), doing);
    if (threads > 0) check_status(api, ORT_SET_THREADS(options.get(), threads), doing);
    // Waiting threads sleep: those of one graph would take the cores from the other graph, and from the host.
    check_status(api, ORT_ADD_CONFIG_ENTRY(options.get(), "session.intra_op.allow_spinning", "0"), doing);
    if (graph.is_native()) {
        native_description();  // refuses a level that this CPU does not have
        OrtCustomOpDomain *domain = nullptr;
        OrtStatus *status = vprm_add_operators(api, options.get(), &domain);
        operators_ = OrtHandle<OrtCustomOpDomain>(domain, ORT_RELEASE_CUSTOM_OP_DOMAIN);
        check_status(api, status, doing);
    }
    OrtSession *session = nullptr;
    check_status(api, ORT_CREATE_SESSION(library_->env(), path.c_str(), options.get(), &session), doing);
    session_ = OrtHandle<OrtSession>(session, ORT_RELEASE_SESSION);
}

std::vector<std::string> OrtGraph::tensors() const {
    const OrtApi *api = library_->api();
    std::size_t inputs = 0, outputs = 0;
    check_status(api, ORT_INPUT_COUNT_OF_SESSION(session_.get(), &inputs), "a graph has no inputs");
    check_status(api, ORT_OUTPUT_COUNT_OF_SESSION(session_.get(), &outputs), "a graph has no outputs");
    std::vector<std::string> names;
    for (std::size_t i = 0; i < inputs; i++) names.push_back(names_of(api, session_.get(), i, true));
    for (std::size_t i = 0; i < outputs; i++) names.push_back(names_of(api, session_.get(), i, false));
    return names;
}

OrtHandle<OrtValue> OrtGraph::value_of(const Tensor &tensor) const {
    const OrtApi *api = library_->api();
    std::size_t bytes = element_bytes(tensor.type);
    for (const std::int64_t size : tensor.shape) bytes *= static_cast<std::size_t>(size);
    static std::uint8_t nothing;  // an empty tensor needs an address too
    void *data = tensor.data == nullptr ? &nothing : const_cast<void *>(tensor.data);
    OrtValue *value = nullptr;
    OrtStatus *status = ORT_CREATE_TENSOR(library_->cpu_memory(), data, bytes, tensor.shape.data(), tensor.shape.size(),
                                          static_cast<int>(tensor.type), &value);
    check_status(api, status, std::string("cannot pass ") + tensor.name);
    return OrtHandle<OrtValue>(value, ORT_RELEASE_VALUE);
}

void OrtGraph::run(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const {
    const OrtApi *api = library_->api();
    std::vector<OrtHandle<OrtValue>> owned;
    std::vector<const char *> input_names, output_names;
    std::vector<const OrtValue *> given;
    std::vector<OrtValue *> wanted;
    owned.reserve(inputs.size() + outputs.size());
    for (const Tensor &tensor : inputs) {
        owned.push_back(value_of(tensor));
        input_names.push_back(tensor.name);
        given.push_back(owned.back().get());
    }
    for (const Tensor &tensor : outputs) {
        owned.push_back(value_of(tensor));
        output_names.push_back(tensor.name);
        wanted.push_back(owned.back().get());
    }
    OrtStatus *status = ORT_RUN(session_.get(), nullptr, input_names.data(), given.data(), given.size(),
                                output_names.data(), wanted.size(), wanted.data());
    check_status(api, status, "ONNX Runtime failed");
}

}  // namespace vprm::internal
