// C interface of deploykit, for C and every language that can call C: bundles, engines, images, predictions.
//
// Every function that can fail returns a code: DEPLOYKIT_OK, or one of the codes below. Its last argument receives a
// description of the error, to be freed by deploykit_error_free(); it may be NULL. An error stored there before is
// overwritten, not freed. After a failure, handles to be created are NULL and other results are unchanged.
//
// Handles are opaque and are freed by the function named after them; freeing NULL does nothing. Pointers returned by a
// function belong to its handle and stay valid until the handle is freed, unless stated otherwise. There is no global
// state: handles of different threads are independent.
//
// Strings are UTF-8 and zero-terminated. A NULL pointer argument is DEPLOYKIT_USAGE, unless stated otherwise; a handle
// that was freed or is invalid is undefined behaviour.
#ifndef DEPLOYKIT_DEPLOYKIT_H
#define DEPLOYKIT_DEPLOYKIT_H

// NOLINTBEGIN(modernize-use-using, modernize-deprecated-headers): it is C that is written here

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Version of the loaded library, which may differ from this header's: "0.1.0".
const char* deploykit_version(void);

// Error codes, equal to deploykit::ErrorCode and to the exit codes of the command line.
enum deploykit_code {
    DEPLOYKIT_OK = 0,
    DEPLOYKIT_CHECK_FAILED = 1,   // a checksum or the self-test failed
    DEPLOYKIT_USAGE = 2,          // an invalid argument: NULL, or a wrong type, shape or batch
    DEPLOYKIT_BAD_INPUT = 3,      // a file, folder or image that cannot be used
    DEPLOYKIT_BACKEND = 4,        // a library or device that is missing, fails, or does not match the engine
    DEPLOYKIT_INTERNAL = 5,       // a violated invariant of this library
    DEPLOYKIT_OUT_OF_MEMORY = 6,  // out of memory; the error is NULL, since it would need memory too
};

// Description of an error. Strings are valid until the error is freed.
typedef struct deploykit_error deploykit_error;

int deploykit_error_code(const deploykit_error* error);             // NULL: DEPLOYKIT_OK; the strings of NULL are ""
const char* deploykit_error_problem(const deploykit_error* error);  // what happened, as a sentence
const char* deploykit_error_where(const deploykit_error* error);    // a path, tensor, argument or library
const char* deploykit_error_remedy(const deploykit_error* error);   // what to do, as a sentence
const char* deploykit_error_message(const deploykit_error* error);  // all of it in one line: "WHERE: PROBLEM REMEDY"
void deploykit_error_free(deploykit_error* error);

// Data types of tensor elements, equal to deploykit::DataType.
enum deploykit_data_type {
    DEPLOYKIT_FLOAT32 = 0,
    DEPLOYKIT_FLOAT16 = 1,  // IEEE 754 binary16; deploykit_tensor_floats() converts it
    DEPLOYKIT_UINT8 = 2,
    DEPLOYKIT_INT8 = 3,
    DEPLOYKIT_INT32 = 4,
    DEPLOYKIT_INT64 = 5,
};

enum { DEPLOYKIT_MAX_RANK = 8 };  // the largest number of axes

// A non-owning view of dense, row-major elements in host memory.
typedef struct deploykit_tensor {
    const void* data;
    int32_t type;  // of deploykit_data_type
    size_t rank;   // number of axes, the used entries of `shape`
    int64_t shape[DEPLOYKIT_MAX_RANK];
} deploykit_tensor;

// Convert all elements in row-major order to float. DEPLOYKIT_USAGE unless `count`, the size of `values`, equals the
// tensor's number of elements.
int deploykit_tensor_floats(const deploykit_tensor* tensor, float* values, size_t count, deploykit_error** error);

// An input or output of an engine.
typedef struct deploykit_tensor_spec {
    const char* name;
    int32_t type;  // of deploykit_data_type
    size_t rank;
    const int64_t* shape;  // `rank` sizes; -1 for a batch that is chosen at run time
    const char* layout;    // "NCHW", "NHWC", "NC" (one vector per sample) or "ND" (any other batch)
} deploykit_tensor_spec;

