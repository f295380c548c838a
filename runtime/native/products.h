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

#include "cpu.h"
#include "tiles.h"

typedef uint16_t bfloat16;

typedef struct {
    const bfloat16 *a, *b;
    float *c;
    ptrdiff_t a_stride, b_stride, c_stride; /* elements of A, column pairs of B, elements of C from row to row */
    int m, n, k;
    bool accumulate;
} Product;

/* `rows` is a constant wherever this is called, so the sums live in registers: 6 rows x 4 vectors. */
VPRM_INLINE VPRM_BF16 void avx512_rows(const Product *p, int row, int column, const int rows) {
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

#define CALL(row, rows) avx512_rows(p, row, column, rows)
static VPRM_BF16 void avx512_product(const Product *p) {
    for (int column = 0; column < p->n; column += 64) VPRM_BY_SIX(p->m, CALL);
}
#undef CALL

static void amx_product(const Product *p) {
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
                TILE_PRODUCT_BF16(0, 4, 6);
                TILE_PRODUCT_BF16(1, 4, 7);
                TILE_PRODUCT_BF16(2, 5, 6);
                TILE_PRODUCT_BF16(3, 5, 7);
            }
            TILE_STORE(0, upper, c_bytes);
            TILE_STORE(1, upper + 16, c_bytes);
            TILE_STORE(2, lower, c_bytes);
            TILE_STORE(3, lower + 16, c_bytes);
        }
}

#endif
