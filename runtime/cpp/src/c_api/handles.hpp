// What the opaque handles of the C interface hold, and how exceptions become error objects.
#pragma once

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "scoring/prefix_pool.hpp"
#include "scoring/session.hpp"
#include "vprm/vprm.h"

struct vprm_error {
    vprm_error_code code;
    std::string message, reason;
};

struct vprm_model_options {
    vprm::internal::ModelOptions options;
};

struct vprm_model {
    std::shared_ptr<const vprm::internal::Model> model;
    std::shared_ptr<vprm::internal::PrefixPool> pool;
    std::string description;
};

struct vprm_input {
    vprm::internal::Input input;
};

struct vprm_responses {
    std::vector<vprm::internal::Response> responses;
    vprm::internal::ResponseOptions options;
};

struct vprm_result {
    vprm::internal::ScoreResult result;
};

struct vprm_session {
    std::unique_ptr<vprm::internal::Session> session;
    std::shared_ptr<vprm::internal::PrefixPool> pool;
};

struct vprm_cancel {
    vprm::internal::Cancellation cancellation;
};

namespace vprm::internal {

// The error object of the exception that is being handled. Never throws: memory failures have an object of their own.
vprm_error *current_error() noexcept;

// Runs `work`; its exception becomes the error object.
template <typename Work>
vprm_error *guarded(Work &&work) noexcept {
    try {
        work();
        return nullptr;
    } catch (...) {
        return current_error();
    }
}

// Throws an input error if a required argument is NULL.
template <typename... Pointers>
void require(Pointers... pointers) {
    for (const bool is_missing : {pointers == nullptr...})
        if (is_missing) throw input_error("a required argument is NULL");
}

// A text argument, copied.
inline std::string text_argument(const char *text, std::size_t bytes) {
    if (text == nullptr && bytes > 0) throw input_error("a text is NULL");
    return bytes > 0 ? std::string(text, bytes) : std::string();
}

inline const Cancellation *cancellation_of(const vprm_cancel *cancel) {
    return cancel == nullptr ? nullptr : &cancel->cancellation;
}

}  // namespace vprm::internal
