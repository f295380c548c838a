/* Levels: what the operators use of a CPU, and how code is compiled for them.
 *
 *     plain    any x86-64
 *     avx512   AVX-512 F, BW, VL and VNNI; BF16 if the CPU has it: without it attention is plain, and Linears in bfloat16
 *              multiply in float32
 *     amx      AMX INT8 and BF16, beside AVX-512
 */
#ifndef VPRM_CPU_H
#define VPRM_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { VPRM_PLAIN = 0, VPRM_AVX512 = 1, VPRM_AMX = 2 } VprmLevel;

#define VPRM_INLINE static inline __attribute__((always_inline))
#define VPRM_EXPORT __attribute__((visibility("default")))
#define VPRM_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define VPRM_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

/* Runs work(context, index) for every index below count, on any number of threads; returns when all are done. */
typedef void (*VprmParallelFor)(void *pool, void (*work)(void *context, size_t index), size_t count, void *context);

/* The best level of this CPU and its system, asked once. */
VprmLevel vprm_cpu_level(void);

/* Whether a level that the CPU supports has products of bfloat16. */
bool vprm_has_bf16(VprmLevel level);

/* The level to run at: the CPU's best, or what the environment's VPRM_NATIVE_LEVEL (plain, avx512, amx) says. Returns
 * NULL, or what is wrong with that. */
const char *vprm_choose_level(VprmLevel *level);

/* call(row, rows) for all rows, by 6 and then the rest, with `rows` a constant. */
#define VPRM_BY_SIX(count, call)                \
    do {                                        \
        int row = 0;                            \
        for (; row + 6 <= (count); row += 6) call(row, 6); \
        switch ((count) - row) {                \
            case 5: call(row, 5); break;        \
            case 4: call(row, 4); break;        \
            case 3: call(row, 3); break;        \
            case 2: call(row, 2); break;        \
            case 1: call(row, 1); break;        \
        }                                       \
    } while (0)

#endif
