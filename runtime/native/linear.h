/* Y = f(X W^T): Linears with 8- or 4-bit weights and inputs rounded to 8 bits when they come, or with both in bfloat16,
 * for x86-64 CPUs.
 *
 * Integers: inputs are rounded per row and group of columns: code = round(x * 127 / absmax). Weights are stored as unsigned codes
 * (8 bits: code + 128, 4 bits: code + 8), so a product is sum(code_x * stored_w) - zero * sum(code_x): what VNNI and AMX
 * multiply, signed by unsigned. Sums are exact, and what follows them is the same float32 arithmetic at every level, so
 * every level gives the same bits. bfloat16: linear_bf16.c says what is equal and what is not.
 *
 * The weights' layout is the order in which all levels read them. Outputs are padded to panels of 32, inputs are cut
 * into chunks of 64, or of a group if that is smaller (one group for all inputs: padded to 64):
 *
 *     8 bits   uint8 [panels][chunks][2][chunk / 4][16][4]   a tile of AMX: 16 outputs, 4 neighbouring inputs of each
 *     4 bits   uint8 [panels][chunks][2][chunk / 8][16][4]   low half: the first half of the chunk, high half: the second
 *     16 bits  bfloat16 [panels][inputs / 32][2][16][16][2]  a tile of AMX: 16 outputs, 2 neighbouring inputs of each
 *
 * With VPRM_SILU_GATE panels alternate, 32 gates and 32 values that they gate: y = silu(gate) * value.
 */
#ifndef VPRM_LINEAR_H
#define VPRM_LINEAR_H

#include "cpu.h"

typedef enum { VPRM_IDENTITY = 0, VPRM_SILU_GATE = 1, VPRM_GELU = 2 } VprmActivation;

typedef struct {
    const float *input;    /* [rows, inputs] */
    const uint8_t *weight; /* as above */
    const float *scale;    /* [panels, groups, 32]: what a block of outputs reads is together; unused with 16 bits */
    const float *bias;     /* [padded outputs], NULL: none */
    const float *residual; /* [rows, outputs], added last; NULL: none */
    float *result;         /* [rows, outputs]; NaN in rows whose inputs are not all finite */
    int64_t rows, inputs;
    int64_t outputs; /* of the result: with VPRM_SILU_GATE half of the weight's */
    int64_t group;   /* inputs that share a scale: 0 for all, else a multiple of 16 that divides `inputs` */
    int32_t bits;    /* 4, 8, or 16: bfloat16 */
    int32_t activation;
} VprmLinear;

enum { LINEAR_PANEL = 32, LINEAR_CHUNK = 64 };

/* Bytes of the weight and floats of a row of scales that a Linear of these sizes has. */
int64_t vprm_linear_weight_bytes(const VprmLinear *linear);
int64_t vprm_linear_padded_outputs(const VprmLinear *linear);

/* NULL, or what is wrong with sizes and numbers of a Linear. */
const char *vprm_linear_problem(const VprmLinear *linear);

/* False where memory is not to be had. `level` must be one that the CPU supports. */
bool vprm_linear(const VprmLinear *linear, VprmLevel level, VprmParallelFor parallel_for, void *pool);

/* What vprm_linear does with 16 bits. */
bool vprm_linear_bf16(const VprmLinear *linear, VprmLevel level, VprmParallelFor parallel_for, void *pool);

#endif
