/* C [m, n] (float32) = or += A [m, k] B [k, n], bfloat16 products summed in float32: AVX-512 and AMX.
 *
 * A has its rows one behind the other. B is stored in pairs of rows, as both instruction sets want it:
 * B[k / 2][column][2]. n is a multiple of 64, k of 32; for AMX m is a multiple of 32.
 */
#ifndef VPRM_PRODUCTS_H
#define VPRM_PRODUCTS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VPRM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define VPRM_INLINE static inline __attribute__((always_inline))

typedef uint16_t bfloat16;

typedef struct {
    const bfloat16 *a, *b;
    float *c;
    ptrdiff_t a_stride, b_stride, c_stride; /* elements of A, column pairs of B, elements of C from row to row */
    int m, n, k;
    bool accumulate;
} Product;

/* `rows` is a constant wherever this is called, so the sums live in registers: 6 rows x 4 vectors. */
VPRM_INLINE VPRM_AVX512 void avx512_rows(const Product *p, int row, int column, const int rows) {
    __m512 sums[6][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++)
            sums[r][v] = p->accumulate ? _mm512_loadu_ps(p->c + (row + r) * p->c_stride + column + 16 * v)
                                       : _mm512_setzero_ps();
    const bfloat16 *a = p->a + row * p->a_stride;
    const bfloat16 *b = p->b + 2 * column;
    for (int pair = 0; pair < p->k / 2; pair++) {
        __m512bh columns[4];
        for (int v = 0; v < 4; v++)
            columns[v] = (__m512bh)_mm512_loadu_si512(b + 2 * p->b_stride * pair + 32 * v);
        for (int r = 0; r < rows; r++) {
            int32_t both;
            __builtin_memcpy(&both, a + r * p->a_stride + 2 * pair, sizeof both);
            for (int v = 0; v < 4; v++)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], columns[v], (__m512bh)_mm512_set1_epi32(both));
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++)
            _mm512_storeu_ps(p->c + (row + r) * p->c_stride + column + 16 * v, sums[r][v]);
}

static VPRM_AVX512 void avx512_product(const Product *p) {
    for (int column = 0; column < p->n; column += 64) {
        int row = 0;
        for (; row + 6 <= p->m; row += 6) avx512_rows(p, row, column, 6);
        switch (p->m - row) {
            case 5: avx512_rows(p, row, column, 5); break;
            case 4: avx512_rows(p, row, column, 4); break;
            case 3: avx512_rows(p, row, column, 3); break;
            case 2: avx512_rows(p, row, column, 2); break;
            case 1: avx512_rows(p, row, column, 1); break;
        }
    }
}

/* Tiles of 16 rows x 64 bytes: 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

#ifdef VPRM_EMULATE_AMX /* the same tiles in plain C, so that the code around them can be tested on any CPU */
static _Thread_local uint8_t emulated_tiles[8][16][64];
#define VPRM_AMX
#define TILE_CONFIGURE(config) ((void)(config))
#define TILE_RELEASE() ((void)0)
#define TILE_ZERO(tile) __builtin_memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile])
#define TILE_LOAD(tile, base, stride)                                                    \
    for (int line = 0; line < 16; line++)                                                \
    __builtin_memcpy(emulated_tiles[tile][line], (const uint8_t *)(base) + line * (stride), 64)
#define TILE_STORE(tile, base, stride)                                                   \
    for (int line = 0; line < 16; line++)                                                \
    __builtin_memcpy((uint8_t *)(base) + line * (stride), emulated_tiles[tile][line], 64)
#define TILE_PRODUCT(sums, a, b) emulated_product(sums, a, b)
VPRM_INLINE float widened(bfloat16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}
static void emulated_product(int sums, int a, int b) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            float *sum = (float *)emulated_tiles[sums][row] + column;
            for (int k = 0; k < 32; k++)
                *sum += widened(((bfloat16 *)emulated_tiles[a][row])[k]) *
                        widened(((bfloat16 *)emulated_tiles[b][k / 2])[2 * column + k % 2]);
        }
}
#else
#define VPRM_AMX __attribute__((target("amx-tile,amx-bf16")))
#define TILE_CONFIGURE(config) _tile_loadconfig(config)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, base, stride) _tile_loadd(tile, base, stride)
#define TILE_STORE(tile, base, stride) _tile_stored(tile, base, stride)
#define TILE_PRODUCT(sums, a, b) _tile_dpbf16ps(sums, a, b)
#endif

static VPRM_AMX void amx_begin(void) {
    TileConfig config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = 64, config.rows[tile] = 16;
    TILE_CONFIGURE(&config);
}

static VPRM_AMX void amx_end(void) { TILE_RELEASE(); }

static VPRM_AMX void amx_product(const Product *p) {
    const ptrdiff_t a_bytes = 2 * p->a_stride, b_bytes = 4 * p->b_stride, c_bytes = 4 * p->c_stride;
    for (int row = 0; row < p->m; row += 32)
        for (int column = 0; column < p->n; column += 32) {
            float *upper = p->c + row * p->c_stride + column, *lower = upper + 16 * p->c_stride;
            if (p->accumulate) {
                TILE_LOAD(0, upper, c_bytes);
                TILE_LOAD(1, upper + 16, c_bytes);
                TILE_LOAD(2, lower, c_bytes);
                TILE_LOAD(3, lower + 16, c_bytes);
            } else {
                TILE_ZERO(0);
                TILE_ZERO(1);
                TILE_ZERO(2);
                TILE_ZERO(3);
            }
            for (int k = 0; k < p->k; k += 32) {
                const bfloat16 *a = p->a + row * p->a_stride + k;
                const bfloat16 *b = p->b + k * p->b_stride + 2 * column;
                TILE_LOAD(4, a, a_bytes);
                TILE_LOAD(5, a + 16 * p->a_stride, a_bytes);
                TILE_LOAD(6, b, b_bytes);
                TILE_LOAD(7, b + 32, b_bytes);
                TILE_PRODUCT(0, 4, 6);
                TILE_PRODUCT(1, 4, 7);
                TILE_PRODUCT(2, 5, 6);
                TILE_PRODUCT(3, 5, 7);
            }
            TILE_STORE(0, upper, c_bytes);
            TILE_STORE(1, upper + 16, c_bytes);
            TILE_STORE(2, lower, c_bytes);
            TILE_STORE(3, lower + 16, c_bytes);
        }
}

#endif
