/* The operators as plain C calls, on one thread: for tests, and for anybody with arrays and no graph. */
#include "attention.h"
#include "linear.h"

static void one_after_the_other(void *pool, void (*work)(void *, size_t), size_t count, void *context) {
    (void)pool;
    for (size_t index = 0; index < count; index++) work(context, index);
}

/* 0, or 1 where memory is not to be had. */
VPRM_EXPORT int vprm_attention_call(const VprmAttention *attention, int level) {
    return vprm_attention(attention, (VprmLevel)level, one_after_the_other, NULL) ? 0 : 1;
}

/* NULL, or what is wrong. */
VPRM_EXPORT const char *vprm_linear_call(const VprmLinear *linear, int level) {
    const char *problem = vprm_linear_problem(linear);
    if (problem != NULL) return problem;
    return vprm_linear(linear, (VprmLevel)level, one_after_the_other, NULL) ? NULL : "out of memory";
}
