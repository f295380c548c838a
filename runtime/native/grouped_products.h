/* Rows times weights whose groups of inputs have scales of their own, on VNNI: each group's sums go from registers to
 * float32 values, in the same arithmetic as fold_rows of linear_rounding.h.
 */
#ifndef VPRM_GROUPED_PRODUCTS_H
#define VPRM_GROUPED_PRODUCTS_H

#include "int_products.h"
#include "linear_rounding.h"

/* One group's part of `folded.values` of some rows. */
VPRM_INLINE VPRM_VNNI void add_group(const Folded *f, const VnniPass *at, int row, const int rows, const int vectors) {
    for (int r = 0; r < rows; r++) {
        const __m512i offset = _mm512_set1_epi32(f->zero * f->code_sums[(row + r) * f->row_step]);
        const __m512 scale = _mm512_set1_ps(f->input_scales[(row + r) * f->row_step]);
        float *values = f->values + (row + r) * BLOCK_OUTPUTS;
        for (int v = 0; v < vectors; v++) {
            const __m512 scales = _mm512_mul_ps(scale, _mm512_loadu_ps(f->weight_scales[v / 2] + v % 2 * 16));
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(at->sums[r][v], offset)), scales);
            if (f->accumulate) value = _mm512_add_ps(_mm512_loadu_ps(values + 16 * v), value);
            _mm512_storeu_ps(values + 16 * v, value);
        }
    }
}

/* `groups` groups of p->chunks chunks each, the first one's scales in `first`. */
VPRM_INLINE VPRM_VNNI void grouped_rows(const IntProduct *p, const Folded *first, int groups, int row, const int rows,
                                        const int vectors, const int bits) {
    VnniPass at = {.weights = {p->weights[0], p->weights[1]}};
    for (int r = 0; r < rows; r++) at.inputs[r] = input_row(p, row + r);
    Folded f = *first;
    const uint32_t fetches = fetch_mask(p, row);
    for (int group = 0; group < groups; group++) {
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) at.sums[r][v] = _mm512_setzero_si512();
        for (int chunk = 0; chunk < p->chunks; chunk++)
            vnni_chunk(p, &at, group * p->chunks + chunk, fetches, rows, vectors, bits);
        add_group(&f, &at, row, rows, vectors);
        f.input_scales++, f.code_sums++, f.accumulate = true;
        f.weight_scales[0] += LINEAR_PANEL, f.weight_scales[1] += LINEAR_PANEL;
    }
}

#define CALL(row, rows) grouped_rows(p, first, groups, row, rows, vectors, bits)
VPRM_INLINE VPRM_VNNI void grouped_columns(const IntProduct *p, const Folded *first, int groups, const int vectors,
                                           const int bits) {
    VPRM_BY_SIX(p->rows, CALL);
}
#undef CALL

/* Adds products of some groups to first->values, or begins with them. */
static VPRM_VNNI void vnni_grouped_product(const IntProduct *p, const Folded *first, int groups, int bits) {
    if (p->weights[1] == NULL) {
        if (bits == 8) grouped_columns(p, first, groups, 2, 8);
        else grouped_columns(p, first, groups, 2, 4);
    } else if (bits == 8) grouped_columns(p, first, groups, 4, 8);
    else grouped_columns(p, first, groups, 4, 4);
}

#endif
