// deploykit's interface for C, and for every language that can call C: bundles, engines, images, answers.
//
// Every function that can fail returns a code: DEPLOYKIT_OK, or one of the numbers below. Its last argument receives
// what went wrong in words, to be freed by deploykit_error_free(); it may be NULL where the code is enough. An error
// that was stored there before is overwritten, not freed. After a failure, handles that would have been made are NULL
// and other results are untouched.
//
// Handles are opaque and are freed by the function named after them; freeing NULL does nothing. What a function hands
// out by pointer belongs to the handle that it was asked of, and stays valid until that is freed, unless its comment
// says otherwise. Nothing is global: handles of different threads do not know of each other.
//
// Texts are UTF-8 and end in a zero byte. A pointer argument that is NULL is DEPLOYKIT_USAGE, unless its comment says
// otherwise; a handle that was freed, or is none, is undefined behaviour, as in all of C.
#ifndef DEPLOYKIT_DEPLOYKIT_H
#define DEPLOYKIT_DEPLOYKIT_H

// NOLINTBEGIN(modernize-use-using, modernize-deprecated-headers): it is C that is written here

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The version of the library that answers, which may be another than this header's: "0.1.0".
const char* deploykit_version(void);

// The kinds of failure, numbered like deploykit::ErrorCode and the exit codes of the command line.
enum deploykit_code {
    DEPLOYKIT_OK = 0,
    DEPLOYKIT_CHECK_FAILED = 1,  // a digest or the self-test: the bundle, or what computes it, is not what was exported
    DEPLOYKIT_USAGE = 2,         // the caller's own words: NULL, or a wrong type, shape or batch
    DEPLOYKIT_BAD_INPUT = 3,     // a file, folder or image that cannot be used as it is
    DEPLOYKIT_BACKEND = 4,       // a library or device that is missing, refuses, or is another than an engine needs
    DEPLOYKIT_INTERNAL = 5,      // a promise of this library that did not hold
    DEPLOYKIT_OUT_OF_MEMORY = 6,  // there is no memory for the work; the error is NULL, for it would need some too
};

// What went wrong. Texts are valid until the error is freed.
typedef struct deploykit_error deploykit_error;

int deploykit_error_code(const deploykit_error* error);             // of NULL: DEPLOYKIT_OK; the texts of NULL are ""
const char* deploykit_error_problem(const deploykit_error* error);  // what happened, a sentence
const char* deploykit_error_where(const deploykit_error* error);    // a path, tensor, argument or library
const char* deploykit_error_remedy(const deploykit_error* error);   // what to do about it, a sentence
const char* deploykit_error_message(const deploykit_error* error);  // all of it in one line: "WHERE: PROBLEM REMEDY"
void deploykit_error_free(deploykit_error* error);

// The types of elements, numbered like deploykit::DataType.
enum deploykit_data_type {
    DEPLOYKIT_FLOAT32 = 0,
    DEPLOYKIT_FLOAT16 = 1,  // IEEE 754 binary16; deploykit_tensor_floats() reads it
    DEPLOYKIT_UINT8 = 2,
    DEPLOYKIT_INT8 = 3,
    DEPLOYKIT_INT32 = 4,
    DEPLOYKIT_INT64 = 5,
};

enum { DEPLOYKIT_MAX_RANK = 8 };  // no tensor has more axes

// Somebody's elements: dense, row-major, in host memory. The struct owns nothing.
typedef struct deploykit_tensor {
    const void* data;
    int32_t type;  // of deploykit_data_type
    size_t rank;   // how many of the sizes count
    int64_t shape[DEPLOYKIT_MAX_RANK];
} deploykit_tensor;

// All elements in row-major order as floats, whatever their type. `count` is how many `values` has room for:
// DEPLOYKIT_USAGE unless the tensor has exactly so many.
int deploykit_tensor_floats(const deploykit_tensor* tensor, float* values, size_t count, deploykit_error** error);

