// libFuzzer: any bytes as a tokenizer.json, which then encodes a text.
#include "base/error.hpp"
#include "text/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    try {
        const vprm::internal::Tokenizer tokenizer({reinterpret_cast<const char *>(data), size}, {1});
        tokenizer.encode("Don't 12345 <ref>e\xCC\x81</ref>\n\n  \xE2\x96\x81 \xF0\x9F\x99\x82");
    } catch (const vprm::internal::Error &) {
    }
    return 0;
}
