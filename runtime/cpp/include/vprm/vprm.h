/* libvprm: step scores of visual process reward models, in your process.
 *
 *     vprm_model *model;
 *     vprm_error *error = vprm_model_open("bundle", NULL, &model);
 *     if (error) { fprintf(stderr, "%s\n", vprm_error_message(error)); vprm_error_free(error); return 1; }
 *
 * Rules that hold for every function:
 * - Functions that can fail return NULL, or an error that is yours to free. Nothing is thrown, printed or ended.
 * - Handles are opaque and may be freed in any order; NULL may be freed, and
 *   asked: it has no results. There is nothing to start or to shut down.
 * - Texts are UTF-8 with their size in bytes; they and pixels are copied unless a comment says otherwise.
 * - A model serves any number of threads at once. A session and all that were forked from it belong to one thread at a
 *   time: a second one gets a VPRM_BUSY error. Other handles are not to be used by two threads at once, but for
 *   vprm_cancel_now(). A handle must not be freed during a call that uses it.
 * - No struct has a public layout, so a program built against this header runs with every later library of the same
 *   vprm_abi_version().
 */
#ifndef VPRM_VPRM_H
#define VPRM_VPRM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VPRM_ABI_VERSION 1

#define VPRM_API __attribute__((visibility("default")))

typedef struct vprm_error vprm_error;
typedef struct vprm_model_options vprm_model_options;
typedef struct vprm_model vprm_model;
typedef struct vprm_input vprm_input;
typedef struct vprm_responses vprm_responses;
typedef struct vprm_result vprm_result;
typedef struct vprm_session vprm_session;
typedef struct vprm_cancel vprm_cancel;

#ifdef __cplusplus
#define VPRM_ENUM enum : int /* what is no value of it is an error, not undefined behaviour */
#else
#define VPRM_ENUM enum
#endif

/* What a program may decide by; vprm_error_reason() is finer. Later versions may add some. */
typedef VPRM_ENUM {
    VPRM_BUNDLE = 1,      /* a bundle directory that is missing, damaged or of another version */
    VPRM_UNSUPPORTED = 2, /* something that this library cannot do; the message says what can */
    VPRM_INPUT = 3,       /* an argument, image, question or response that cannot be scored */
    VPRM_ENGINE = 4,      /* ONNX Runtime could not be opened, or failed */
    VPRM_CANCELLED = 5,
    VPRM_DEADLINE = 6,
    VPRM_BUSY = 7, /* another thread is using the session's tree */
    VPRM_MEMORY = 8,
    VPRM_INTERNAL = 9 /* a defect of this library */
} vprm_error_code;

typedef VPRM_ENUM {
    VPRM_MEAN = 0,
    VPRM_MIN = 1,
    VPRM_LAST = 2,
    VPRM_PRODUCT = 3,
    VPRM_MAX = 4
} vprm_aggregate; /* how step scores become a response score */

typedef VPRM_ENUM { VPRM_LOG_DEBUG = 0, VPRM_LOG_INFO = 1, VPRM_LOG_WARNING = 2, VPRM_LOG_ERROR = 3 } vprm_log_level;

/* May be called by any thread that scores; must not call into this library. */
typedef void (*vprm_log_callback)(void *context, int level, const char *message);

/* The library's, as "1.2.3"; and of its binary interface: the one that this header was made for is VPRM_ABI_VERSION. */
VPRM_API const char *vprm_version(void);
VPRM_API int vprm_abi_version(void);

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

VPRM_API vprm_error_code vprm_error_get_code(const vprm_error *error);
/* What happened, what was expected, how to mend it. Lives as long as the error. */
VPRM_API const char *vprm_error_message(const vprm_error *error);
/* The cause for programs, as "prompt_too_long"; it stays when messages are worded anew. */
VPRM_API const char *vprm_error_reason(const vprm_error *error);
VPRM_API void vprm_error_free(vprm_error *error);

/* ---- Models ---------------------------------------------------------------------------------------------------- */

