#include "attention.h"

#include <math.h>
#include <string.h>

#include "memory.h"
#include "products.h"

enum {
    QUERY_ROWS = 64,  /* rows of one block: tokens x heads that share a key head */
    KEY_BLOCK = 128,  /* keys of one block: scores, weights, keys and values of a block stay in the L2 cache */
    COLUMN_STEP = 64, /* products take columns by 64, so head_dim is padded to it with zeros */
    MAX_HEAD_DIM = 256,
    AHEAD = 16, /* rows that are fetched before they are packed */
};

enum { SEEN_NONE, SEEN_SOME, SEEN_ALL };

static int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/* Everything that the blocks of one call share. `dim` is head_dim padded, `keys` is past + new_keys padded. */
typedef struct {
    const VprmAttention *in;
    VprmLevel level;
    int64_t group, dim, keys, key_blocks, block_tokens, query_blocks;
    bfloat16 *packed_keys;   /* [kv_heads][key_blocks][dim / 2][KEY_BLOCK][2]; NULL: packed where they are used */
    bfloat16 *packed_values; /* [kv_heads][keys / 2][dim][2] */
    uint8_t *seen;           /* [query_blocks][key_blocks], SEEN_* */
} Call;

VPRM_INLINE VPRM_BF16 __m256i rounded(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

VPRM_INLINE VPRM_BF16 __m512 loaded(const float *from, int64_t count) {
    return count >= 16 ? _mm512_loadu_ps(from)
                       : _mm512_maskz_loadu_ps((__mmask16)(count <= 0 ? 0 : (1u << count) - 1), from);
}

/* Rows of 16 32-bit numbers become columns. */
VPRM_INLINE VPRM_BF16 void transpose_16(__m512i rows[16]) {
    __m512i other[16];
    for (int i = 0; i < 16; i += 2) {
        other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int half = 0; half < 2; half++) {
            rows[i + 2 * half] = _mm512_unpacklo_epi64(other[i + half], other[i + 2 + half]);
            rows[i + 2 * half + 1] = _mm512_unpackhi_epi64(other[i + half], other[i + 2 + half]);
        }
    for (int i = 0; i < 4; i++) /* quarters of rows: [4 rows][4 lanes of 4 columns] */
        for (int half = 0; half < 2; half++) {
            other[8 * half + i] = _mm512_shuffle_i32x4(rows[8 * half + i], rows[8 * half + 4 + i], 0x88);
            other[8 * half + 4 + i] = _mm512_shuffle_i32x4(rows[8 * half + i], rows[8 * half + 4 + i], 0xDD);
        }
    for (int i = 0; i < 8; i++) {
        rows[i] = _mm512_shuffle_i32x4(other[i], other[8 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(other[i], other[8 + i], 0xDD);
    }
}

/* The line that is needed AHEAD rows later; beyond the last row nothing comes of it. */
VPRM_INLINE void fetch_ahead(const float *row, const VprmAttention *in, int64_t at) {
    if (row != NULL) _mm_prefetch((const char *)(row + AHEAD * in->kv_heads * in->head_dim + at), _MM_HINT_T0);
}

/* A row's part of one head, or NULL for a row that is not there. */
VPRM_INLINE const float *head_row(const float *past, const float *new_rows, const VprmAttention *in, int64_t row,
                                  int64_t head) {
    if (row >= in->past + in->new_keys) return NULL;
    return vprm_key_row(in, past, new_rows, row) + head * in->head_dim;
}

VPRM_INLINE VPRM_BF16 __m512 loaded_if(const float *row, int64_t at, int64_t width) {
    return row == NULL ? _mm512_setzero_ps() : loaded(row + at, width - at);
}

/* A block of one head's keys as [dim / 2][KEY_BLOCK][2]. Rows are far apart: those that come next are fetched. */
VPRM_INLINE VPRM_BF16 void pack_keys(const Call *call, int64_t head, int64_t first, bfloat16 *keys) {
    const VprmAttention *in = call->in;
    for (int64_t i = 0; i < KEY_BLOCK; i += 16) /* 16 keys, 32 of their numbers: 16 pairs of each */
        for (int64_t d = 0; d < call->dim; d += 32) {
            __m512i pairs[16];
            for (int key = 0; key < 16; key++) {
                const float *row = head_row(in->past_key, in->key, in, first + i + key, head);
                fetch_ahead(row, in, d);
                fetch_ahead(row, in, d + 16);
                const __m256i low = rounded(loaded_if(row, d, in->head_dim));
                const __m256i high = rounded(loaded_if(row, d + 16, in->head_dim));
                pairs[key] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            }
            transpose_16(pairs);
            for (int pair = 0; pair < 16; pair++)
                _mm512_storeu_si512(keys + 2 * ((d / 2 + pair) * KEY_BLOCK + i), pairs[pair]);
        }
}

/* A block of one head's values as [KEY_BLOCK / 2][dim][2]. */
VPRM_INLINE VPRM_BF16 void pack_values(const Call *call, int64_t head, int64_t first, bfloat16 *values) {
    const VprmAttention *in = call->in;
    for (int64_t i = 0; i < KEY_BLOCK; i += 2) {
        const float *even = head_row(in->past_value, in->value, in, first + i, head);
        const float *odd = head_row(in->past_value, in->value, in, first + i + 1, head);
        for (int64_t d = 0; d < call->dim; d += 16) {
            fetch_ahead(even, in, d);
            fetch_ahead(odd, in, d);
            const __m512i low = _mm512_cvtepu16_epi32(rounded(loaded_if(even, d, in->head_dim)));
            const __m512i high = _mm512_cvtepu16_epi32(rounded(loaded_if(odd, d, in->head_dim)));
            _mm512_storeu_si512(values + i * call->dim + 2 * d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

/* One block of one key head, packed for all blocks of queries. */
static VPRM_BF16 void pack_block(void *context, size_t index) {
    Call *call = context;
    const int64_t head = (int64_t)index / call->key_blocks, first = (int64_t)index % call->key_blocks * KEY_BLOCK;
    const int64_t at = (head * call->keys + first) * call->dim;
    pack_keys(call, head, first, call->packed_keys + at);
    pack_values(call, head, first, call->packed_values + at);
}

/* What the queries of one block see of each block of keys. */
static void look_at_mask(void *context, size_t index) {
    Call *call = context;
    const VprmAttention *in = call->in;
    const int64_t all = in->past + in->new_keys, first = (int64_t)index * call->block_tokens;
    const int64_t last = first + call->block_tokens < in->queries ? first + call->block_tokens : in->queries;
    for (int64_t block = 0; block < call->key_blocks; block++) {
        const int64_t start = block * KEY_BLOCK, stop = start + KEY_BLOCK < all ? start + KEY_BLOCK : all;
        bool any = in->mask == NULL, every = stop - start == KEY_BLOCK;
        if (in->mask != NULL)
            for (int64_t token = first; token < last; token++) {
                const bool *line = in->mask + token * all;
                any = any || memchr(line + start, true, (size_t)(stop - start)) != NULL;
                every = every && memchr(line + start, false, (size_t)(stop - start)) == NULL;
            }
        call->seen[(int64_t)index * call->key_blocks + block] = every ? SEEN_ALL : any ? SEEN_SOME : SEEN_NONE;
    }
}

/* 2^x for x <= 0 (0 for -inf), relative error below 3e-7: 2^round(x) times a polynomial in the rest. */
VPRM_INLINE VPRM_BF16 __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    static const float factors[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f,
                                    6.9314718e-1f, 1.0f}; /* (ln 2)^n / n!, n = 6 .. 0 */
    __m512 sum = _mm512_set1_ps(factors[0]);
    for (int n = 1; n < 7; n++) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factors[n]));
    return _mm512_scalef_ps(sum, whole);
}

/* Buffers of one block of queries. */
typedef struct {
    _Alignas(64) float scores[QUERY_ROWS][KEY_BLOCK];
    _Alignas(64) bfloat16 weights[QUERY_ROWS][KEY_BLOCK];
    _Alignas(64) bfloat16 queries[QUERY_ROWS][MAX_HEAD_DIM];
    _Alignas(64) float sums[QUERY_ROWS][MAX_HEAD_DIM];
    _Alignas(64) bfloat16 keys[KEY_BLOCK * MAX_HEAD_DIM], values[KEY_BLOCK * MAX_HEAD_DIM];
    float largest[QUERY_ROWS], total[QUERY_ROWS];
} Workspace;

static VPRM_BF16 void pack_queries(const Call *call, Workspace *work, int64_t head, int64_t first, int64_t tokens) {
    const VprmAttention *in = call->in;
    const float log2_of_e = 1.44269504f;
    const __m512 scale = _mm512_set1_ps(log2_of_e / sqrtf((float)in->head_dim));
    for (int64_t row = 0; row < tokens * call->group; row++) {
        const int64_t token = first + row / call->group, query_head = head * call->group + row % call->group;
        const float *query = in->query + (token * in->heads + query_head) * in->head_dim;
        for (int64_t d = 0; d < call->dim; d += 16)
            _mm256_storeu_si256((__m256i *)(work->queries[row] + d),
                                rounded(_mm512_mul_ps(loaded(query + d, in->head_dim - d), scale)));
    }
}

/* Masked scores become -inf. Keys behind the last one are masked too. */
static VPRM_BF16 void apply_mask(const Call *call, Workspace *work, int64_t first, int64_t block, int rows) {
    const VprmAttention *in = call->in;
    const int64_t all = in->past + in->new_keys, start = block * KEY_BLOCK;
    const __m512 never = _mm512_set1_ps(-INFINITY);
    for (int row = 0; row < rows; row++) {
        const bool *line = in->mask == NULL ? NULL : in->mask + (first + row / call->group) * all + start;
        for (int64_t i = 0; i < KEY_BLOCK; i += 16) {
            const int64_t left = all - start - i;
            const __mmask16 there = left >= 16 ? 0xFFFF : (__mmask16)(left <= 0 ? 0 : (1u << left) - 1);
            __mmask16 seen = there;
            if (line != NULL) seen = _mm_mask_test_epi8_mask(there, _mm_maskz_loadu_epi8(there, line + i), _mm_set1_epi8(-1));
            float *scores = work->scores[row] + i;
            _mm512_storeu_ps(scores, _mm512_mask_blend_ps(seen, never, _mm512_loadu_ps(scores)));
        }
    }
}

/* Scores to weights in bfloat16; what was summed before is rescaled where a row has a new largest score. */
static VPRM_BF16 void weigh(const Call *call, Workspace *work, int rows) {
    for (int row = 0; row < rows; row++) {
        const float *scores = work->scores[row];
        __m512 highest = _mm512_loadu_ps(scores);
        for (int i = 16; i < KEY_BLOCK; i += 16) highest = _mm512_max_ps(highest, _mm512_loadu_ps(scores + i));
        const float before = work->largest[row];
        const float largest = fmaxf(before, _mm512_reduce_max_ps(highest));
        if (largest == -INFINITY) {
            memset(work->weights[row], 0, sizeof work->weights[row]);
            continue;
        }
        const __m512 subtracted = _mm512_set1_ps(largest);
        __m512 total = _mm512_setzero_ps();
        for (int i = 0; i < KEY_BLOCK; i += 16) {
            const __m512 weight = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(scores + i), subtracted));
            total = _mm512_add_ps(total, weight);
            _mm256_storeu_si256((__m256i *)(work->weights[row] + i), rounded(weight));
        }
        if (largest > before) {
            const float factor = exp2f(before - largest);
            const __m512 factors = _mm512_set1_ps(factor);
            for (int64_t d = 0; d < call->dim; d += 16)
                _mm512_storeu_ps(work->sums[row] + d, _mm512_mul_ps(_mm512_loadu_ps(work->sums[row] + d), factors));
            work->total[row] *= factor;
            work->largest[row] = largest;
        }
        work->total[row] += _mm512_reduce_add_ps(total);
    }
}

static VPRM_BF16 void pack_here(const Call *call, Workspace *work, int64_t head, int64_t first) {
    pack_keys(call, head, first, work->keys);
    pack_values(call, head, first, work->values);
}

/* One block of queries of one key head's group, against all blocks of keys that it sees. */
static void attend_block(void *context, size_t index) {
    Call *call = context;
    const VprmAttention *in = call->in;
    const int64_t head = (int64_t)index % in->kv_heads, query_block = (int64_t)index / in->kv_heads;
    const int64_t first = query_block * call->block_tokens;
    const int64_t left = in->queries - first, tokens = left < call->block_tokens ? left : call->block_tokens;
    const int rows = (int)(tokens * call->group);
    const bool amx = call->level == VPRM_AMX;
    static _Thread_local Workspace workspace;
    Workspace *const work = &workspace;
    memset(work->queries, 0, sizeof work->queries);
    memset(work->weights, 0, sizeof work->weights);
    memset(work->sums, 0, sizeof work->sums);
    for (int row = 0; row < QUERY_ROWS; row++) work->largest[row] = -INFINITY, work->total[row] = 0;
    pack_queries(call, work, head, first, tokens);
    if (amx) TILE_CONFIGURE();
    void (*product)(const Product *) = amx ? amx_product : avx512_product;
    const int padded_rows = amx ? (int)rounded_up(rows, 32) : rows;
    for (int64_t block = 0; block < call->key_blocks; block++) {
        const uint8_t seen = call->seen[query_block * call->key_blocks + block];
        if (seen == SEEN_NONE) continue;
        const int64_t at = (head * call->keys + block * KEY_BLOCK) * call->dim;
        const bool here = call->packed_keys == NULL;
        if (here) pack_here(call, work, head, block * KEY_BLOCK);
        const Product scores = {
            .a = work->queries[0], .b = here ? work->keys : call->packed_keys + at, .c = work->scores[0],
            .a_stride = MAX_HEAD_DIM, .b_stride = KEY_BLOCK, .c_stride = KEY_BLOCK,
            .m = padded_rows, .n = KEY_BLOCK, .k = (int)call->dim, .accumulate = false,
        };
        product(&scores);
        if (seen == SEEN_SOME) apply_mask(call, work, first, block, rows);
        weigh(call, work, rows);
        const Product sums = {
            .a = work->weights[0], .b = here ? work->values : call->packed_values + at, .c = work->sums[0],
            .a_stride = KEY_BLOCK, .b_stride = call->dim, .c_stride = MAX_HEAD_DIM,
            .m = padded_rows, .n = (int)call->dim, .k = KEY_BLOCK, .accumulate = true,
        };
        product(&sums);
    }
    if (amx) TILE_RELEASE();
    for (int row = 0; row < rows; row++) {
        const int64_t token = first + row / call->group, query_head = head * call->group + row % call->group;
        float *result = in->result + (token * in->heads + query_head) * in->head_dim;
        const float factor = 1.0f / work->total[row];
        for (int64_t d = 0; d < in->head_dim; d++) result[d] = work->sums[row][d] * factor;
    }
}

static _Atomic(Memory *) spare;

bool vprm_attention(const VprmAttention *attention, VprmLevel level, VprmParallelFor parallel_for, void *pool) {
    if (!vprm_has_bf16(level)) return vprm_attention_in_float32(attention, parallel_for, pool);
    const int64_t all = attention->past + attention->new_keys;
    Call call = {.in = attention, .level = level, .group = attention->heads / attention->kv_heads};
    call.dim = rounded_up(attention->head_dim, COLUMN_STEP);
    call.keys = rounded_up(all, KEY_BLOCK);
    call.key_blocks = call.keys / KEY_BLOCK;
    call.block_tokens = call.group < QUERY_ROWS ? QUERY_ROWS / call.group : 1;
    call.query_blocks = (attention->queries + call.block_tokens - 1) / call.block_tokens;
    const bool once = call.query_blocks == 1; /* keys are used: packing them for others costs more than it saves */
    const size_t packed = once ? 0 : (size_t)(attention->kv_heads * call.keys * call.dim) * sizeof(bfloat16);
    const size_t seen = (size_t)rounded_up(call.query_blocks * call.key_blocks, 64);
    Memory *memory = vprm_take_memory(&spare, 2 * packed + seen);
    if (memory == NULL) return false;
    if (!once) {
        call.packed_keys = (bfloat16 *)memory->data;
        call.packed_values = (bfloat16 *)(memory->data + packed);
    }
    call.seen = memory->data + 2 * packed;
    if (!once) parallel_for(pool, pack_block, (size_t)(attention->kv_heads * call.key_blocks), &call);
    parallel_for(pool, look_at_mask, (size_t)call.query_blocks, &call);
    parallel_for(pool, attend_block, (size_t)(attention->kv_heads * call.query_blocks), &call);
    vprm_give_memory(&spare, memory);
    return true;
}
