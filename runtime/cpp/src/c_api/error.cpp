#include "base/error.hpp"

#include "c_api/handles.hpp"

namespace vprm::internal {

namespace {

// Given out if there is no memory for another one; vprm_error_free() knows it.
vprm_error *no_memory() noexcept {
    static vprm_error *const kError = new (std::nothrow) vprm_error{VPRM_MEMORY, "out of memory", "out_of_memory"};
    return kError;
}

vprm_error *made(vprm_error_code code, const char *message, const char *reason) noexcept {
    try {
        return new vprm_error{code, message, reason};
    } catch (...) {
        return no_memory();
    }
}

}  // namespace

vprm_error *current_error() noexcept {
    try {
        throw;
    } catch (const Error &error) {
        return made(static_cast<vprm_error_code>(error.code()), error.what(), error.reason());
    } catch (const std::bad_alloc &) {
        return no_memory();
    } catch (const std::exception &error) {
        return made(VPRM_INTERNAL, error.what(), "internal");
    } catch (...) {
        return made(VPRM_INTERNAL, "an unknown exception", "internal");
    }
}

}  // namespace vprm::internal

using vprm::internal::no_memory;

extern "C" {

const char *vprm_version(void) { return VPRM_VERSION; }
int vprm_abi_version(void) { return VPRM_ABI_VERSION; }

vprm_error_code vprm_error_get_code(const vprm_error *error) {
    return error != nullptr ? error->code : static_cast<vprm_error_code>(0);
}
const char *vprm_error_message(const vprm_error *error) { return error != nullptr ? error->message.c_str() : ""; }
const char *vprm_error_reason(const vprm_error *error) { return error != nullptr ? error->reason.c_str() : ""; }

void vprm_error_free(vprm_error *error) {
    if (error != nullptr && error != no_memory()) delete error;
}

}  // extern "C"