VPRM_API vprm_error *vprm_model_options_new(vprm_model_options **options);
VPRM_API void vprm_model_options_free(vprm_model_options *options);
/* ONNX Runtime's shared library; without this the environment's VPRM_ORT_LIBRARY, then libonnxruntime.so.1. */
VPRM_API vprm_error *vprm_model_options_set_ort_library(vprm_model_options *options, const char *path);
/* A host that has ONNX Runtime itself passes what its OrtGetApiBase() returns; nothing is loaded then. */
VPRM_API vprm_error *vprm_model_options_set_ort_api(vprm_model_options *options, const void *ort_api_base);
/* CPU threads of one engine call, the caller's among them; 0: all cores. */
VPRM_API vprm_error *vprm_model_options_set_threads(vprm_model_options *options, int threads);
/* New tokens of one engine call at most (default 512): bounds memory, and how long a cancelled call goes on. */
VPRM_API vprm_error *vprm_model_options_set_max_block_tokens(vprm_model_options *options, size_t tokens);
/* vprm_score() keeps prefixes for later calls with the same images and question (default 0: none). The budget is of real
 * bytes and bounds all caches of the model, those of open sessions and calls under way included: kept prefixes make room
 * for what is in use, which is never taken. */
VPRM_API vprm_error *vprm_model_options_set_prefix_cache_bytes(vprm_model_options *options, size_t bytes);
VPRM_API vprm_error *vprm_model_options_set_log(vprm_model_options *options, vprm_log_callback callback, void *context);

/* Opens a bundle directory. `options` may be NULL; they are not needed afterwards. */
VPRM_API vprm_error *vprm_model_open(const char *bundle, const vprm_model_options *options, vprm_model **model);
VPRM_API void vprm_model_free(vprm_model *model);
/* Engine, version and precisions, for people. Lives as long as the model. */
VPRM_API const char *vprm_model_description(const vprm_model *model);
/* Edge of a tile in pixels, for vprm_input_add_tiles(). */
VPRM_API int vprm_model_tile_size(const vprm_model *model);
/* Real bytes of the prefixes that are kept now. */
VPRM_API size_t vprm_model_prefix_cache_bytes(const vprm_model *model);
/* Checks every file of a bundle against the SHA-256 in its manifest. */
VPRM_API vprm_error *vprm_bundle_verify(const char *bundle);

/* ---- Inputs: images and a question ----------------------------------------------------------------------------- */

VPRM_API vprm_error *vprm_input_new(vprm_input **input);
VPRM_API void vprm_input_free(vprm_input *input);
VPRM_API vprm_error *vprm_input_set_question(vprm_input *input, const char *text, size_t bytes);
/* Adds an image of RGB pixels, 8 bits each, rows `stride_bytes` apart (at least 3 * width_px). The pixels are not
 * copied: they must stay while a call takes the input. */
VPRM_API vprm_error *vprm_input_add_rgb8(vprm_input *input, const uint8_t *pixels, int width_px, int height_px,
                                         size_t stride_bytes);
/* Adds an image that was cut into tiles already: RGB8 [count, size, size, 3], thumbnail last. Not copied either. */
VPRM_API vprm_error *vprm_input_add_tiles(vprm_input *input, const uint8_t *tiles, int count);
/* Tiles per image at most, thumbnail not counted, 1 to 256; 0: the bundle's. */
VPRM_API vprm_error *vprm_input_set_max_tiles(vprm_input *input, int max_tiles);

/* ---- Responses ------------------------------------------------------------------------------------------------- */

VPRM_API vprm_error *vprm_responses_new(vprm_responses **responses);
VPRM_API void vprm_responses_free(vprm_responses *responses);
/* Adds a response as one text, split into steps where the model's rule says (on blank lines); for
 * vprm_session_score_next() an alternative, which is not split. */
VPRM_API vprm_error *vprm_responses_add_text(vprm_responses *responses, const char *text, size_t bytes);
/* Adds a response without steps, and a step to the response added last. */
VPRM_API vprm_error *vprm_responses_add_steps(vprm_responses *responses);
VPRM_API vprm_error *vprm_responses_add_step(vprm_responses *responses, const char *text, size_t bytes);
/* Joins consecutive steps so that a response has at most this many; 0: no limit. */
VPRM_API vprm_error *vprm_responses_set_max_steps(vprm_responses *responses, int max_steps);
VPRM_API vprm_error *vprm_responses_set_aggregate(vprm_responses *responses, vprm_aggregate aggregate);

