/* What the operators share in their dealings with ONNX Runtime. */
#ifndef VPRM_ORT_OPERATOR_H
#define VPRM_ORT_OPERATOR_H

#include <stdint.h>
#include <stdlib.h>

#include "cpu.h"
#include "ort_abi.h"

#define TRY(call)                   \
    do {                            \
        OrtStatus *error = (call);  \
        if (error) return error;    \
    } while (0)

typedef struct {
    const void *data; /* NULL: not given */
    int64_t batch, rows, width;
} Rows;

static inline OrtStatus *read_rows(const OrtApi *api, const OrtKernelContext *context, size_t count, size_t index, Rows *rows) {
    *rows = (Rows){.batch = 1};
    const OrtValue *value = NULL;
    if (index < count) TRY(ORT_INPUT(context, index, &value));
    if (value == NULL) return NULL;
    TRY(ORT_GET_TENSOR_DATA((OrtValue *)value, (void **)&rows->data));
    OrtShapeInfo *shape = NULL;
    TRY(ORT_GET_SHAPE(value, &shape));
    size_t rank = 0;
    int64_t sizes[3] = {1, 1, 1};
    OrtStatus *error = ORT_GET_DIMENSIONS_COUNT(shape, &rank);
    if (!error && rank != 2 && rank != 3)
        error = ORT_CREATE_STATUS(ORT_INVALID_ARGUMENT, "vprm operators: inputs have 2 or 3 dimensions");
    if (!error) error = ORT_GET_DIMENSIONS(shape, sizes + 3 - rank, rank);
    ORT_RELEASE_SHAPE(shape);
    rows->batch = sizes[0], rows->rows = sizes[1], rows->width = sizes[2];
    return error;
}

typedef struct {
    const OrtApi *api;
    OrtKernelContext *context;
    OrtStatus *error;
} Pool;

static inline void parallel_for(void *pool, void (*work)(void *, size_t), size_t count, void *context) {
    Pool *threads = pool;
    const OrtApi *api = threads->api;
    if (!threads->error) threads->error = ORT_PARALLEL_FOR(threads->context, work, count, 0, context);
}

/* The answers that every operator of this package gives: it runs on the CPU, its inputs and its one output lie in main
 * memory, and it has no variadic arguments. Each operator adds its name, its inputs and its two functions. */
static inline void vprm_destroy(void *kernel) { free(kernel); }
static inline const char *vprm_provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static inline int vprm_output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static inline size_t vprm_output_count(const OrtCustomOp *op) { return (void)op, 1; }
static inline int vprm_output_kind(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_REQUIRED; }
static inline int vprm_memory_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static inline int vprm_variadic(const OrtCustomOp *op) { return (void)op, 1; }

#define VPRM_COMMON_ANSWERS                        \
    .version = ORT_CUSTOM_OP_VERSION,              \
    .get_execution_provider = vprm_provider,       \
    .get_output_type = vprm_output_type,           \
    .get_output_count = vprm_output_count,         \
    .destroy_kernel = vprm_destroy,                \
    .get_output_characteristic = vprm_output_kind, \
    .get_input_memory_type = vprm_memory_type,     \
    .get_variadic_input_min = vprm_variadic,       \
    .get_variadic_input_homogeneity = vprm_variadic, \
    .get_variadic_output_min = vprm_variadic,      \
    .get_variadic_output_homogeneity = vprm_variadic

extern const OrtCustomOp vprm_linear_op;

#endif
