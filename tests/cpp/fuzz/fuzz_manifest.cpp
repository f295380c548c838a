// libFuzzer: any bytes as a manifest.
#include "base/error.hpp"
#include "bundle/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    try {
        vprm::internal::Manifest::from_json(text);
        vprm::internal::check_manifest_hash(text);
    } catch (const vprm::internal::Error &) {
    }
    return 0;
}