/* ---- Cancellation ---------------------------------------------------------------------------------------------- */

VPRM_API vprm_error *vprm_cancel_new(vprm_cancel **cancel);
VPRM_API void vprm_cancel_free(vprm_cancel *cancel);
/* Ends calls that were given this handle at their next block, with VPRM_CANCELLED. Any thread may call it. */
VPRM_API void vprm_cancel_now(vprm_cancel *cancel);
/* Ends them with VPRM_DEADLINE once so many milliseconds from now have passed. */
VPRM_API void vprm_cancel_set_deadline_ms(vprm_cancel *cancel, int64_t from_now);

/* ---- Scoring --------------------------------------------------------------------------------------------------- */

/* Scores all responses to one input. A response that cannot be scored carries its error in the result. `cancel` may be
 * NULL, here and below. */
VPRM_API vprm_error *vprm_score(vprm_model *model, const vprm_input *input, const vprm_responses *responses,
                                const vprm_cancel *cancel, vprm_result **result);

VPRM_API void vprm_result_free(vprm_result *result);
VPRM_API size_t vprm_result_image_count(const vprm_result *result);
/* Tiles of an image, thumbnail included. Indices out of range give 0, NaN or NULL. */
VPRM_API int vprm_result_tiles(const vprm_result *result, size_t image);
/* Results are in input order, duplicates kept. */
VPRM_API size_t vprm_result_candidate_count(const vprm_result *result);
/* Index of the highest score, the first of equals; -1 if nothing could be scored. */
VPRM_API ptrdiff_t vprm_result_best(const vprm_result *result);
/* Why a candidate has no score, and the reason for programs; NULL if it has one. Texts live as long as the result. */
VPRM_API const char *vprm_result_candidate_error(const vprm_result *result, size_t candidate);
VPRM_API const char *vprm_result_candidate_reason(const vprm_result *result, size_t candidate);
/* 0 to 1; NaN if the candidate could not be scored. */
VPRM_API double vprm_result_candidate_score(const vprm_result *result, size_t candidate);
VPRM_API size_t vprm_result_step_count(const vprm_result *result, size_t candidate);
VPRM_API double vprm_result_step_score(const vprm_result *result, size_t candidate, size_t step);
VPRM_API const char *vprm_result_step_text(const vprm_result *result, size_t candidate, size_t step, size_t *bytes);

/* ---- Sessions: images and question run once, then any tree of steps --------------------------------------------- */

VPRM_API vprm_error *vprm_session_open(vprm_model *model, const vprm_input *input, const vprm_cancel *cancel,
                                       vprm_session **session);
VPRM_API void vprm_session_free(vprm_session *session);
/* Whole responses, whatever is committed. */
VPRM_API vprm_error *vprm_session_score(vprm_session *session, const vprm_responses *responses, const vprm_cancel *cancel,
                                        vprm_result **result);
/* Commits a step; `score` is its score. Nothing is committed on an error. */
VPRM_API vprm_error *vprm_session_append(vprm_session *session, const char *text, size_t bytes, const vprm_cancel *cancel,
                                         double *score);
/* Alternatives for the next step, each after the committed ones; none is committed. A candidate is one alternative. */
VPRM_API vprm_error *vprm_session_score_next(vprm_session *session, const vprm_responses *alternatives,
                                             const vprm_cancel *cancel, vprm_result **result);
/* A second session with the same committed steps; what both share is stored once. */
VPRM_API vprm_error *vprm_session_fork(const vprm_session *session, vprm_session **fork);
/* Forgets the last committed steps. */
VPRM_API vprm_error *vprm_session_rewind(vprm_session *session, size_t steps);
VPRM_API vprm_error *vprm_session_step_count(const vprm_session *session, size_t *count);
VPRM_API vprm_error *vprm_session_step_score(const vprm_session *session, size_t step, double *score);
/* Tokens before the first step. */
VPRM_API size_t vprm_session_prefix_tokens(const vprm_session *session);

#ifdef __cplusplus
}
#endif

#endif
