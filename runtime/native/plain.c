/* The operator as a plain C call, on one thread: for tests, and for anybody with arrays and no graph. */
#include "attention.h"

static void one_after_the_other(void *pool, void (*work)(void *, size_t), size_t count, void *context) {
    (void)pool;
    for (size_t index = 0; index < count; index++) work(context, index);
}

__attribute__((visibility("default"))) int vprm_attention_plain(const VprmAttention *attention, int level) {
    return vprm_attention(attention, (VprmLevel)level, one_after_the_other, NULL) ? 0 : 1;
}
