/* What Linears of all weights share: the sizes of their blocks, and what follows a product (bias, activation, residual) in
 * plain C that compilers vectorise; without contraction to fused operations all levels give the same bits.
 */
#ifndef VPRM_LINEAR_PARTS_H
#define VPRM_LINEAR_PARTS_H

#include <math.h>
#include <string.h>

#include "linear.h"

enum { BLOCK_OUTPUTS = 64, TILE_ROWS = 16, TILE_BYTES = 1024, SLOT_BYTES = 64 };

VPRM_INLINE uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

VPRM_INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 1.5 * 2^23: what is added to it is rounded to an integer, ties to even, in the lowest bits. */
#define ROUNDER 12582912.0f

/* e^-x for |x| <= 87, beyond that as if it were there; relative error below 3e-7. */
VPRM_INLINE float exp_of_minus(float x) {
    float power = x * -1.44269504f;
    power = power < -126.0f ? -126.0f : power;
    power = power > 126.0f ? 126.0f : power;
    const float whole = (power + ROUNDER) - ROUNDER, rest = power - whole;
    float sum = 1.5403530e-4f; /* (ln 2)^n / n!, n = 6 .. 0 */
    sum = sum * rest + 1.3333558e-3f;
    sum = sum * rest + 9.6181291e-3f;
    sum = sum * rest + 5.5504109e-2f;
    sum = sum * rest + 2.4022651e-1f;
    sum = sum * rest + 6.9314718e-1f;
    sum = sum * rest + 1.0f;
    return sum * float_of_bits((uint32_t)((int32_t)whole + 127) << 23);
}

VPRM_INLINE float silu(float x) { return x / (1.0f + exp_of_minus(x)); }

/* x times the normal distribution's integral up to x; Abramowitz and Stegun 7.1.26, absolute error below 2e-7 |x|. */
VPRM_INLINE float gelu(float x) {
    const float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float sum = 1.061405429f;
    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    const float tail = 0.5f * sum * t * exp_of_minus(z * z);
    return x * (x < 0 ? tail : 1.0f - tail);
}

/* The last steps for a row of one block: bias, activation, residual. `there` outputs are wanted. */
VPRM_INLINE void finish_body(const VprmLinear *in, float *values, int64_t row, int64_t block, int outputs) {
    const bool gated = in->activation == VPRM_SILU_GATE;
    if (in->bias != NULL)
        for (int i = 0; i < outputs; i++) values[i] += in->bias[block * BLOCK_OUTPUTS + i];
    if (gated)
        for (int i = 0; i < LINEAR_PANEL; i++) values[i] = silu(values[i]) * values[LINEAR_PANEL + i];
    else if (in->activation == VPRM_GELU)
        for (int i = 0; i < outputs; i++) values[i] = gelu(values[i]);
    const int64_t width = gated ? LINEAR_PANEL : BLOCK_OUTPUTS, first = block * width;
    const int64_t left = in->outputs - first, there = left < width ? left : width, at = row * in->outputs + first;
    if (in->residual != NULL)
        for (int64_t i = 0; i < there; i++) in->result[at + i] = values[i] + in->residual[at + i];
    else
        memcpy(in->result + at, values, (size_t)there * sizeof *values);
}

#endif
