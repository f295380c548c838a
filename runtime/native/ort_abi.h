/* What this package needs of ONNX Runtime's C interface, whose headers are not part of its Python package: its custom
 * operators, and the C++ library, which runs the graphs through it.
 *
 * The interface is a table of functions that only grows at its end, so a function keeps its place in all versions.
 * Source: microsoft/onnxruntime, include/onnxruntime/core/session/onnxruntime_c_api.h, structs OrtApiBase, OrtApi and
 * OrtCustomOp; places counted in version 1.29's OrtApi. The last function used here is in it since version 1.17.
 */
#ifndef VPRM_ORT_ABI_H
#define VPRM_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ORT_API_VERSION = 17, ORT_CUSTOM_OP_VERSION = 16 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT64 = 7, ORT_BOOL = 9, ORT_FLOAT16 = 10 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

typedef struct OrtStatus OrtStatus; /* NULL: no error */
typedef struct OrtValue OrtValue;
typedef struct OrtShapeInfo OrtShapeInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;
typedef void (*OrtLogger)(void *context, int severity, const char *category, const char *id, const char *where,
                          const char *message);

typedef struct {
    void (*functions[275])(void);
} OrtApi;

typedef struct {
    const OrtApi *(*get_api)(uint32_t version); /* NULL where the library is older */
    const char *(*get_version)(void);
} OrtApiBase;

#define ORT_FUNCTION(place, type) ((type)api->functions[place])
#define ORT_CREATE_STATUS ORT_FUNCTION(0, OrtStatus * (*)(int code, const char *message))
#define ORT_CREATE_CUSTOM_OP_DOMAIN ORT_FUNCTION(26, OrtStatus * (*)(const char *name, OrtCustomOpDomain **))
#define ORT_CUSTOM_OP_DOMAIN_ADD ORT_FUNCTION(27, OrtStatus * (*)(OrtCustomOpDomain *, const OrtCustomOp *))
#define ORT_ADD_CUSTOM_OP_DOMAIN ORT_FUNCTION(28, OrtStatus * (*)(OrtSessionOptions *, OrtCustomOpDomain *))
#define ORT_GET_TENSOR_DATA ORT_FUNCTION(51, OrtStatus * (*)(OrtValue *, void **))
#define ORT_GET_DIMENSIONS_COUNT ORT_FUNCTION(61, OrtStatus * (*)(const OrtShapeInfo *, size_t *))
#define ORT_GET_DIMENSIONS ORT_FUNCTION(62, OrtStatus * (*)(const OrtShapeInfo *, int64_t *, size_t))
#define ORT_GET_SHAPE ORT_FUNCTION(65, OrtStatus * (*)(const OrtValue *, OrtShapeInfo **))
#define ORT_GET_ATTRIBUTE_INT ORT_FUNCTION(86, OrtStatus * (*)(const OrtKernelInfo *, const char *, int64_t *))
#define ORT_INPUT_COUNT ORT_FUNCTION(88, OrtStatus * (*)(const OrtKernelContext *, size_t *))
#define ORT_INPUT ORT_FUNCTION(90, OrtStatus * (*)(const OrtKernelContext *, size_t, const OrtValue **))
#define ORT_OUTPUT ORT_FUNCTION(91, OrtStatus * (*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **))
#define ORT_RELEASE_SHAPE ORT_FUNCTION(99, void (*)(OrtShapeInfo *))
#define ORT_GET_ERROR_MESSAGE ORT_FUNCTION(2, const char *(*)(const OrtStatus *))
#define ORT_CREATE_ENV ORT_FUNCTION(4, OrtStatus * (*)(OrtLogger, void *, int severity, const char *name, OrtEnv **))
#define ORT_CREATE_SESSION \
    ORT_FUNCTION(7, OrtStatus * (*)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **))
#define ORT_RUN                                                                                                      \
    ORT_FUNCTION(9, OrtStatus * (*)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, \
                                    size_t, const char *const *, size_t, OrtValue **))