// What an engine says of one of its inputs or outputs.
typedef struct deploykit_tensor_spec {
    const char* name;
    int32_t type;  // of deploykit_data_type
    size_t rank;
    const int64_t* shape;  // `rank` sizes; -1 for the batch, where it is chosen at run time
    const char* layout;    // "NCHW", "NHWC", "NC" (a vector per sample) or "ND" (a batch of anything else)
} deploykit_tensor_spec;

typedef struct deploykit_batch_range {
    int64_t minimum;
    int64_t optimum;  // what engines are tuned for
    int64_t maximum;
} deploykit_batch_range;

// The folder that `deploykit export` wrote, checked and read. Immutable; threads may share it.
typedef struct deploykit_bundle deploykit_bundle;

// Reads every file once, to the end. DEPLOYKIT_BAD_INPUT: no bundle, a damaged manifest, another schema version, a path
// that leaves the folder. DEPLOYKIT_CHECK_FAILED: a file that is missing, a link, of another size or of another digest.
int deploykit_bundle_open(const char* folder, deploykit_bundle** bundle, deploykit_error** error);
void deploykit_bundle_free(deploykit_bundle* bundle);

typedef struct deploykit_bundle_description {
    const char* model;      // "resnet18"
    const char* precision;  // "fp32", "fp16", "bf16", "int8" or "int8-fp16"
    const char* head;       // "logits", "probabilities", "embedding", or "tensors": only the user knows what they mean
    int trained;            // 0: the weights are random, and answers mean nothing
} deploykit_bundle_description;

int deploykit_bundle_describe(const deploykit_bundle* bundle, deploykit_bundle_description* description,
                              deploykit_error** error);

// Whether the bundle says how images become its input: 1 or 0. A preprocessor can be made where it does.
int deploykit_bundle_takes_images(const deploykit_bundle* bundle, int* takes_images, deploykit_error** error);

// Class names in the order of the network's outputs. Where the bundle has none, `count` is 0.
int deploykit_bundle_labels(const deploykit_bundle* bundle, const char* const** labels, size_t* count,
                            deploykit_error** error);

enum deploykit_runtime {
    DEPLOYKIT_RUNTIME_ANY = 0,          // TensorRT where the bundle has an engine for this machine, else ONNX Runtime
    DEPLOYKIT_RUNTIME_TENSORRT = 1,     // TensorRT or a refusal
    DEPLOYKIT_RUNTIME_ONNXRUNTIME = 2,  // ONNX Runtime or a refusal
};

// All zero is the default: `deploykit_engine_options options = {0};`.
typedef struct deploykit_engine_options {
    int32_t runtime;              // of deploykit_runtime
    int32_t threads;              // ONNX Runtime: threads that one call is spread over; 0: one per core
    int32_t device;               // TensorRT: the CUDA device
    int32_t without_cuda_graphs;  // TensorRT: not 0: launch every kernel anew in each call
} deploykit_engine_options;

// A bundle's network, loaded by one of the runtimes that the library was built with. Immutable; threads may share it,
// and each makes a context of its own.
typedef struct deploykit_engine deploykit_engine;

// `options` may be NULL for the default. The bundle is not needed any more by the engine, once it is loaded.
// DEPLOYKIT_BACKEND, naming each runtime and why it was passed over, where none of them can run the bundle here.
int deploykit_engine_load(const deploykit_bundle* bundle, const deploykit_engine_options* options,
                          deploykit_engine** engine, deploykit_error** error);
void deploykit_engine_free(deploykit_engine* engine);  // its contexts stay usable

// In the order in which contexts take inputs and give outputs.
int deploykit_engine_inputs(const deploykit_engine* engine, const deploykit_tensor_spec** inputs, size_t* count,
                            deploykit_error** error);
int deploykit_engine_outputs(const deploykit_engine* engine, const deploykit_tensor_spec** outputs, size_t* count,
                             deploykit_error** error);
int deploykit_engine_batch(const deploykit_engine* engine, deploykit_batch_range* batch, deploykit_error** error);

// The library that runs it and its version: "ONNX Runtime 1.21.0".
int deploykit_engine_runtime(const deploykit_engine* engine, const char** runtime, deploykit_error** error);

