/* Scaled dot-product attention: in bfloat16 with float32 sums on AVX-512 BF16 or AMX BF16, in float32 on other CPUs.
 *
 * Queries, keys, values and results are float32 rows [tokens, heads*head_dim], as the graphs have them. Keys and values
 * come in two parts, cached rows and new ones, so that nobody has to join them. All heads that share a key head are
 * multiplied together, and blocks of keys that no query of a block may see are left out.
 *
 * The scheme is that of FlashAttention (arXiv 2205.14135): softmax over one block of keys after the other, rescaling
 * what has been summed whenever a larger score appears. Rounded to bfloat16 are queries (scaled), keys, values and the
 * weights of a block; scores, sums and results are float32.
 */
#ifndef VPRM_ATTENTION_H
#define VPRM_ATTENTION_H

#include "cpu.h"

typedef struct {
    const float *query;      /* [queries, heads*head_dim] */
    const float *past_key;   /* [past, kv_heads*head_dim], NULL where past is 0 */
    const float *past_value; /* as past_key */
    const float *key;        /* [new_keys, kv_heads*head_dim] */
    const float *value;      /* as key */
    const bool *mask;        /* [queries, past + new_keys], true where a query sees a key; NULL: all see all */
    float *result;           /* [queries, heads*head_dim]; NaN for a query that sees nothing */
    int64_t queries, past, new_keys;
    int64_t heads, kv_heads, head_dim;
} VprmAttention;

/* A row of keys or values, cached or new. */
VPRM_INLINE const float *vprm_key_row(const VprmAttention *in, const float *past, const float *new_rows, int64_t row) {
    const int64_t width = in->kv_heads * in->head_dim;
    return row < in->past ? past + row * width : new_rows + (row - in->past) * width;
}

/* False where memory is not to be had. `level` must be one that the CPU supports. */
bool vprm_attention(const VprmAttention *attention, VprmLevel level, VprmParallelFor parallel_for, void *pool);

/* The same in float32, on any CPU. */
bool vprm_attention_in_float32(const VprmAttention *attention, VprmParallelFor parallel_for, void *pool);

#endif