typedef struct deploykit_batch_range {
    int64_t minimum;
    int64_t optimum;  // the batch size that engines are tuned for
    int64_t maximum;
} deploykit_batch_range;

// An open bundle: the folder that `deploykit export` wrote. Immutable; can be shared by threads.
typedef struct deploykit_bundle deploykit_bundle;

// Read and verify every file once. DEPLOYKIT_BAD_INPUT: not a bundle, a damaged manifest, another schema version, a
// path outside the folder. DEPLOYKIT_CHECK_FAILED: a file that is missing, is a link, or differs in size or digest.
int deploykit_bundle_open(const char* folder, deploykit_bundle** bundle, deploykit_error** error);
void deploykit_bundle_free(deploykit_bundle* bundle);

typedef struct deploykit_bundle_description {
    const char* model;      // "resnet18"
    const char* precision;  // "fp32", "fp16", "bf16", "int8" or "int8-fp16"
    const char* head;       // "logits", "probabilities", "embedding", or "tensors": outputs of unknown meaning
    int trained;            // 0: random weights, predictions are meaningless
} deploykit_bundle_description;

int deploykit_bundle_describe(const deploykit_bundle* bundle, deploykit_bundle_description* description,
                              deploykit_error** error);

// Whether the bundle has image preprocessing, 1 or 0. A preprocessor can only be created if it has.
int deploykit_bundle_takes_images(const deploykit_bundle* bundle, int* takes_images, deploykit_error** error);

// Class names in the order of the network's outputs; `count` is 0 if the bundle has none.
int deploykit_bundle_labels(const deploykit_bundle* bundle, const char* const** labels, size_t* count,
                            deploykit_error** error);

enum deploykit_runtime {
    DEPLOYKIT_RUNTIME_ANY = 0,          // TensorRT if the bundle has an engine for this machine, else ONNX Runtime
    DEPLOYKIT_RUNTIME_TENSORRT = 1,     // TensorRT, else an error
    DEPLOYKIT_RUNTIME_ONNXRUNTIME = 2,  // ONNX Runtime, else an error
};

// Zero is the default of every option: `deploykit_engine_options options = {0};`.
typedef struct deploykit_engine_options {
    int32_t runtime;              // of deploykit_runtime
    int32_t threads;              // ONNX Runtime: threads per call; 0: one per core
    int32_t device;               // TensorRT: CUDA device
    int32_t without_cuda_graphs;  // TensorRT: if not 0, launch kernels one by one instead of replaying a CUDA graph
} deploykit_engine_options;

// A loaded engine. Immutable; can be shared by threads, each of which creates its own context.
typedef struct deploykit_engine deploykit_engine;

// `options` may be NULL for the default. The bundle can be freed once the engine is loaded.
// DEPLOYKIT_BACKEND if no runtime can run the bundle here; the message states the reason for each runtime.
int deploykit_engine_load(const deploykit_bundle* bundle, const deploykit_engine_options* options,
                          deploykit_engine** engine, deploykit_error** error);
void deploykit_engine_free(deploykit_engine* engine);  // its contexts stay usable

// Inputs and outputs in the order that contexts use.
int deploykit_engine_inputs(const deploykit_engine* engine, const deploykit_tensor_spec** inputs, size_t* count,
                            deploykit_error** error);
int deploykit_engine_outputs(const deploykit_engine* engine, const deploykit_tensor_spec** outputs, size_t* count,
                             deploykit_error** error);
int deploykit_engine_batch(const deploykit_engine* engine, deploykit_batch_range* batch, deploykit_error** error);

// Name and version of the inference library: "ONNX Runtime 1.21.0".
int deploykit_engine_runtime(const deploykit_engine* engine, const char** runtime, deploykit_error** error);

