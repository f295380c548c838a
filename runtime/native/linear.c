#include "linear.h"

#include "int_products.h"
#include "linear_rounding.h"
#include "memory.h"

enum {
    BLOCK_ROWS = 512,    /* rows of one task: their sums stay in the L2 cache */
    BLOCK_CHUNKS = 8,    /* chunks of one pass over the rows: 64 outputs' weights of them stay in the L1 cache */
    AMX_BLOCK_CHUNKS = 16, /* of which AMX reads one panel at a time */
    GROUPS_AHEAD = 4,    /* what is fetched early of 4-bit weights, which are read a group at a time */
    MOST_4BIT_ROWS = 24, /* for which every pass over 6 rows takes the bits apart; for more they are expanded once */
    LEAST_AMX_ROWS = 7,  /* fewer leave most of a tile empty */
    LARGEST_GROUP = 512, /* of 4-bit codes, which are expanded a group at a time */
};

typedef void (*ProductFunction)(const IntProduct *);

/* Everything that the tasks of one call share. */
typedef struct {
    const VprmLinear *in;
    VprmLevel level;
    int64_t group, groups, chunk, chunks; /* chunk: inputs in it, chunks: of a row */
    int64_t panels, blocks;               /* of outputs */
    int8_t *codes;                        /* [rows / 16][chunks][16][64] */
    float *scales;                        /* [rows][groups] */
    int32_t *sums;                        /* [rows][groups], of codes */
} Call;

/* Buffers of one thread. */
typedef struct {
    _Alignas(64) int32_t sums[BLOCK_ROWS * BLOCK_OUTPUTS];
    _Alignas(64) float values[BLOCK_ROWS * BLOCK_OUTPUTS];
    _Alignas(64) uint8_t expanded[2 * LINEAR_PANEL * LARGEST_GROUP];
} Workspace;

static int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }
static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t chunk_of(const VprmLinear *in) {
    return in->group && in->group < LINEAR_CHUNK ? in->group : LINEAR_CHUNK;
}

int64_t vprm_linear_padded_outputs(const VprmLinear *in) {
    return blocks_of(in->outputs, LINEAR_PANEL) * LINEAR_PANEL * (in->activation == VPRM_SILU_GATE ? 2 : 1);
}

int64_t vprm_linear_weight_bytes(const VprmLinear *in) {
    return vprm_linear_padded_outputs(in) * blocks_of(in->inputs, chunk_of(in)) * chunk_of(in) * in->bits / 8;
}

const char *vprm_linear_problem(const VprmLinear *in) {
    if (in->bits != 4 && in->bits != 8) return "bits must be 4 or 8";
    if (in->inputs < 1 || in->inputs > 65536 || in->outputs < 1) return "inputs must be 1 to 65536, outputs at least 1";
    if (in->group && (in->group % 16 || in->inputs % in->group || in->group % chunk_of(in)))
        return "a group must be 16, 32 or a multiple of 64, and divide the inputs";
    if (in->bits == 4 && (!in->group || in->group > LARGEST_GROUP)) return "4-bit weights need groups of at most 512";
    if (in->activation < VPRM_IDENTITY || in->activation > VPRM_GELU) return "activation must be 0, 1 or 2";
    return NULL;
}

static void code_rows(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    const int64_t end = lesser((int64_t)(index + 1) * TILE_ROWS, in->rows);
    for (int64_t row = (int64_t)index * TILE_ROWS; row < end; row++) {
        const CodedRow to = {
            .slots = call->codes + (int64_t)index * call->chunks * TILE_BYTES + row % TILE_ROWS * SLOT_BYTES,
            .scales = call->scales + row * call->groups,
            .sums = call->sums + row * call->groups,
        };
        (call->level == VPRM_PLAIN ? code_row_plain : code_row_avx512)(in->input + row * in->inputs, in->inputs,
                                                                      call->group, to);
    }
}

/* The chunks [first, first + count) of a block's two panels: at 8 bits, or as stored; and what to fetch meanwhile. */
static void find_weights(const Call *call, Workspace *work, bool as_stored, int64_t block, int64_t first, int64_t count,
                         IntProduct *job) {
    const VprmLinear *in = call->in;
    const int64_t chunk_bytes = LINEAR_PANEL * call->chunk * in->bits / 8;
    for (int64_t panel = 2 * block; panel < lesser(2 * block + 2, call->panels); panel++) {
        const uint8_t *stored = in->weight + (panel * call->chunks + first) * chunk_bytes;
        job->fetch[panel % 2] = stored + (in->bits == 8 ? 1 : GROUPS_AHEAD) * count * chunk_bytes;
        if (in->bits == 4 && !as_stored) {
            uint8_t *to = work->expanded + panel % 2 * LINEAR_PANEL * LARGEST_GROUP;
            (call->level == VPRM_PLAIN ? expand_plain : expand_avx512)(stored, to, 2 * (int)count, (int)chunk_bytes / 2);
            stored = to;
        }
        job->weights[panel % 2] = stored;
    }
}

