/* Sums of products of tiles on AMX: S [rows][64] = or += X W^T for two panels of 32 outputs.
 *
 * What differs between int8 inputs with uint8 weights (sums in int32) and bfloat16 (sums in float32) is one instruction:
 * both have tiles of 16 rows x 64 bytes, and sums of 4 bytes.
 */
#ifndef VPRM_TILE_PRODUCTS_H
#define VPRM_TILE_PRODUCTS_H

#include <stdbool.h>

#include "linear_parts.h"
#include "tiles.h"

typedef struct {
    const void *inputs;       /* tiles [rows / 16][all chunks][16][64], from the first row's first chunk of this pass on */
    const void *weights[2];   /* a panel's tiles [chunks][2][16][64]; the second is NULL for a block of 32 outputs */
    void *sums;               /* [rows][64]; has room for whole tiles of rows */
    ptrdiff_t row_tile_bytes; /* from 16 rows of inputs to the next */
    int rows, chunks;
    bool accumulate;
} TileProduct;

enum { SUM_BYTES = 4, SUMS_BYTES = BLOCK_OUTPUTS * SUM_BYTES }; /* of one sum, and from one row of sums to the next */

#define TILE_PRODUCT(sums, a, b)                       \
    do {                                               \
        if (in_bf16) TILE_PRODUCT_BF16(sums, a, b);    \
        else TILE_PRODUCT_S8U8(sums, a, b);            \
    } while (0)

/* 32 rows (or the last 16) times one panel. Rows that are not there are computed and thrown away. */
VPRM_INLINE void tile_panel(const TileProduct *p, int row, int panel, const bool in_bf16) {
    const bool two = row + TILE_ROWS < p->rows;
    uint8_t *upper = (uint8_t *)p->sums + row * SUMS_BYTES + panel * LINEAR_PANEL * SUM_BYTES;
    uint8_t *lower = upper + TILE_ROWS * SUMS_BYTES;
    const uint8_t *a = (const uint8_t *)p->inputs + row / TILE_ROWS * p->row_tile_bytes, *b = p->weights[panel];
    if (p->accumulate) {
        TILE_LOAD(0, upper, SUMS_BYTES);
        TILE_LOAD(1, upper + SLOT_BYTES, SUMS_BYTES);
        if (two) {
            TILE_LOAD(2, lower, SUMS_BYTES);
            TILE_LOAD(3, lower + SLOT_BYTES, SUMS_BYTES);
        }
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (int chunk = 0; chunk < p->chunks; chunk++, a += TILE_BYTES, b += 2 * TILE_BYTES) {
        TILE_LOAD(6, b, SLOT_BYTES);
        TILE_LOAD(4, a, SLOT_BYTES);
        TILE_LOAD(7, b + TILE_BYTES, SLOT_BYTES);
        TILE_PRODUCT(0, 4, 6);
        TILE_PRODUCT(1, 4, 7);
        if (two) {
            TILE_LOAD(5, a + p->row_tile_bytes, SLOT_BYTES);
            TILE_PRODUCT(2, 5, 6);
            TILE_PRODUCT(3, 5, 7);
        }
    }
    TILE_STORE(0, upper, SUMS_BYTES);
    TILE_STORE(1, upper + SLOT_BYTES, SUMS_BYTES);
    if (two) {
        TILE_STORE(2, lower, SUMS_BYTES);
        TILE_STORE(3, lower + SLOT_BYTES, SUMS_BYTES);
    }
}

#undef TILE_PRODUCT

/* `in_bf16` is known wherever this is called. */
VPRM_INLINE void tile_product(const TileProduct *p, const bool in_bf16) {
    for (int row = 0; row < p->rows; row += 2 * TILE_ROWS)
        for (int panel = 0; panel < 2; panel++)
            if (p->weights[panel] != NULL) tile_panel(p, row, panel, in_bf16);
}

#endif
