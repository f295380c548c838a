/* AMX: eight tiles of 16 rows x 64 bytes, all configured alike. 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B.
 *
 * Written as assembly, since compilers' intrinsics do not all say which memory an instruction reads: GCC 12's
 * _tile_loadconfig names 8 of the configuration's 64 bytes, and the stores of the others were dropped. Here every
 * instruction that touches memory names all of it: the configuration is a constant, tiles clobber memory.
 */
#ifndef VPRM_TILES_H
#define VPRM_TILES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

_Static_assert(sizeof(TileConfig) == 64, "ldtilecfg reads 64 bytes");

static const TileConfig tile_config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

#ifndef VPRM_EMULATE_AMX

#define TILE_CONFIGURE() __asm__ volatile("ldtilecfg %0" : : "m"(tile_config) : "memory")
#define TILE_RELEASE() __asm__ volatile("tilerelease" : : : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define TILE_LOAD(tile, base, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(base), "r"((ptrdiff_t)(stride)) : "memory")
#define TILE_STORE(tile, base, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(base), "r"((ptrdiff_t)(stride)) : "memory")
/* Assembly of AT&T lists the operands from the last to the first. */
#define TILE_PRODUCT_BF16(sums, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sums : :)
#define TILE_PRODUCT_S8U8(sums, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #sums : :)

#else /* the same tiles in plain C, so that the code around them can be tested on any CPU */

static _Thread_local uint8_t emulated_tiles[8][16][64];
static _Thread_local const TileConfig *emulated_config; /* NULL: an instruction on tiles faults */

#define TILE_CONFIGURE() ((void)(emulated_config = &tile_config))
#define TILE_RELEASE() ((void)(emulated_config = NULL))
#define TILE_ZERO(tile) __builtin_memset(emulated_tile(tile), 0, sizeof emulated_tiles[tile])
#define TILE_LOAD(tile, base, stride)         \
    for (int line = 0; line < 16; line++)     \
    __builtin_memcpy(emulated_tile(tile) + 64 * line, (const uint8_t *)(base) + line * (ptrdiff_t)(stride), 64)
#define TILE_STORE(tile, base, stride)        \
    for (int line = 0; line < 16; line++)     \
    __builtin_memcpy((uint8_t *)(base) + line * (ptrdiff_t)(stride), emulated_tile(tile) + 64 * line, 64)
#define TILE_PRODUCT_BF16(sums, a, b) emulated_product_bf16(sums, a, b)
#define TILE_PRODUCT_S8U8(sums, a, b) emulated_product_s8u8(sums, a, b)

static inline uint8_t *emulated_tile(int tile) {
    if (emulated_config == NULL || emulated_config->rows[tile] != 16 || emulated_config->row_bytes[tile] != 64) abort();
    return emulated_tiles[tile][0];
}

static inline float emulated_widened(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

static inline void emulated_product_bf16(int sums, int a, int b) {
    float *to = (float *)emulated_tile(sums);
    const uint16_t *from_a = (const uint16_t *)emulated_tile(a), *from_b = (const uint16_t *)emulated_tile(b);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++)
            for (int k = 0; k < 32; k++)
                to[16 * row + column] += emulated_widened(from_a[32 * row + k]) *
                                         emulated_widened(from_b[32 * (k / 2) + 2 * column + k % 2]);
}

static inline void emulated_product_s8u8(int sums, int a, int b) {
    int32_t *to = (int32_t *)emulated_tile(sums);
    const int8_t *from_a = (const int8_t *)emulated_tile(a);
    const uint8_t *from_b = emulated_tile(b);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++)
            for (int k = 0; k < 64; k++)
                to[16 * row + column] += from_a[64 * row + k] * from_b[64 * (k / 4) + 4 * column + k % 4];
}

#endif
#endif
