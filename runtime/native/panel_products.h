/* A panel of 32 outputs on VNNI, if few rows leave memory to decide or groups of inputs have scales of their own.
 *
 * A pass takes at most 8 rows, whose sums are in registers, over a block of inputs whose weights stay in the L1 cache
 * until the last pass. All passes together fetch the next block, so that memory works while rows are multiplied. 4-bit
 * weights are used as they are stored. A group's sums go from registers to float32 values, in the same arithmetic as
 * fold_rows of linear_rounding.h.
 */
#ifndef VPRM_PANEL_PRODUCTS_H
#define VPRM_PANEL_PRODUCTS_H

#include "int_products.h"
#include "linear_rounding.h"

enum { PASS_ROWS = 8, PAIR_ROWS = 4 };

/* A block of inputs of one panel, or of two for at most PAIR_ROWS rows: memory gives more from two places. */
typedef struct {
    const int8_t *inputs;            /* the first row's first chunk */
    ptrdiff_t row_tile_bytes;        /* from 16 rows of inputs to the next */
    const uint8_t *weights[2];       /* as stored; the second is NULL for one panel */
    ptrdiff_t ahead;                 /* bytes from these weights to those that are read next */
    Folded fold;                     /* of the first group; sums and values of the first panel */
    int rows, groups, chunks, quads; /* groups of so many chunks; without groups one, whose sums are kept */
    bool accumulate;                 /* these sums */
} PanelProduct;

typedef struct {
    int row, number, passes;
} Pass;

/* In place: with the intrinsic, GCC 12 copies most sums from register to register in every round. */
#define ADD_PRODUCTS(sums, weights, inputs) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(inputs))

VPRM_INLINE VPRM_VNNI void panel_quad(const int8_t *inputs, const __m512i weights[4], __m512i sums[PASS_ROWS][4],
                                      const int rows, const int vectors) {
    for (int r = 0; r < rows; r++) {
        const __m512i four = broadcast_quad(inputs + r * SLOT_BYTES);
        for (int v = 0; v < vectors; v++) ADD_PRODUCTS(sums[r][v], weights[v], four);
    }
}

/* One chunk. The constants are known wherever this is called, so that sums live in registers. `ahead` 0: no fetching. */
VPRM_INLINE VPRM_VNNI void panel_chunk(const int8_t *inputs, const uint8_t *const weights[2], ptrdiff_t ahead, int quads,
                                       __m512i sums[PASS_ROWS][4], const int rows, const int vectors, const int bits) {
    const int half = quads / 2;
    const ptrdiff_t tile = quads * 8 * bits;
    for (int quad = 0; quad < (bits == 8 ? quads : half); quad++) {
        __m512i low[4], high[4];
        for (int v = 0; v < vectors; v++) {
            const uint8_t *stored = weights[v / 2] + v % 2 * tile + 64 * quad;
            low[v] = _mm512_loadu_si512(stored);
            if (ahead) _mm_prefetch((const char *)stored + ahead, _MM_HINT_T0);
            if (bits == 8) continue;
            high[v] = _mm512_and_si512(_mm512_srli_epi16(low[v], 4), _mm512_set1_epi8(15));
            low[v] = _mm512_and_si512(low[v], _mm512_set1_epi8(15));
        }
        panel_quad(inputs + 4 * quad, low, sums, rows, vectors);
        if (bits == 4) panel_quad(inputs + 4 * (half + quad), high, sums, rows, vectors);
    }
}

/* One group's part of the values of some rows. */
VPRM_INLINE VPRM_VNNI void fold_group(const Folded *f, int group, int row, const __m512i sums[PASS_ROWS][4],
                                      const int rows, const int vectors) {
    const bool accumulate = f->accumulate || group > 0;
    __m512 scales[4];
    for (int v = 0; v < vectors; v++)
        scales[v] = _mm512_loadu_ps(f->weight_scales[v / 2] + group * LINEAR_PANEL + v % 2 * 16);
    for (int r = 0; r < rows; r++) {
        const __m512 scale = _mm512_set1_ps(f->input_scales[(row + r) * f->row_step + group]);
        float *values = f->values + (row + r) * BLOCK_OUTPUTS;
        for (int v = 0; v < vectors; v++) {
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_mul_ps(scale, scales[v]));
            if (accumulate) value = _mm512_add_ps(_mm512_loadu_ps(values + 16 * v), value);
            _mm512_storeu_ps(values + 16 * v, value);
        }
    }
}

