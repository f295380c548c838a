/* What a Linear does in float32: inputs to codes, sums to results. Plain C that compilers vectorise, compiled for each
 * level from one source: without contraction to fused operations (-ffp-contract=off) all of them give the same bits.
 */
#ifndef VPRM_LINEAR_ROUNDING_H
#define VPRM_LINEAR_ROUNDING_H

#include "int_products.h"
#include "linear_parts.h"

/* A row's inputs as codes. */
typedef struct {
    int8_t *slots; /* of the row: 64 bytes in every KB */
    float *scales;    /* [groups] */
    int32_t *offsets; /* [groups], what a sum of products has too much: -zero times the codes' sum */
    int32_t zero;     /* of stored weights */
} CodedRow;

VPRM_INLINE void code_chunk(const float *from, int64_t count, float factor, int8_t *slot, int32_t *sum) {
    int32_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t code = (int32_t)(float_bits(from[i] * factor + ROUNDER) - float_bits(ROUNDER));
        total += code;
        slot[i] = (int8_t)code;
    }
    *sum += total;
}

VPRM_INLINE void code_row_body(const float *row, int64_t inputs, int64_t group, CodedRow to) {
    const int64_t chunk = group < LINEAR_CHUNK ? group : LINEAR_CHUNK;
    int8_t *slot = to.slots;
    for (int64_t start = 0, g = 0; start < inputs; start += group, g++) {
        const int64_t end = start + group < inputs ? start + group : inputs;
        uint32_t highest = float_bits(1e-20f); /* of rows of zeros, so that they divide by something */
        for (int64_t i = start; i < end; i++) {
            const uint32_t magnitude = float_bits(row[i]) & 0x7FFFFFFF; /* orders like the number; NaN is highest */
            highest = magnitude > highest ? magnitude : highest;
        }
        const bool finite = highest < 0x7F800000;
        const float absmax = finite ? float_of_bits(highest) : NAN;
        to.scales[g] = absmax * (1.0f / 127.0f);
        int32_t sum = 0;
        const float factor = finite ? 127.0f / absmax : 0.0f;
        for (int64_t first = start; first < end; first += chunk, slot += TILE_BYTES) {
            if (end - first >= LINEAR_CHUNK) {
                code_chunk(row + first, LINEAR_CHUNK, factor, slot, &sum);
                continue;
            }
            const int64_t count = end - first < chunk ? end - first : chunk;
            memset(slot, 0, SLOT_BYTES);
            code_chunk(row + first, count, factor, slot, &sum);
        }
        to.offsets[g] = -to.zero * sum;
    }
}

/* Sums of some rows of one group, to what they stand for. */
typedef struct {
    int32_t *sums; /* [rows][64] */
    float *values; /* [rows][64] */
    const float *input_scales;
    const int32_t *offsets;
    int64_t row_step; /* of the two above, from row to row */
    const float *weight_scales[2]; /* of each panel, [32] */
    int rows, panels;
    bool accumulate;
} Folded;

VPRM_INLINE void fold_rows(const Folded *f, const int panels, const bool accumulate) {
    for (int row = 0; row < f->rows; row++) {
        const int32_t offset = f->offsets[row * f->row_step];
        const float scale = f->input_scales[row * f->row_step];
        for (int panel = 0; panel < panels; panel++) {
            const float *restrict weight_scales = f->weight_scales[panel];
            const int32_t *restrict sums = f->sums + row * BLOCK_OUTPUTS + panel * LINEAR_PANEL;
            float *restrict values = f->values + row * BLOCK_OUTPUTS + panel * LINEAR_PANEL;
            for (int i = 0; i < LINEAR_PANEL; i++) {
                const float value = (float)(sums[i] + offset) * (scale * weight_scales[i]);
                values[i] = accumulate ? values[i] + value : value;
            }
        }
    }
}

VPRM_INLINE void fold_body(const Folded *f) {
    if (f->panels == 1) fold_rows(f, 1, f->accumulate);
    else if (f->accumulate) fold_rows(f, 2, true);
    else fold_rows(f, 2, false);
}

/* Stored 4-bit codes [tiles][bytes] to bytes [tiles][2 * bytes]: the low halves, then the high ones. */
VPRM_INLINE void expand_body(const uint8_t *from, uint8_t *to, int tiles, int bytes) {
    for (int tile = 0; tile < tiles; tile++, from += bytes, to += 2 * bytes)
        for (int i = 0; i < bytes; i++) {
            to[i] = from[i] & 15;
            to[bytes + i] = from[i] >> 4;
        }
}

#define BOTH_LEVELS(name, parameters, arguments)                            \
    static VPRM_VNNI void name##_avx512 parameters { name##_body arguments; } \
    static void name##_plain parameters { name##_body arguments; }

BOTH_LEVELS(code_row, (const float *row, int64_t inputs, int64_t group, CodedRow to), (row, inputs, group, to))
BOTH_LEVELS(fold, (const Folded *f), (f))
BOTH_LEVELS(finish, (const VprmLinear *in, float *values, int64_t row, int64_t block, int outputs),
            (in, values, row, block, outputs))
BOTH_LEVELS(expand, (const uint8_t *from, uint8_t *to, int tiles, int bytes), (from, to, tiles, bytes))

#endif
