#include "linear.h"

#include "memory.h"
#include "panel_products.h"

enum {
    FEW_INPUTS = 1 << 15,     /* of all rows: waking threads takes longer than rounding them */
    BLOCK_ROWS = 512,         /* rows of one task: their sums stay in the L2 cache */
    BLOCK_CHUNKS = 8,         /* chunks of one pass over the rows: 64 outputs' weights of them stay in the L1 cache */
    AMX_BLOCK_CHUNKS = 16,    /* of which AMX reads one panel at a time */
    LEAST_AMX_ROWS = 7,       /* fewer leave most of a tile empty */
    PANEL_BLOCK_BYTES = 16384, /* of a panel's stored weights: these and those that are fetched stay in the L1 cache */
    PAIR_AHEAD = 2048,        /* bytes that are fetched ahead if two panels are read at once, a few rows in one pass */
    FEW_ROWS = 24,            /* of which memory decides: products are a panel at a time, and fetch weights early */
    LARGEST_GROUP = 512,      /* of 4-bit codes, which are expanded a group at a time */
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
    int32_t *offsets;                     /* [rows][groups] */
    int32_t zero;                         /* of stored weights */
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
    if (in->bits == 16) return LINEAR_CHUNK / 2;
    return in->group && in->group < LINEAR_CHUNK ? in->group : LINEAR_CHUNK;
}

int64_t vprm_linear_padded_outputs(const VprmLinear *in) {
    return blocks_of(in->outputs, LINEAR_PANEL) * LINEAR_PANEL * (in->activation == VPRM_SILU_GATE ? 2 : 1);
}

int64_t vprm_linear_weight_bytes(const VprmLinear *in) {
    return vprm_linear_padded_outputs(in) * blocks_of(in->inputs, chunk_of(in)) * chunk_of(in) * in->bits / 8;
}

const char *vprm_linear_problem(const VprmLinear *in) {
    if (in->bits != 4 && in->bits != 8 && in->bits != 16) return "bits must be 4, 8 or 16";
    if (in->bits == 16 && in->group) return "16-bit weights have no groups";
    if (in->inputs < 1 || in->inputs > 65536 || in->outputs < 1) return "inputs must be 1 to 65536, outputs at least 1";
    if (in->group && (in->group % 16 || in->inputs % in->group || in->group % chunk_of(in)))
        return "a group must be 16, 32 or a multiple of 64, and divide the inputs";
    if (in->bits == 4 && !in->group) return "4-bit weights need groups";
    if (in->group > LARGEST_GROUP) return "a group must be of at most 512 inputs";
    if (in->activation < VPRM_IDENTITY || in->activation > VPRM_GELU) return "activation must be 0, 1 or 2";
    return NULL;
}

static void code_row(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    const int64_t row = (int64_t)index;
    const CodedRow to = {
        .slots = call->codes + row / TILE_ROWS * call->chunks * TILE_BYTES + row % TILE_ROWS * SLOT_BYTES,
        .scales = call->scales + row * call->groups, .offsets = call->offsets + row * call->groups, .zero = call->zero,
    };
    (call->level == VPRM_PLAIN ? code_row_plain : code_row_avx512)(in->input + row * in->inputs, in->inputs, call->group, to);
}

/* What a task works on: a block of outputs times some rows. */
typedef struct {
    const Call *call;
    Workspace *work;
    int64_t block, first_row;
    int rows, panels;
} Task;

/* The product with the stored chunks [chunk, chunk + count). */
static IntProduct product_of(const Task *task, int64_t chunk, int64_t count) {
    const Call *call = task->call;
    const int64_t chunk_bytes = LINEAR_PANEL * call->chunk * call->in->bits / 8;
    IntProduct job = {
        .inputs = call->codes + (task->first_row / TILE_ROWS * call->chunks + chunk) * TILE_BYTES,
        .sums = task->work->sums, .row_tile_bytes = call->chunks * TILE_BYTES,
        .rows = task->rows, .chunks = (int)count, .quads = (int)call->chunk / 4,
    };
    for (int panel = 0; panel < 2; panel++) {
        const uint8_t *stored = call->in->weight + ((2 * task->block + panel) * call->chunks + chunk) * chunk_bytes;
        job.weights[panel] = panel < task->panels ? stored : NULL;
    }
    return job;
}

static Folded folded_group(const Task *task, int64_t group) {
    const Call *call = task->call;
    const float *scales = call->in->scale + (2 * task->block * call->groups + group) * LINEAR_PANEL;
    return (Folded){
        .sums = task->work->sums, .values = task->work->values,
        .input_scales = call->scales + task->first_row * call->groups + group,
        .offsets = call->offsets + task->first_row * call->groups + group, .row_step = call->groups,
        .weight_scales = {scales, scales + call->groups * LINEAR_PANEL},
        .rows = task->rows, .panels = task->panels, .accumulate = group > 0,
    };
}

/* 4-bit weights as 8-bit ones. */
static void expand_weights(const Task *task, IntProduct *job) {
    const int bytes = (int)(LINEAR_PANEL * task->call->chunk / 2);
    for (int panel = 0; panel < task->panels; panel++) {
        uint8_t *to = task->work->expanded + panel * LINEAR_PANEL * LARGEST_GROUP;
        (task->call->level == VPRM_PLAIN ? expand_plain : expand_avx512)(job->weights[panel], to, 2 * job->chunks,
                                                                        bytes / 2);
        job->weights[panel] = to;
    }
}

