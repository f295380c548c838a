// libFuzzer: any bytes as text, for the tokenizer that $VPRM_FUZZ_TOKENIZER names.
#include <cstdlib>

#include "base/error.hpp"
#include "bundle/bundle.hpp"
#include "text/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const auto &tokenizer = *new vprm::internal::Tokenizer(
        vprm::internal::read_file(std::getenv("VPRM_FUZZ_TOKENIZER")), {1});
    try {
        tokenizer.encode({reinterpret_cast<const char *>(data), size});
    } catch (const vprm::internal::Error &) {
    }
    return 0;
}
