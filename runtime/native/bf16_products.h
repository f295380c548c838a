/* Sums of products of bfloat16 inputs and weights in float32: AVX-512 BF16, AVX-512 with fused float32, AMX and plain C.
 *
 * S [rows][64] = or += X W^T for two panels of 32 outputs. Inputs are tiles [rows / 16][all chunks][16][32], weights as
 * linear.h has them.
 */
#ifndef VPRM_BF16_PRODUCTS_H
#define VPRM_BF16_PRODUCTS_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "tile_products.h"

enum { BF16_CHUNK = 32, BF16_TILE = 512, BF16_PANEL_CHUNK = 2 * BF16_TILE, BF16_PAIRS = 16 }; /* in numbers */

typedef uint16_t bfloat16;

typedef struct {
    const bfloat16 *inputs;     /* the first row's first chunk of this pass */
    const bfloat16 *weights[2]; /* a panel's first chunk; the second is NULL for a block of 32 outputs */
    float *sums;                /* [rows][64] */
    ptrdiff_t row_tile;         /* from 16 rows of inputs to the next */
    int rows, chunks;
    bool accumulate;
} Bf16Product;

VPRM_INLINE const bfloat16 *bf16_row(const Bf16Product *p, int row) {
    return p->inputs + row / TILE_ROWS * p->row_tile + row % TILE_ROWS * BF16_CHUNK;
}

/* Two inputs of a row, the first in the lower half. */
VPRM_INLINE uint32_t pair_at(const bfloat16 *inputs) {
    uint32_t pair;
    memcpy(&pair, inputs, sizeof pair);
    return pair;
}

/* The second number of a pair, and the first, as float32. */
VPRM_INLINE float second_of(uint32_t pair) { return float_of_bits(pair & 0xFFFF0000); }
VPRM_INLINE float first_of(uint32_t pair) { return float_of_bits(pair << 16); }

enum { FETCHED_AHEAD = 2048 }; /* bytes of each stream of weights: while rows are few, memory decides */

/* `rows` and `vectors` are known wherever this is called, so that sums live in registers: 6 rows x 4 vectors. */
VPRM_INLINE VPRM_BF16 void bf16_rows(const Bf16Product *p, int row, const int rows, const int vectors) {
    const bfloat16 *weights[2] = {p->weights[0], p->weights[1]}, *inputs[6];
    float *to = p->sums + row * BLOCK_OUTPUTS;
    __m512 sums[6][4];
    for (int r = 0; r < rows; r++) {
        inputs[r] = bf16_row(p, row + r);
        for (int v = 0; v < vectors; v++)
            sums[r][v] = p->accumulate ? _mm512_loadu_ps(to + r * BLOCK_OUTPUTS + 16 * v) : _mm512_setzero_ps();
    }
    for (int chunk = 0; chunk < p->chunks; chunk++) {
        for (int pair = 0; pair < BF16_PAIRS; pair++) {
            __m512bh columns[4];
            for (int v = 0; v < vectors; v++) {
                const bfloat16 *from = weights[v / 2] + v % 2 * BF16_TILE + 2 * BF16_PAIRS * pair;
                if (row == 0) _mm_prefetch((const char *)from + FETCHED_AHEAD, _MM_HINT_T0);
                columns[v] = (__m512bh)_mm512_loadu_si512(from);
            }
            for (int r = 0; r < rows; r++) {
                const __m512bh both = (__m512bh)_mm512_set1_epi32((int)pair_at(inputs[r] + 2 * pair));
                for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], columns[v], both);
            }
        }
        for (int panel = 0; panel < vectors / 2; panel++) weights[panel] += BF16_PANEL_CHUNK;
        for (int r = 0; r < rows; r++) inputs[r] += BF16_TILE;
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(to + r * BLOCK_OUTPUTS + 16 * v, sums[r][v]);
}