static ProductFunction product_function(const Call *call, int rows) {
    if (call->level == VPRM_PLAIN) return plain_product;
    if (call->level == VPRM_AMX && call->chunk == LINEAR_CHUNK && rows >= LEAST_AMX_ROWS) return amx_product_int;
    return call->in->bits == 4 && rows <= MOST_4BIT_ROWS ? vnni_4bit_product : vnni_product;
}

static void linear_block(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    const int64_t block = (int64_t)index % call->blocks, first = (int64_t)index / call->blocks * BLOCK_ROWS;
    const int rows = (int)lesser(BLOCK_ROWS, in->rows - first);
    const int outputs = (int)lesser(BLOCK_OUTPUTS, call->panels * LINEAR_PANEL - block * BLOCK_OUTPUTS);
    static _Thread_local Workspace workspace;
    Workspace *const work = &workspace;
    const ProductFunction product = product_function(call, rows);
    if (product == amx_product_int) TILE_CONFIGURE();
    const int64_t group_chunks = call->group / call->chunk + (call->group % call->chunk != 0);
    const int64_t pass = call->level == VPRM_AMX ? AMX_BLOCK_CHUNKS : BLOCK_CHUNKS;
    for (int64_t group = 0; group < call->groups; group++) {
        for (int64_t start = 0; start < group_chunks; start += pass) {
            const int64_t chunk = group * group_chunks + start, count = lesser(pass, group_chunks - start);
            IntProduct job = {
                .inputs = call->codes + (first / TILE_ROWS * call->chunks + chunk) * TILE_BYTES,
                .sums = work->sums, .row_tile_bytes = call->chunks * TILE_BYTES,
                .rows = rows, .chunks = (int)count, .quads = (int)call->chunk / 4, .accumulate = start > 0,
            };
            find_weights(call, work, product == vnni_4bit_product, block, chunk, count, &job);
            product(&job);
        }
        const float *scales = in->scale + (2 * block * call->groups + group) * LINEAR_PANEL;
        const Folded folded = {
            .sums = work->sums, .values = work->values,
            .input_scales = call->scales + first * call->groups + group,
            .code_sums = call->sums + first * call->groups + group, .row_step = call->groups,
            .weight_scales = {scales, scales + call->groups * LINEAR_PANEL},
            .rows = rows, .panels = outputs / LINEAR_PANEL, .zero = in->bits == 8 ? 128 : 8, .accumulate = group > 0,
        };
        (call->level == VPRM_PLAIN ? fold_plain : fold_avx512)(&folded);
    }
    if (product == amx_product_int) TILE_RELEASE();
    for (int row = 0; row < rows; row++)
        (call->level == VPRM_PLAIN ? finish_plain : finish_avx512)(in, work->values + row * BLOCK_OUTPUTS, first + row,
                                                                  block, outputs);
}

static _Atomic(Memory *) spare;

bool vprm_linear(const VprmLinear *in, VprmLevel level, VprmParallelFor parallel_for, void *pool) {
    if (in->rows == 0) return true;
    Call call = {.in = in, .level = level, .group = in->group ? in->group : in->inputs, .chunk = chunk_of(in)};
    call.groups = in->group ? in->inputs / in->group : 1;
    call.chunks = blocks_of(in->inputs, call.chunk);
    call.panels = vprm_linear_padded_outputs(in) / LINEAR_PANEL;
    call.blocks = blocks_of(call.panels, 2);
    const int64_t row_tiles = blocks_of(in->rows, TILE_ROWS);
    const size_t code_bytes = (size_t)(row_tiles * call.chunks * TILE_BYTES);
    const size_t scale_bytes = (size_t)(blocks_of(in->rows * call.groups, 16) * 64);
    Memory *memory = vprm_take_memory(&spare, code_bytes + 2 * scale_bytes);
    if (memory == NULL) return false;
    call.codes = (int8_t *)memory->data;
    call.scales = (float *)(memory->data + code_bytes);
    call.sums = (int32_t *)(memory->data + code_bytes + scale_bytes);
    parallel_for(pool, code_rows, (size_t)row_tiles, &call);
    parallel_for(pool, linear_block, (size_t)(blocks_of(in->rows, BLOCK_ROWS) * call.blocks), &call);
    vprm_give_memory(&spare, memory);
    return true;
}
