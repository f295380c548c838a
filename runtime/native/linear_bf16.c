/* Linears with weights in bfloat16 and inputs rounded to bfloat16 when they come, summed in float32: linear.h.
 *
 * Products of two bfloat16 numbers are exact in float32, so only the order of the sums can differ. It is that of VDPBF16PS
 * at every level but AMX: for each pair of inputs the second one's product is added first. AVX-512 BF16 and AMX take
 * numbers below 1.2e-38 for zero, other levels do not. A row's sums do not depend on the other rows.
 */
#include "bf16_products.h"
#include "memory.h"

enum {
    BLOCK_ROWS = 256,      /* rows of one task: their sums stay in the L2 cache */
    BLOCK_CHUNKS = 8,      /* chunks of one pass over the rows: 64 outputs' weights of them stay in the L1 cache */
    AMX_BLOCK_CHUNKS = 16, /* of which AMX reads one panel at a time */
};

/* Everything that the tasks of one call share. */
typedef struct {
    const VprmLinear *in;
    VprmLevel level;
    int64_t chunks, panels, blocks; /* of a row, of outputs */
    void (*product)(const Bf16Product *);
    bfloat16 *inputs; /* [rows / 16][chunks][16][32] */
} Call;

static int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }
static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

VPRM_INLINE void round_chunk(const float *from, int64_t count, bfloat16 *to) {
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = float_bits(from[i]);
        const uint32_t nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16; /* ties to even */
        to[i] = (bfloat16)((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : nearest);
    }
}

VPRM_INLINE void round_row_body(const float *row, int64_t inputs, bfloat16 *to) {
    int64_t first = 0;
    for (; first + BF16_CHUNK <= inputs; first += BF16_CHUNK, to += BF16_TILE) round_chunk(row + first, BF16_CHUNK, to);
    if (first == inputs) return;
    memset(to, 0, SLOT_BYTES);
    round_chunk(row + first, inputs - first, to);
}

static VPRM_VNNI void round_row_avx512(const float *row, int64_t inputs, bfloat16 *to) { round_row_body(row, inputs, to); }
static void round_row_plain(const float *row, int64_t inputs, bfloat16 *to) { round_row_body(row, inputs, to); }

static void round_rows(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    const int64_t end = lesser((int64_t)(index + 1) * TILE_ROWS, in->rows);
    for (int64_t row = (int64_t)index * TILE_ROWS; row < end; row++)
        (call->level == VPRM_PLAIN ? round_row_plain : round_row_avx512)(
            in->input + row * in->inputs, in->inputs,
            call->inputs + (int64_t)index * call->chunks * BF16_TILE + row % TILE_ROWS * BF16_CHUNK);
}

static VPRM_VNNI void finish_row_avx512(const VprmLinear *in, float *values, int64_t row, int64_t block, int outputs) {
    finish_body(in, values, row, block, outputs);
}
static void finish_row_plain(const VprmLinear *in, float *values, int64_t row, int64_t block, int outputs) {
    finish_body(in, values, row, block, outputs);
}

static void linear_block(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    static _Thread_local _Alignas(64) float sums[BLOCK_ROWS * BLOCK_OUTPUTS];
    const int64_t block = (int64_t)index % call->blocks, first_row = (int64_t)index / call->blocks * BLOCK_ROWS;
    const int rows = (int)lesser(BLOCK_ROWS, in->rows - first_row);
    const int panels = (int)lesser(2, call->panels - 2 * block);
    const bfloat16 *stored = (const bfloat16 *)in->weight + 2 * block * call->chunks * BF16_PANEL_CHUNK;
    const int64_t pass = call->level == VPRM_AMX ? AMX_BLOCK_CHUNKS : BLOCK_CHUNKS;
    if (call->level == VPRM_AMX) TILE_CONFIGURE();
    for (int64_t chunk = 0; chunk < call->chunks; chunk += pass) {
        const Bf16Product job = {
            .inputs = call->inputs + (first_row / TILE_ROWS * call->chunks + chunk) * BF16_TILE,
            .weights = {stored + chunk * BF16_PANEL_CHUNK,
                        panels == 2 ? stored + (call->chunks + chunk) * BF16_PANEL_CHUNK : NULL},
            .sums = sums, .row_tile = call->chunks * BF16_TILE,
            .rows = rows, .chunks = (int)lesser(pass, call->chunks - chunk), .accumulate = chunk > 0,
        };
        call->product(&job);
    }
    if (call->level == VPRM_AMX) TILE_RELEASE();
    for (int row = 0; row < rows; row++)
        (call->level == VPRM_PLAIN ? finish_row_plain : finish_row_avx512)(in, sums + row * BLOCK_OUTPUTS, first_row + row,
                                                                          block, panels * LINEAR_PANEL);
}

static _Atomic(Memory *) spare;

bool vprm_linear_bf16(const VprmLinear *in, VprmLevel level, VprmParallelFor parallel_for, void *pool) {
    if (in->rows == 0) return true;
    Call call = {.in = in, .level = level, .chunks = blocks_of(in->inputs, BF16_CHUNK)};
    call.panels = vprm_linear_padded_outputs(in) / LINEAR_PANEL;
    call.blocks = blocks_of(call.panels, 2);
    call.product = level == VPRM_PLAIN      ? bf16_product_plain
                   : level == VPRM_AMX      ? bf16_product_amx
                   : vprm_has_bf16(level)   ? bf16_product_avx512
                                            : bf16_product_fma;
    const int64_t row_tiles = blocks_of(in->rows, TILE_ROWS);
    Memory *memory = vprm_take_memory(&spare, (size_t)(row_tiles * call.chunks * TILE_BYTES));
    if (memory == NULL) return false;
    call.inputs = (bfloat16 *)memory->data;
    parallel_for(pool, round_rows, (size_t)row_tiles, &call);
    parallel_for(pool, linear_block, (size_t)(blocks_of(in->rows, BLOCK_ROWS) * call.blocks), &call);
    vprm_give_memory(&spare, memory);
    return true;
}
