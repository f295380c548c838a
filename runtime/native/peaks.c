/* What a thread can reach at most: products from registers, and bytes read from memory. For benchmarks. */
#include <immintrin.h>
#include <time.h>

#include "cpu.h"
#include "tiles.h"

#define VPRM_FMA __attribute__((target("avx512f")))

enum { REPEATS = 4096, SUMS = 12 };

/* Operations (two a multiply-add) of REPEATS rounds. `value` keeps compilers from knowing the operands. */
static VPRM_VNNI double int8_avx512(int value) {
    __m512i sums[SUMS], a = _mm512_set1_epi32(value), b = _mm512_set1_epi32(value + 1);
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_setzero_si512();
    for (int n = 0; n < REPEATS; n++) {
        for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 0; i < SUMS; i++) __asm__ volatile("" : : "v"(sums[i]));
    return (double)REPEATS * SUMS * 128;
}

static VPRM_BF16 double bf16_avx512(int value) {
    __m512 sums[SUMS];
    __m512i a = _mm512_set1_epi32(value), b = _mm512_set1_epi32(value + 1);
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_setzero_ps();
    for (int n = 0; n < REPEATS; n++) {
        for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)a, (__m512bh)b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 0; i < SUMS; i++) __asm__ volatile("" : : "v"(sums[i]));
    return (double)REPEATS * SUMS * 64;
}

static VPRM_FMA double fp32_avx512(int value) {
    __m512 sums[SUMS], a = _mm512_set1_ps((float)value), b = _mm512_set1_ps((float)value + 1);
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_setzero_ps();
    for (int n = 0; n < REPEATS; n++) {
        for (int i = 0; i < SUMS; i++) sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 0; i < SUMS; i++) __asm__ volatile("" : : "v"(sums[i]));
    return (double)REPEATS * SUMS * 32;
}

static void load_tiles(void) {
    _Alignas(64) uint8_t zeros[1024] = {0};
    TILE_CONFIGURE();
    TILE_LOAD(4, zeros, 64);
    TILE_LOAD(5, zeros, 64);
    TILE_LOAD(6, zeros, 64);
    TILE_LOAD(7, zeros, 64);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

static double int8_amx(int value) {
    (void)value;
    load_tiles();
    for (int n = 0; n < REPEATS; n++) {
        TILE_PRODUCT_S8U8(0, 4, 6);
        TILE_PRODUCT_S8U8(1, 4, 7);
        TILE_PRODUCT_S8U8(2, 5, 6);
        TILE_PRODUCT_S8U8(3, 5, 7);
    }
    TILE_RELEASE();
    return (double)REPEATS * 4 * 16 * 16 * 64 * 2;
}

static double bf16_amx(int value) {
    (void)value;
    load_tiles();
    for (int n = 0; n < REPEATS; n++) {
        TILE_PRODUCT_BF16(0, 4, 6);
        TILE_PRODUCT_BF16(1, 4, 7);
        TILE_PRODUCT_BF16(2, 5, 6);
        TILE_PRODUCT_BF16(3, 5, 7);
    }
    TILE_RELEASE();
    return (double)REPEATS * 4 * 16 * 16 * 32 * 2;
}

static const struct {
    const char *name;
    VprmLevel level;
    bool bf16;
    double (*rounds)(int value);
} peaks[] = {
    {"avx512_int8", VPRM_AVX512, false, int8_avx512}, {"avx512_bf16", VPRM_AVX512, true, bf16_avx512},
    {"avx512_fp32", VPRM_AVX512, false, fp32_avx512}, {"amx_int8", VPRM_AMX, false, int8_amx},
    {"amx_bf16", VPRM_AMX, true, bf16_amx},
};

static double now_s(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The name of peak number `index`, NULL after the last one. */
VPRM_EXPORT const char *vprm_peak_name(int index) {
    return index >= 0 && (size_t)index < sizeof peaks / sizeof *peaks ? peaks[index].name : NULL;
}

/* Operations a second of one thread: the best of many short stretches in `seconds`; 0 if the CPU cannot do it. */
VPRM_EXPORT double vprm_peak(int index, double seconds) {
    const VprmLevel level = vprm_cpu_level();
    if (vprm_peak_name(index) == NULL || peaks[index].level > level) return 0;
    if (peaks[index].bf16 && !vprm_has_bf16(level)) return 0;
    double best = 0;
    const double end = now_s() + seconds;
    for (double start = now_s(); start < end;) {
        const double operations = peaks[index].rounds(1), stop = now_s(), rate = operations / (stop - start);
        if (rate > best) best = rate;
        start = stop;
    }
    return best;
}

/* Read memory once, in order; `bytes` is rounded down to whole lines. Returns something that depends on all of it. */
VPRM_EXPORT uint64_t vprm_read(const uint64_t *data, size_t bytes) {
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= bytes / sizeof *data; i += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] ^= data[i + lane];
    for (int lane = 1; lane < 8; lane++) sums[0] ^= sums[lane];
    return sums[0];
}