#define ORT_CREATE_SESSION_OPTIONS ORT_FUNCTION(10, OrtStatus * (*)(OrtSessionOptions **))
#define ORT_SET_LOG_SEVERITY ORT_FUNCTION(22, OrtStatus * (*)(OrtSessionOptions *, int severity))
#define ORT_SET_THREADS ORT_FUNCTION(24, OrtStatus * (*)(OrtSessionOptions *, int threads))
#define ORT_INPUT_COUNT_OF_SESSION ORT_FUNCTION(30, OrtStatus * (*)(const OrtSession *, size_t *))
#define ORT_OUTPUT_COUNT_OF_SESSION ORT_FUNCTION(31, OrtStatus * (*)(const OrtSession *, size_t *))
#define ORT_INPUT_NAME ORT_FUNCTION(36, OrtStatus * (*)(const OrtSession *, size_t, OrtAllocator *, char **))
#define ORT_OUTPUT_NAME ORT_FUNCTION(37, OrtStatus * (*)(const OrtSession *, size_t, OrtAllocator *, char **))
#define ORT_CREATE_TENSOR                                                                                           \
    ORT_FUNCTION(49, OrtStatus * (*)(const OrtMemoryInfo *, void *, size_t bytes, const int64_t *, size_t, int type, \
                                     OrtValue **))
#define ORT_CREATE_CPU_MEMORY ORT_FUNCTION(69, OrtStatus * (*)(int allocator, int memory, OrtMemoryInfo **))
#define ORT_FREE_MEMORY ORT_FUNCTION(76, OrtStatus * (*)(OrtAllocator *, void *))
#define ORT_DEFAULT_ALLOCATOR ORT_FUNCTION(78, OrtStatus * (*)(OrtAllocator **))
#define ORT_RELEASE_ENV ORT_FUNCTION(92, void (*)(OrtEnv *))
#define ORT_RELEASE_STATUS ORT_FUNCTION(93, void (*)(OrtStatus *))
#define ORT_RELEASE_MEMORY ORT_FUNCTION(94, void (*)(OrtMemoryInfo *))
#define ORT_RELEASE_SESSION ORT_FUNCTION(95, void (*)(OrtSession *))
#define ORT_RELEASE_VALUE ORT_FUNCTION(96, void (*)(OrtValue *))
#define ORT_RELEASE_SESSION_OPTIONS ORT_FUNCTION(100, void (*)(OrtSessionOptions *))
#define ORT_RELEASE_CUSTOM_OP_DOMAIN ORT_FUNCTION(101, void (*)(OrtCustomOpDomain *))
#define ORT_ADD_CONFIG_ENTRY ORT_FUNCTION(130, OrtStatus * (*)(OrtSessionOptions *, const char *key, const char *value))
#define ORT_SET_LOGGER ORT_FUNCTION(266, OrtStatus * (*)(OrtSessionOptions *, OrtLogger, void *))
#define ORT_PARALLEL_FOR \
    ORT_FUNCTION(274, OrtStatus * (*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *))

struct OrtCustomOp {
    uint32_t version;
    void *(*create_kernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*get_name)(const OrtCustomOp *);
    const char *(*get_execution_provider)(const OrtCustomOp *);
    int (*get_input_type)(const OrtCustomOp *, size_t);
    size_t (*get_input_count)(const OrtCustomOp *);
    int (*get_output_type)(const OrtCustomOp *, size_t);
    size_t (*get_output_count)(const OrtCustomOp *);
    void (*compute)(void *kernel, OrtKernelContext *);
    void (*destroy_kernel)(void *kernel);
    int (*get_input_characteristic)(const OrtCustomOp *, size_t);
    int (*get_output_characteristic)(const OrtCustomOp *, size_t);
    int (*get_input_memory_type)(const OrtCustomOp *, size_t);
    int (*get_variadic_input_min)(const OrtCustomOp *);
    int (*get_variadic_input_homogeneity)(const OrtCustomOp *);
    int (*get_variadic_output_min)(const OrtCustomOp *);
    int (*get_variadic_output_homogeneity)(const OrtCustomOp *);
    OrtStatus *(*create_kernel_v2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
    OrtStatus *(*compute_v2)(void *kernel, OrtKernelContext *);
};

OrtStatus *vprm_add_operators(const OrtApi *api, OrtSessionOptions *options, OrtCustomOpDomain **domain);

#ifdef __cplusplus
}
#endif

#endif