// Path of the engine in the bundle: "model.onnx".
int deploykit_engine_file(const deploykit_engine* engine, const char** file, deploykit_error** error);

// Engines of preferred runtimes that were skipped, each with the reason: "tensorrt: no NVIDIA driver is installed."
int deploykit_engine_skipped_engines(const deploykit_engine* engine, const char* const** reasons, size_t* count,
                                     deploykit_error** error);

// Runs an engine and holds its outputs. It can move between threads but is used by one at a time.
typedef struct deploykit_context deploykit_context;

int deploykit_context_create(const deploykit_engine* engine, deploykit_context** context, deploykit_error** error);
void deploykit_context_free(deploykit_context* context);

// Run the network. `inputs` are in the order of deploykit_engine_inputs(), with equal batch sizes within
// deploykit_engine_batch(); they are read until the call returns. `outputs` are in the order of
// deploykit_engine_outputs(), valid until the next call of this context or until it is freed. Repeated calls with the
// same batch size and input addresses allocate nothing. DEPLOYKIT_USAGE if a number, type or shape does not match;
// DEPLOYKIT_BACKEND if the library or device fails.
int deploykit_context_run(deploykit_context* context, const deploykit_tensor* inputs, size_t input_count,
                          const deploykit_tensor** outputs, size_t* output_count, deploykit_error** error);

// Compare the engine's outputs for the golden inputs with those of the original network (eager PyTorch or an ONNX file)
// within the manifest's tolerance. DEPLOYKIT_CHECK_FAILED with every exceeded bound.
int deploykit_self_test(const deploykit_bundle* bundle, const deploykit_engine* engine, deploykit_error** error);

enum deploykit_channel_order {
    DEPLOYKIT_RGB = 0,
    DEPLOYKIT_BGR = 1,  // OpenCV's
};

// A non-owning view of pixels: height×width×3, uint8.
typedef struct deploykit_image {
    const uint8_t* pixels;
    int32_t height;
    int32_t width;
    int32_t order;     // of deploykit_channel_order
    ptrdiff_t stride;  // bytes from one row to the next; 0: rows without padding
} deploykit_image;

// Converts decoded images to the network's input, with its own buffers. Used by one thread at a time.
typedef struct deploykit_preprocessor deploykit_preprocessor;

// DEPLOYKIT_USAGE for a bundle without image preprocessing.
int deploykit_preprocessor_create(const deploykit_bundle* bundle, deploykit_preprocessor** preprocessor,
                                  deploykit_error** error);
void deploykit_preprocessor_free(deploykit_preprocessor* preprocessor);

// Convert `count` images of any size to one batch: `count`×3×height×width of the network's data type,
// `count`×height×width×3 if its input is NHWC, or the latter as uint8 if the graph preprocesses. The data of `input`
// are valid until the next call of this preprocessor or until it is freed. DEPLOYKIT_BAD_INPUT for an image that is
// empty, too large or too elongated.
int deploykit_preprocessor_run(deploykit_preprocessor* preprocessor, const deploykit_image* images, size_t count,
                               deploykit_tensor* input, deploykit_error** error);

typedef struct deploykit_prediction {
    size_t index;       // of the class
    const char* label;  // class name, owned by the bundle; NULL if it has none for the class
    float probability;  // softmax of logits, or the output itself if the head is "probabilities"
} deploykit_prediction;

// Find the `k` most probable classes of row `sample` of N×classes or N×classes×1×1 scores, best first, ties by index.
// `predictions` has room for `k`; `count` is the number written, less than `k` if there are fewer classes.
// DEPLOYKIT_USAGE for a bundle whose head is "embedding" or "tensors", for scores of another shape, and for a sample
// outside N.
int deploykit_top_k(const deploykit_bundle* bundle, const deploykit_tensor* scores, size_t sample, size_t k,
                    deploykit_prediction* predictions, size_t* count, deploykit_error** error);

#ifdef __cplusplus
}
#endif

// NOLINTEND(modernize-use-using, modernize-deprecated-headers)

#endif
