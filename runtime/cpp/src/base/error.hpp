// Errors inside the library. They are exceptions here and become `vprm_error` objects at the C interface.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace vprm::internal {

enum class ErrorCode { kBundle = 1, kUnsupported, kInput, kEngine, kCancelled, kDeadline, kBusy, kMemory, kInternal };

// `reason` names the cause for programs, as the Python package's errors do; it stays when a message is worded anew.
class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string &message, const char *reason = nullptr)
        : std::runtime_error(message), code_(code), reason_(reason != nullptr ? reason : default_reason(code)) {}

    ErrorCode code() const { return code_; }
    const char *reason() const { return reason_; }

  private:
    static const char *default_reason(ErrorCode code) {
        switch (code) {
            case ErrorCode::kBundle: return "bundle";
            case ErrorCode::kUnsupported: return "unsupported";
            case ErrorCode::kInput: return "invalid_input";
            case ErrorCode::kEngine: return "engine";
            case ErrorCode::kCancelled: return "cancelled";
            case ErrorCode::kDeadline: return "deadline";
            case ErrorCode::kBusy: return "busy";
            case ErrorCode::kMemory: return "out_of_memory";
            case ErrorCode::kInternal: return "internal";
        }
        return "internal";
    }

    ErrorCode code_;
    const char *reason_;
};

inline Error bundle_error(const std::string &message) { return Error(ErrorCode::kBundle, message); }
inline Error unsupported(const std::string &message) { return Error(ErrorCode::kUnsupported, message); }
inline Error input_error(const std::string &message, const char *reason = nullptr) {
    return Error(ErrorCode::kInput, message, reason);
}
inline Error engine_error(const std::string &message, const char *reason = nullptr) {
    return Error(ErrorCode::kEngine, message, reason);
}

// At most 200 bytes of a user's or a file's text, cut between characters, control characters as '?'.
std::string excerpt(std::string_view text);

}  // namespace vprm::internal
