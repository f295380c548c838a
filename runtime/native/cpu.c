#include "cpu.h"

#include <cpuid.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool amx_permitted(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_bf16(void) {
#ifdef VPRM_WITHOUT_BF16 /* of tests: as on a CPU that lacks it */
    return false;
#endif
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

static VprmLevel found_level(void) {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (!avx512) return VPRM_PLAIN;
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1);
    return tiles && has_bf16() && amx_permitted() ? VPRM_AMX : VPRM_AVX512;
}

VPRM_EXPORT VprmLevel vprm_cpu_level(void) {
    static _Atomic int known = -1;
    int level = atomic_load(&known);
    if (level < 0) atomic_store(&known, level = (int)found_level());
    return (VprmLevel)level;
}

VPRM_EXPORT bool vprm_has_bf16(VprmLevel level) { return level == VPRM_AMX || (level == VPRM_AVX512 && has_bf16()); }

VPRM_EXPORT const char *vprm_choose_level(VprmLevel *level) {
    static const char *const names[] = {"plain", "avx512", "amx"};
    *level = vprm_cpu_level();
    const char *wanted = getenv("VPRM_NATIVE_LEVEL");
    if (wanted == NULL || *wanted == 0) return NULL;
    for (int i = 0; i < 3; i++)
        if (strcmp(wanted, names[i]) == 0) {
            if (i > (int)*level) return "VPRM_NATIVE_LEVEL asks for a level that this CPU does not have";
            *level = (VprmLevel)i;
            return NULL;
        }
    return "VPRM_NATIVE_LEVEL must be plain, avx512 or amx";
}