/* Values of a task, all groups summed up, one group after the other. */
static void multiply(const Task *task, ProductFunction product) {
    const Call *call = task->call;
    const int64_t group_chunks = blocks_of(call->group, call->chunk);
    const int64_t pass = product == amx_product_int ? AMX_BLOCK_CHUNKS : BLOCK_CHUNKS;
    for (int64_t group = 0; group < call->groups; group++) {
        for (int64_t start = 0; start < group_chunks; start += pass) {
            IntProduct job = product_of(task, group * group_chunks + start, lesser(pass, group_chunks - start));
            job.accumulate = start > 0;
            if (call->in->bits == 4) expand_weights(task, &job);
            product(&job);
        }
        const Folded folded = folded_group(task, group);
        (call->level == VPRM_PLAIN ? fold_plain : fold_avx512)(&folded);
    }
}

/* A block of chunks of one panel or two, whole groups if there are groups. */
static PanelProduct panel_job(const Task *task, int panel, int panels, int64_t chunk, int64_t step) {
    const Call *call = task->call;
    const int64_t count = lesser(step, call->chunks - chunk), chunk_bytes = LINEAR_PANEL * call->chunk * call->in->bits / 8;
    const int64_t group_chunks = call->in->group ? blocks_of(call->group, call->chunk) : count;
    const uint8_t *stored = call->in->weight + ((2 * task->block + panel) * call->chunks + chunk) * chunk_bytes;
    PanelProduct job = {
        .inputs = call->codes + (task->first_row / TILE_ROWS * call->chunks + chunk) * TILE_BYTES,
        .row_tile_bytes = call->chunks * TILE_BYTES, .ahead = panels == 2 ? PAIR_AHEAD : count * chunk_bytes,
        .weights = {stored, panels == 2 ? stored + call->chunks * chunk_bytes : NULL},
        .fold = folded_group(task, call->in->group ? chunk / group_chunks : 0), .rows = task->rows,
        .groups = (int)(count / group_chunks), .chunks = (int)group_chunks, .quads = (int)call->chunk / 4,
        .accumulate = chunk > 0,
    };
    job.fold.sums += panel * LINEAR_PANEL, job.fold.values += panel * LINEAR_PANEL;
    if (panel == 1) job.fold.weight_scales[0] = job.fold.weight_scales[1];
    return job;
}

/* The same panel by panel, or two at once for the fewest rows, on VNNI. */
static void multiply_panels(const Task *task) {
    const Call *call = task->call;
    const VprmLinear *in = call->in;
    int64_t step = PANEL_BLOCK_BYTES / (LINEAR_PANEL * call->chunk * in->bits / 8);
    if (in->group) {
        const int64_t group_chunks = blocks_of(call->group, call->chunk);
        step = step < group_chunks ? group_chunks : step / group_chunks * group_chunks;
    }
    const int panels = task->rows <= PAIR_ROWS ? task->panels : 1;
    for (int panel = 0; panel < task->panels; panel += panels)
        for (int64_t chunk = 0; chunk < call->chunks; chunk += step) {
            const PanelProduct job = panel_job(task, panel, panels, chunk, step);
            if (!in->group) panel_product(&job);
            else if (in->bits == 8) panel_product_grouped_8(&job);
            else panel_product_grouped_4(&job);
        }
    if (!in->group) {
        const Folded folded = folded_group(task, 0);
        fold_avx512(&folded);
    }
}

static void linear_block(void *context, size_t index) {
    const Call *call = context;
    const VprmLinear *in = call->in;
    static _Thread_local Workspace workspace;
    Task task = {.call = call, .work = &workspace, .block = (int64_t)index % call->blocks};
    task.first_row = (int64_t)index / call->blocks * BLOCK_ROWS;
    task.rows = (int)lesser(BLOCK_ROWS, in->rows - task.first_row);
    task.panels = (int)lesser(2, call->panels - 2 * task.block);
    if (call->level == VPRM_PLAIN) {
        multiply(&task, plain_product);
    } else if (call->level == VPRM_AMX && call->chunk == LINEAR_CHUNK && task.rows >= LEAST_AMX_ROWS) {
        TILE_CONFIGURE();
        multiply(&task, amx_product_int);
        TILE_RELEASE();
    } else if (in->group || task.rows <= FEW_ROWS) {
        multiply_panels(&task);
    } else {
        multiply(&task, vnni_product);
    }
    for (int row = 0; row < task.rows; row++)
        (call->level == VPRM_PLAIN ? finish_plain : finish_avx512)(in, workspace.values + row * BLOCK_OUTPUTS,
                                                                  task.first_row + row, task.block,
                                                                  task.panels * LINEAR_PANEL);
}

static _Atomic(Memory *) spare;

bool vprm_linear(const VprmLinear *in, VprmLevel level, VprmParallelFor parallel_for, void *pool) {
    if (in->rows == 0) return true;
    if (in->bits == 16) return vprm_linear_bf16(in, level, parallel_for, pool);
    Call call = {.in = in, .level = level, .group = in->group ? in->group : in->inputs, .chunk = chunk_of(in)};
    call.groups = in->group ? in->inputs / in->group : 1;
    call.zero = in->bits == 8 ? 128 : 8;
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
    call.offsets = (int32_t *)(memory->data + code_bytes + scale_bytes);
    if (in->rows * in->inputs <= FEW_INPUTS)
        for (size_t row = 0; row < (size_t)in->rows; row++) code_row(&call, row);
    else
        parallel_for(pool, code_row, (size_t)in->rows, &call);
    parallel_for(pool, linear_block, (size_t)(blocks_of(in->rows, BLOCK_ROWS) * call.blocks), &call);
    vprm_give_memory(&spare, memory);
    return true;
}
