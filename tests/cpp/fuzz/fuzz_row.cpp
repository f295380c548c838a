// libFuzzer: any bytes as a line of vprm-score's input.
#include "python_json.hpp"
#include "row.hpp"

using namespace vprm::tools;

namespace {

void decode(const RowImage &image) {
    try {
        if (!image.is_path) decoded(image);
    } catch (const std::runtime_error &) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    try {
        const Json record = row_json({reinterpret_cast<const char *>(data), size});
        python_json(record);
        id_of(record, 0);
        for (const RowImage &image : row_of(record, "").images) decode(image);
    } catch (const LineError &) {
    } catch (const RowError &) {
    }
    return 0;
}
