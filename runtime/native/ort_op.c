/* ONNX Runtime's operator vprm::Attention, on the threads of its session.
 *
 *     query       float32 [.., queries, heads*head_dim]
 *     key, value  float32 [.., new_keys, kv_heads*head_dim]
 *     past_key, past_value (optional)  float32 [past, kv_heads*head_dim]
 *     mask (optional)  bool [queries, past + new_keys]
 *     -> result   float32, shaped as query
 *     attributes: heads, kv_heads
 *
 * The leading dimension is a batch and stands with neither past nor mask.
 */
#include <stdlib.h>

#include "attention.h"
#include "ort_operator.h"

enum { QUERY, KEY, VALUE, PAST_KEY, PAST_VALUE, MASK, INPUTS };
enum { LARGEST_GROUP = 64, LARGEST_HEAD_DIM = 256 };

typedef struct {
    const OrtApi *api;
    int64_t heads, kv_heads;
    VprmLevel level;
} Kernel;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    VprmLevel level;
    const char *wrong = vprm_choose_level(&level);
    if (wrong != NULL) return ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, wrong);
    Kernel *made = malloc(sizeof *made);
    if (made == NULL) return ORT_CREATE_STATUS(ORT_FAIL, "vprm::Attention: out of memory");
    made->api = api;
    made->level = level;
    OrtStatus *error = ORT_GET_ATTRIBUTE_INT(info, "heads", &made->heads);
    if (!error) error = ORT_GET_ATTRIBUTE_INT(info, "kv_heads", &made->kv_heads);
    if (!error && (made->kv_heads < 1 || made->heads % made->kv_heads || made->heads / made->kv_heads > LARGEST_GROUP))
        error = ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT,
                                  "vprm::Attention: heads must be 1 to 64 times kv_heads");
    if (error) {
        free(made);
        return error;
    }
    *kernel = made;
    return NULL;
}

static const char *problem(const Kernel *kernel, const Rows *in) {
    const int64_t width = kernel->kv_heads * in[QUERY].width / kernel->heads;
    if (in[QUERY].width % kernel->heads || in[QUERY].width / kernel->heads > LARGEST_HEAD_DIM)
        return "vprm::Attention: queries need heads times head_dim columns, head_dim at most 256";
    if (in[KEY].width != width || in[VALUE].width != width || in[KEY].rows != in[VALUE].rows ||
        in[KEY].batch != in[QUERY].batch || in[VALUE].batch != in[QUERY].batch)
        return "vprm::Attention: keys and values do not fit the queries";
    if ((in[PAST_KEY].data == NULL) != (in[PAST_VALUE].data == NULL) || in[PAST_KEY].rows != in[PAST_VALUE].rows ||
        (in[PAST_KEY].data != NULL && (in[PAST_KEY].width != width || in[PAST_VALUE].width != width)))
        return "vprm::Attention: cached keys and values do not fit the new ones";
    if (in[MASK].data != NULL &&
        (in[MASK].rows != in[QUERY].rows || in[MASK].width != in[PAST_KEY].rows + in[KEY].rows))
        return "vprm::Attention: the mask needs a row per query and a column per key";
    if (in[QUERY].batch != 1 && (in[PAST_KEY].rows || in[MASK].data != NULL))
        return "vprm::Attention: a batch has neither past nor mask";
    return NULL;
}

static OrtStatus *compute(void *state, OrtKernelContext *context) {
    const Kernel *kernel = state;
    const OrtApi *api = kernel->api;
    size_t count = 0;
    Rows in[INPUTS];
    TRY(ORT_INPUT_COUNT(context, &count));
    for (size_t index = 0; index < INPUTS; index++) TRY(read_rows(api, context, count, index, in + index));
    const char *wrong = problem(kernel, in);
    if (wrong != NULL) return ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, wrong);
    const Rows *query = in + QUERY, *key = in + KEY;
    const OrtValue *given = NULL;
    OrtShapeInfo *shape = NULL;
    size_t rank = 0;
    TRY(ORT_INPUT(context, QUERY, &given));
    TRY(ORT_GET_SHAPE(given, &shape));
    OrtStatus *error = ORT_GET_DIMENSIONS_COUNT(shape, &rank);
    ORT_RELEASE_SHAPE(shape);
    if (error) return error;
    const int64_t sizes[3] = {query->batch, query->rows, query->width};
    OrtValue *output = NULL;
    float *result = NULL;
    TRY(ORT_OUTPUT(context, 0, sizes + 3 - rank, rank, &output));
    TRY(ORT_GET_TENSOR_DATA(output, (void **)&result));
    Pool pool = {.api = api, .context = context};
    for (int64_t item = 0; item < query->batch; item++) {
        const VprmAttention attention = {
            .query = (const float *)query->data + item * query->rows * query->width,
            .past_key = in[PAST_KEY].data,
            .past_value = in[PAST_VALUE].data,
            .key = (const float *)key->data + item * key->rows * key->width,
            .value = (const float *)in[VALUE].data + item * key->rows * key->width,
            .mask = in[MASK].data,
            .result = result + item * query->rows * query->width,
            .queries = query->rows, .past = in[PAST_KEY].rows, .new_keys = key->rows,
            .heads = kernel->heads, .kv_heads = kernel->kv_heads, .head_dim = query->width / kernel->heads,
        };
        if (!vprm_attention(&attention, kernel->level, parallel_for, &pool))
            return ORT_CREATE_STATUS(ORT_FAIL, "vprm::Attention: out of memory");
        if (pool.error) return pool.error;
    }
    return NULL;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "Attention"; }
static int input_type(const OrtCustomOp *op, size_t index) { return (void)op, index == MASK ? ORT_BOOL : ORT_FLOAT; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static int input_kind(const OrtCustomOp *op, size_t index) {
    return (void)op, index <= VALUE ? ORT_REQUIRED : ORT_OPTIONAL;
}

static const OrtCustomOp attention_op = {
    VPRM_COMMON_ANSWERS,
    .get_name = name,
    .get_input_type = input_type,
    .get_input_count = input_count,
    .get_input_characteristic = input_kind,
    .create_kernel_v2 = create,
    .compute_v2 = compute,
};

/* A domain with all operators of this package, added to session options. It is the caller's, and has to outlive every
 * session made from the options. */
OrtStatus *vprm_add_operators(const OrtApi *api, OrtSessionOptions *options, OrtCustomOpDomain **domain) {
    *domain = NULL;
    TRY(ORT_CREATE_CUSTOM_OP_DOMAIN("vprm", domain));
    TRY(ORT_CUSTOM_OP_DOMAIN_ADD(*domain, &attention_op));
    TRY(ORT_CUSTOM_OP_DOMAIN_ADD(*domain, &vprm_linear_op));
    return ORT_ADD_CUSTOM_OP_DOMAIN(options, *domain);
}

/* Found by name when the library is registered with session options, from any thread. ONNX Runtime does not say when the
 * last session of these options is gone, so the domain, some hundred bytes, lives as long as the process. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->get_api(ORT_API_VERSION);
    if (api == NULL) return NULL; /* older than 1.17: opening the graph will say that the operator is unknown */
    OrtCustomOpDomain *domain = NULL;
    return vprm_add_operators(api, options, &domain);
}