VPRM_INLINE VPRM_VNNI void panel_pass(const PanelProduct *p, Pass pass, const int rows, const int vectors,
                                      const int bits, const bool grouped) {
    const int8_t *inputs = input_row(p->inputs, p->row_tile_bytes, pass.row);
    const ptrdiff_t chunk_bytes = 2 * p->quads * 8 * bits;
    const uint8_t *weights[2] = {p->weights[0], p->weights[1]};
    const Folded *f = &p->fold;
    int wait = pass.number; /* chunks until it is this pass's turn to fetch */
    for (int group = 0; group < p->groups; group++) {
        __m512i sums[PASS_ROWS][4];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                const int32_t *kept = f->sums + (pass.row + r) * BLOCK_OUTPUTS + 16 * v;
                if (grouped) sums[r][v] = _mm512_set1_epi32(f->offsets[(pass.row + r) * f->row_step + group]);
                else sums[r][v] = p->accumulate ? _mm512_loadu_si512(kept) : _mm512_setzero_si512();
            }
        for (int chunk = 0; chunk < p->chunks; chunk++) {
            if (wait == 0) panel_chunk(inputs, weights, p->ahead, p->quads, sums, rows, vectors, bits);
            else panel_chunk(inputs, weights, 0, p->quads, sums, rows, vectors, bits);
            wait = wait == 0 ? pass.passes - 1 : wait - 1;
            inputs += TILE_BYTES;
            for (int panel = 0; panel < vectors / 2; panel++) weights[panel] += chunk_bytes;
        }
        if (grouped) {
            fold_group(f, group, pass.row, sums, rows, vectors);
            continue;
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                _mm512_storeu_si512(f->sums + (pass.row + r) * BLOCK_OUTPUTS + 16 * v, sums[r][v]);
    }
}

/* The rows of each tile in one pass, or in two that are about as long. */
VPRM_INLINE VPRM_VNNI void panel_passes(const PanelProduct *p, const int bits, const bool grouped) {
    const Pass only = {.passes = 1};
    if (p->weights[1] != NULL) {
        switch (p->rows) {
            case 1: panel_pass(p, only, 1, 4, bits, grouped); break;
            case 2: panel_pass(p, only, 2, 4, bits, grouped); break;
            case 3: panel_pass(p, only, 3, 4, bits, grouped); break;
            case 4: panel_pass(p, only, 4, 4, bits, grouped); break;
        }
        return;
    }
    const int last = p->rows % TILE_ROWS;
    Pass pass = {.passes = p->rows / TILE_ROWS * 2 + (last > PASS_ROWS) + (last > 0)};
    for (int start = 0; start < p->rows; start += TILE_ROWS) {
        const int end = p->rows < start + TILE_ROWS ? p->rows : start + TILE_ROWS;
        const int most = end - start > PASS_ROWS ? (end - start + 1) / 2 : end - start;
        for (pass.row = start; pass.row < end; pass.row += most, pass.number++)
            switch (end - pass.row < most ? end - pass.row : most) {
                case 1: panel_pass(p, pass, 1, 2, bits, grouped); break;
                case 2: panel_pass(p, pass, 2, 2, bits, grouped); break;
                case 3: panel_pass(p, pass, 3, 2, bits, grouped); break;
                case 4: panel_pass(p, pass, 4, 2, bits, grouped); break;
                case 5: panel_pass(p, pass, 5, 2, bits, grouped); break;
                case 6: panel_pass(p, pass, 6, 2, bits, grouped); break;
                case 7: panel_pass(p, pass, 7, 2, bits, grouped); break;
                case 8: panel_pass(p, pass, 8, 2, bits, grouped); break;
            }
    }
}

static VPRM_VNNI void panel_product(const PanelProduct *p) { panel_passes(p, 8, false); }
static VPRM_VNNI void panel_product_grouped_8(const PanelProduct *p) { panel_passes(p, 8, true); }
static VPRM_VNNI void panel_product_grouped_4(const PanelProduct *p) { panel_passes(p, 4, true); }

#endif
