// Where messages go: to the host's callback, or nowhere.
#pragma once

#include <string>

namespace vprm::internal {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

struct Log {
    void (*callback)(void *context, int level, const char *message) = nullptr;
    void *context = nullptr;

    void write(LogLevel level, const std::string &message) const {
        if (callback != nullptr) callback(context, static_cast<int>(level), message.c_str());
    }
};

}  // namespace vprm::internal
