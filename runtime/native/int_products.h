/* Sums of products of int8 inputs and uint8 weights, exact in int32: AVX-512 VNNI, AMX and plain C.
 *
 * S [rows][64] = or += X W^T for two panels of 32 outputs. Inputs are tiles [rows / 16][all chunks][16][64], weights as
 * linear.h has them at 8 bits. A chunk of fewer than 64 inputs leaves the end of its 64 bytes of inputs zero.
 */
#ifndef VPRM_INT_PRODUCTS_H
#define VPRM_INT_PRODUCTS_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "tile_products.h"

typedef struct {
    const int8_t *inputs;      /* the first row's first chunk of this block */
    const uint8_t *weights[2]; /* a panel's first chunk; the second is NULL for a block of 32 outputs */
    int32_t *sums;             /* [rows][64] */
    ptrdiff_t row_tile_bytes;  /* from 16 rows of inputs to the next */
    int rows, chunks, quads;   /* quads: groups of 4 inputs in a chunk */
    bool accumulate;
} IntProduct;

VPRM_INLINE const int8_t *input_row(const int8_t *inputs, ptrdiff_t row_tile_bytes, int row) {
    return inputs + row / TILE_ROWS * row_tile_bytes + row % TILE_ROWS * SLOT_BYTES;
}

/* 4 inputs of a row in every lane. */
VPRM_INLINE VPRM_VNNI __m512i broadcast_quad(const int8_t *inputs) {
    int32_t four;
    memcpy(&four, inputs, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Where one pass over the weights for at most 6 rows is. */
typedef struct {
    const int8_t *inputs[6];
    const uint8_t *weights[2];
    __m512i sums[6][4];
} VnniPass;

/* One chunk. The constants are known wherever this is called, so that sums live in registers: 6 rows x 4 vectors. */
VPRM_INLINE VPRM_VNNI void vnni_chunk(const IntProduct *p, VnniPass *at, const int rows, const int vectors) {
    const ptrdiff_t tile = p->quads * 64;
    for (int quad = 0; quad < p->quads; quad++) {
        __m512i quads[6];
        for (int r = 0; r < rows; r++) quads[r] = broadcast_quad(at->inputs[r] + 4 * quad);
        for (int v = 0; v < vectors; v++) {
            const __m512i weights = _mm512_loadu_si512(at->weights[v / 2] + v % 2 * tile + 64 * quad);
            for (int r = 0; r < rows; r++) at->sums[r][v] = _mm512_dpbusd_epi32(at->sums[r][v], weights, quads[r]);
        }
    }
    for (int panel = 0; panel < vectors / 2; panel++) at->weights[panel] += 2 * tile;
    for (int r = 0; r < rows; r++) at->inputs[r] += TILE_BYTES;
}

VPRM_INLINE VPRM_VNNI void vnni_rows(const IntProduct *p, int row, const int rows, const int vectors) {
    VnniPass at = {.weights = {p->weights[0], p->weights[1]}};
    int32_t *to = p->sums + row * BLOCK_OUTPUTS;
    for (int r = 0; r < rows; r++) {
        at.inputs[r] = input_row(p->inputs, p->row_tile_bytes, row + r);
        for (int v = 0; v < vectors; v++)
            at.sums[r][v] = p->accumulate ? _mm512_loadu_si512(to + r * BLOCK_OUTPUTS + 16 * v) : _mm512_setzero_si512();
    }
    for (int chunk = 0; chunk < p->chunks; chunk++) vnni_chunk(p, &at, rows, vectors);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_si512(to + r * BLOCK_OUTPUTS + 16 * v, at.sums[r][v]);
}

#define CALL(row, rows) vnni_rows(p, row, rows, vectors)
VPRM_INLINE VPRM_VNNI void vnni_columns(const IntProduct *p, const int vectors) { VPRM_BY_SIX(p->rows, CALL); }
#undef CALL

static VPRM_VNNI void vnni_product(const IntProduct *p) {
    if (p->weights[1] == NULL) vnni_columns(p, 2);
    else vnni_columns(p, 4);
}

static void plain_product(const IntProduct *p) {
    for (int row = 0; row < p->rows; row++)
        for (int half = 0; half < 4; half++) {
            if (p->weights[half / 2] == NULL) continue;
            int32_t sums[16] = {0};
            const int8_t *inputs = input_row(p->inputs, p->row_tile_bytes, row);
            for (int chunk = 0; chunk < p->chunks; chunk++, inputs += TILE_BYTES) {
                const uint8_t *tile = p->weights[half / 2] + (2 * chunk + half % 2) * p->quads * 64;
                for (int quad = 0; quad < p->quads; quad++)
                    for (int output = 0; output < 16; output++)
                        for (int i = 0; i < 4; i++)
                            sums[output] += inputs[4 * quad + i] * tile[64 * quad + 4 * output + i];
            }
            int32_t *to = p->sums + row * BLOCK_OUTPUTS + 16 * half;
            for (int output = 0; output < 16; output++) to[output] = sums[output] + (p->accumulate ? to[output] : 0);
        }
}

/* Chunks are of 64 inputs. */
static void amx_product_int(const IntProduct *p) {
    const TileProduct tiles = {
        .inputs = p->inputs, .weights = {p->weights[0], p->weights[1]}, .sums = p->sums,
        .row_tile_bytes = p->row_tile_bytes, .rows = p->rows, .chunks = p->chunks, .accumulate = p->accumulate,
    };
    tile_product(&tiles, false);
}

#endif
