#include "engine/native.hpp"

#include "base/error.hpp"

namespace vprm::internal {

namespace {

const char *name_of(VprmLevel level) {
    switch (level) {
        case VPRM_AMX: return "AMX";
        case VPRM_AVX512: return "AVX512";
        case VPRM_PLAIN: break;
    }
    return "PLAIN";
}

}  // namespace

std::string native_description() {
    VprmLevel level = VPRM_PLAIN;
    if (const char *problem = vprm_choose_level(&level))
        throw engine_error(std::string(problem) + "; this CPU's best is " + name_of(vprm_cpu_level()) +
                           ": change the variable or leave it out");
    if (level == VPRM_PLAIN) return "PLAIN (slow: the CPU has no AVX-512 VNNI, or VPRM_NATIVE_LEVEL says so)";
    if (vprm_has_bf16(level)) return name_of(level);
    return std::string(name_of(level)) + " (without AVX-512 BF16: attention and bf16 in float32)";
}

}  // namespace vprm::internal
