/* ONNX Runtime's operator vprm::Linear, on the threads of its session: linear.h says what it computes.
 *
 *     input     float32 [.., inputs]
 *     weight    uint8, laid out as linear.h says
 *     scale     float32 [panels, groups, 32]; not given for 16 bits
 *     bias      (optional) float32 [padded outputs]
 *     residual  (optional) float32 [.., outputs], added last
 *     -> result float32 [.., outputs]
 *     attributes: inputs, outputs, group, bits, activation, layout (of this version: LAYOUT)
 */
#include <stdlib.h>

#include "linear.h"
#include "ort_operator.h"

enum { INPUT, WEIGHT, SCALE, BIAS, RESIDUAL, INPUTS };
enum { LAYOUT = 2 };

typedef struct {
    const OrtApi *api;
    VprmLinear linear; /* its numbers; no arrays */
    VprmLevel level;
} Kernel;

static OrtStatus *read_attributes(const OrtApi *api, const OrtKernelInfo *info, Kernel *kernel) {
    int64_t bits = 0, activation = 0, layout = 0;
    VprmLinear *linear = &kernel->linear;
    TRY(ORT_GET_ATTRIBUTE_INT(info, "inputs", &linear->inputs));
    TRY(ORT_GET_ATTRIBUTE_INT(info, "outputs", &linear->outputs));
    TRY(ORT_GET_ATTRIBUTE_INT(info, "group", &linear->group));
    TRY(ORT_GET_ATTRIBUTE_INT(info, "bits", &bits));
    TRY(ORT_GET_ATTRIBUTE_INT(info, "activation", &activation));
    TRY(ORT_GET_ATTRIBUTE_INT(info, "layout", &layout));
    linear->bits = (int32_t)bits, linear->activation = (int32_t)activation;
    if (layout != LAYOUT)
        return ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT,
                                 "vprm::Linear: the bundle's weights are laid out for another version of this package: "
                                 "export it again with  vprm export --target cpu-native");
    const char *wrong = vprm_linear_problem(linear);
    if (wrong == NULL) wrong = vprm_choose_level(&kernel->level);
    return wrong == NULL ? NULL : ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, wrong);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    Kernel *made = calloc(1, sizeof *made);
    if (made == NULL) return ORT_CREATE_STATUS(ORT_FAIL, "vprm::Linear: out of memory");
    made->api = api;
    OrtStatus *error = read_attributes(api, info, made);
    if (error) {
        free(made);
        return error;
    }
    *kernel = made;
    return NULL;
}

/* One input's array and its dimensions, at most 3. */
typedef struct {
    const void *data; /* NULL: not given */
    size_t rank;
    int64_t sizes[3], count;
} Array;

static OrtStatus *read_array(const OrtApi *api, const OrtKernelContext *context, size_t count, size_t index, Array *array) {
    *array = (Array){.count = 1};
    const OrtValue *value = NULL;
    if (index < count) TRY(ORT_INPUT(context, index, &value));
    if (value == NULL) return NULL;
    TRY(ORT_GET_TENSOR_DATA((OrtValue *)value, (void **)&array->data));
    OrtShapeInfo *shape = NULL;
    TRY(ORT_GET_SHAPE(value, &shape));
    OrtStatus *error = ORT_GET_DIMENSIONS_COUNT(shape, &array->rank);
    if (!error && (array->rank < 1 || array->rank > 3))
        error = ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, "vprm::Linear: inputs have 1 to 3 dimensions");
    if (!error) error = ORT_GET_DIMENSIONS(shape, array->sizes, array->rank);
    ORT_RELEASE_SHAPE(shape);
    for (size_t i = 0; !error && i < array->rank; i++) array->count *= array->sizes[i];
    return error;
}

static const char *problem(const VprmLinear *linear, const Array *in) {
    const int64_t padded = vprm_linear_padded_outputs(linear), groups = linear->group ? linear->inputs / linear->group : 1;
    if (in[INPUT].sizes[in[INPUT].rank - 1] != linear->inputs) return "vprm::Linear: the input has another width";
    if (in[WEIGHT].count != vprm_linear_weight_bytes(linear)) return "vprm::Linear: the weight has another size";
    if ((in[SCALE].data == NULL) != (linear->bits == 16)) return "vprm::Linear: integers need scales, bfloat16 has none";
    if (in[SCALE].data != NULL && in[SCALE].count != groups * padded) return "vprm::Linear: there are more or fewer scales than groups and outputs";
    if (in[BIAS].data != NULL && in[BIAS].count != padded) return "vprm::Linear: the bias has another size";
    if (in[RESIDUAL].data != NULL && in[RESIDUAL].count != linear->rows * linear->outputs)
        return "vprm::Linear: the residual is not shaped as the result";
    return NULL;
}

static OrtStatus *compute(void *state, OrtKernelContext *context) {
    const Kernel *kernel = state;
    const OrtApi *api = kernel->api;
    size_t count = 0;
    Array in[INPUTS];
    TRY(ORT_INPUT_COUNT(context, &count));
    for (size_t i = 0; i < INPUTS; i++) TRY(read_array(api, context, count, i, in + i));
    VprmLinear linear = kernel->linear;
    linear.rows = in[INPUT].count / linear.inputs;
    const char *wrong = problem(&linear, in);
    if (wrong != NULL) return ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, wrong);
    int64_t sizes[3] = {in[INPUT].sizes[0], in[INPUT].sizes[1], in[INPUT].sizes[2]};
    sizes[in[INPUT].rank - 1] = linear.outputs;
    OrtValue *output = NULL;
    TRY(ORT_OUTPUT(context, 0, sizes, in[INPUT].rank, &output));
    TRY(ORT_GET_TENSOR_DATA(output, (void **)&linear.result));
    linear.input = in[INPUT].data, linear.weight = in[WEIGHT].data, linear.scale = in[SCALE].data;
    linear.bias = in[BIAS].data, linear.residual = in[RESIDUAL].data;
    Pool pool = {.api = api, .context = context};
    if (!vprm_linear(&linear, kernel->level, parallel_for, &pool))
        return ORT_CREATE_STATUS(ORT_FAIL, "vprm::Linear: out of memory");
    return pool.error;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "Linear"; }
static int input_type(const OrtCustomOp *op, size_t index) { return (void)op, index == WEIGHT ? ORT_UINT8 : ORT_FLOAT; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static int input_kind(const OrtCustomOp *op, size_t index) { return (void)op, index <= WEIGHT ? ORT_REQUIRED : ORT_OPTIONAL; }

const OrtCustomOp vprm_linear_op = {
    VPRM_COMMON_ANSWERS,
    .get_name = name,
    .get_input_type = input_type,
    .get_input_count = input_count,
    .get_input_characteristic = input_kind,
    .create_kernel_v2 = create,
    .compute_v2 = compute,
};
