/* Attention in float32 and plain C, one query of one head after the other: for CPUs without AVX-512 BF16. */
#include <math.h>
#include <stdlib.h>

#include "attention.h"

#define VPRM_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))

typedef struct {
    const VprmAttention *in;
    float *scores; /* [queries * heads][keys] */
} Call;

enum { LANES = 16 };

VPRM_INLINE float dot(const float *a, const float *b, int64_t count) {
    float sums[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += a[i + lane] * b[i + lane];
    for (; i < count; i++) sum += a[i] * b[i];
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    return sum;
}

static VPRM_CLONES void attend(void *context, size_t index) {
    const Call *call = context;
    const VprmAttention *in = call->in;
    const int64_t token = (int64_t)index / in->heads, head = (int64_t)index % in->heads;
    const int64_t keys = in->past + in->new_keys, offset = head / (in->heads / in->kv_heads) * in->head_dim;
    const float *query = in->query + (int64_t)index * in->head_dim;
    const bool *mask = in->mask == NULL ? NULL : in->mask + token * keys;
    float *scores = call->scores + (int64_t)index * keys, *result = in->result + (int64_t)index * in->head_dim;
    const float scale = 1.0f / sqrtf((float)in->head_dim);
    float largest = -INFINITY, total = 0;
    for (int64_t key = 0; key < keys; key++) {
        scores[key] = -INFINITY;
        if (mask != NULL && !mask[key]) continue;
        scores[key] = dot(query, vprm_key_row(in, in->past_key, in->key, key) + offset, in->head_dim) * scale;
        largest = scores[key] > largest ? scores[key] : largest;
    }
    for (int64_t d = 0; d < in->head_dim; d++) result[d] = 0;
    for (int64_t key = 0; key < keys; key++) {
        if (scores[key] == -INFINITY) continue;
        const float weight = expf(scores[key] - largest);
        const float *value = vprm_key_row(in, in->past_value, in->value, key) + offset;
        total += weight;
        for (int64_t d = 0; d < in->head_dim; d++) result[d] += weight * value[d];
    }
    for (int64_t d = 0; d < in->head_dim; d++) result[d] /= total; /* NaN for a query that sees nothing */
}

bool vprm_attention_in_float32(const VprmAttention *in, VprmParallelFor parallel_for, void *pool) {
    const size_t tasks = (size_t)(in->queries * in->heads);
    Call call = {.in = in, .scores = malloc(tasks * (size_t)(in->past + in->new_keys) * sizeof(float) + 1)};
    if (call.scores == NULL) return false;
    parallel_for(pool, attend, tasks, &call);
    free(call.scores);
    return true;
}