// The engine's path within the bundle: "model.onnx".
int deploykit_engine_file(const deploykit_engine* engine, const char** file, deploykit_error** error);

// Runtimes that would have come first, each with the reason why it did not: "TensorRT: no driver is installed."
int deploykit_engine_passed_over(const deploykit_engine* engine, const char* const** reasons, size_t* count,
                                 deploykit_error** error);

// One thread's way to run an engine. It holds the outputs; it may move between threads but serves one at a time.
typedef struct deploykit_context deploykit_context;

int deploykit_context_create(const deploykit_engine* engine, deploykit_context** context, deploykit_error** error);
void deploykit_context_free(deploykit_context* context);

// `inputs` in the order of deploykit_engine_inputs(), with a batch of one size within deploykit_engine_batch(), are
// read until the call returns. `outputs` are those of deploykit_engine_outputs(), valid until the next call of this
// context or its end. Once a batch size was run, running it again from the same addresses allocates nothing.
// DEPLOYKIT_USAGE where a number, type or shape does not fit; DEPLOYKIT_BACKEND where the library or device fails.
int deploykit_context_run(deploykit_context* context, const deploykit_tensor* inputs, size_t input_count,
                          const deploykit_tensor** outputs, size_t* output_count, deploykit_error** error);

// Nothing, where the engine answers the bundle's golden inputs as the network did that was brought (eager PyTorch, or
// an ONNX file as it was), within the manifest's tolerance; else DEPLOYKIT_CHECK_FAILED with all that is beyond it.
int deploykit_self_test(const deploykit_bundle* bundle, const deploykit_engine* engine, deploykit_error** error);

enum deploykit_channel_order {
    DEPLOYKIT_RGB = 0,
    DEPLOYKIT_BGR = 1,  // OpenCV's
};

// Somebody's pixels: height×width×3, uint8. The struct owns nothing.
typedef struct deploykit_image {
    const uint8_t* pixels;
    int32_t height;
    int32_t width;
    int32_t order;     // of deploykit_channel_order
    ptrdiff_t stride;  // bytes from one row to the next; 0: rows follow each other without a gap
} deploykit_image;

// From decoded images to the network's input, with the memory that it works in. One thread uses it at a time.
typedef struct deploykit_preprocessor deploykit_preprocessor;

// DEPLOYKIT_USAGE for a bundle that takes no images.
int deploykit_preprocessor_create(const deploykit_bundle* bundle, deploykit_preprocessor** preprocessor,
                                  deploykit_error** error);
void deploykit_preprocessor_free(deploykit_preprocessor* preprocessor);

// `count` images, of any sizes, to one batch: `count`×3×height×width of the network's type, `count`×height×width×3
// where its input is NHWC, or the latter as uint8 where the graph normalises by itself. `input` is filled in; its data
// are valid until the next call of this preprocessor or its end. DEPLOYKIT_BAD_INPUT for an image that is empty, too
// large or too elongated.
int deploykit_preprocessor_run(deploykit_preprocessor* preprocessor, const deploykit_image* images, size_t count,
                               deploykit_tensor* input, deploykit_error** error);

typedef struct deploykit_prediction {
    size_t index;       // of the class
    const char* label;  // the bundle's; NULL where it has none for the class
    float probability;  // softmax of logits; what the network gave where its head gives probabilities
} deploykit_prediction;

// The `k` best classes of row `sample` of N×classes scores, best first, of equals the first. `predictions` has room for
// `k`; `count` is how many there are, fewer where there are fewer classes. Labels belong to the bundle.
// N×classes×1×1 is as good. DEPLOYKIT_USAGE for a bundle whose head is "embedding" or "tensors", for scores of another
// shape, and for a sample beyond N.
int deploykit_top_k(const deploykit_bundle* bundle, const deploykit_tensor* scores, size_t sample, size_t k,
                    deploykit_prediction* predictions, size_t* count, deploykit_error** error);

#ifdef __cplusplus
}
#endif

// NOLINTEND(modernize-use-using, modernize-deprecated-headers)

#endif