#define CALL(row, rows) bf16_rows(p, row, rows, vectors)
VPRM_INLINE VPRM_BF16 void bf16_columns(const Bf16Product *p, const int vectors) { VPRM_BY_SIX(p->rows, CALL); }
#undef CALL

static VPRM_BF16 void bf16_product_avx512(const Bf16Product *p) {
    if (p->weights[1] == NULL) bf16_columns(p, 2);
    else bf16_columns(p, 4);
}

/* The same where AVX-512 has no BF16: 16 outputs of up to 6 rows at a time. */
VPRM_INLINE VPRM_VNNI void fma_rows(const Bf16Product *p, int row, const int rows) {
    for (int v = 0; v < (p->weights[1] == NULL ? 2 : 4); v++) {
        float *to = p->sums + row * BLOCK_OUTPUTS + 16 * v;
        __m512 sums[6];
        for (int r = 0; r < rows; r++)
            sums[r] = p->accumulate ? _mm512_loadu_ps(to + r * BLOCK_OUTPUTS) : _mm512_setzero_ps();
        for (int chunk = 0; chunk < p->chunks; chunk++) {
            const bfloat16 *tile = p->weights[v / 2] + chunk * BF16_PANEL_CHUNK + v % 2 * BF16_TILE;
            for (int pair = 0; pair < BF16_PAIRS; pair++) {
                const __m512i both = _mm512_loadu_si512(tile + 2 * BF16_PAIRS * pair);
                const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xFFFF0000)));
                const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
                for (int r = 0; r < rows; r++) {
                    const uint32_t inputs = pair_at(bf16_row(p, row + r) + chunk * BF16_TILE + 2 * pair);
                    sums[r] = _mm512_fmadd_ps(second, _mm512_set1_ps(second_of(inputs)), sums[r]);
                    sums[r] = _mm512_fmadd_ps(first, _mm512_set1_ps(first_of(inputs)), sums[r]);
                }
            }
        }
        for (int r = 0; r < rows; r++) _mm512_storeu_ps(to + r * BLOCK_OUTPUTS, sums[r]);
    }
}

#define CALL(row, rows) fma_rows(p, row, rows)
static VPRM_VNNI void bf16_product_fma(const Bf16Product *p) { VPRM_BY_SIX(p->rows, CALL); }
#undef CALL

static void bf16_product_plain(const Bf16Product *p) {
    for (int row = 0; row < p->rows; row++)
        for (int half = 0; half < (p->weights[1] == NULL ? 2 : 4); half++) {
            float *to = p->sums + row * BLOCK_OUTPUTS + 16 * half, sums[16];
            for (int output = 0; output < 16; output++) sums[output] = p->accumulate ? to[output] : 0;
            for (int chunk = 0; chunk < p->chunks; chunk++) {
                const bfloat16 *tile = p->weights[half / 2] + chunk * BF16_PANEL_CHUNK + half % 2 * BF16_TILE;
                const bfloat16 *inputs = bf16_row(p, row) + chunk * BF16_TILE;
                for (int pair = 0; pair < BF16_PAIRS; pair++) {
                    const uint32_t x = pair_at(inputs + 2 * pair);
                    for (int output = 0; output < 16; output++) {
                        const uint32_t w = pair_at(tile + 2 * (BF16_PAIRS * pair + output));
                        sums[output] += second_of(x) * second_of(w);
                        sums[output] += first_of(x) * first_of(w);
                    }
                }
            }
            memcpy(to, sums, sizeof sums);
        }
}

static void bf16_product_amx(const Bf16Product *p) {
    const TileProduct tiles = {
        .inputs = p->inputs, .weights = {p->weights[0], p->weights[1]}, .sums = p->sums,
        .row_tile_bytes = p->row_tile * (ptrdiff_t)sizeof *p->inputs, .rows = p->rows, .chunks = p->chunks,
        .accumulate = p->accumulate,
    };
    tile_product(&tiles, true);
}

#endif
