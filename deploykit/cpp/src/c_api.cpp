// Implements deploykit.h on the C++ interface: handles hold C++ objects, and no exception escapes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/deploykit.h"
#include "deploykit/deploykit.hpp"

using deploykit::ErrorCode;

struct deploykit_error {
    deploykit::Error error;
};

namespace {

static_assert(static_cast<int>(ErrorCode::check_failed) == DEPLOYKIT_CHECK_FAILED);
static_assert(static_cast<int>(ErrorCode::usage) == DEPLOYKIT_USAGE);
static_assert(static_cast<int>(ErrorCode::bad_input) == DEPLOYKIT_BAD_INPUT);
static_assert(static_cast<int>(ErrorCode::backend) == DEPLOYKIT_BACKEND);
static_assert(static_cast<int>(ErrorCode::internal) == DEPLOYKIT_INTERNAL);
static_assert(static_cast<int>(deploykit::DataType::float32) == DEPLOYKIT_FLOAT32);
static_assert(static_cast<int>(deploykit::DataType::float16) == DEPLOYKIT_FLOAT16);
static_assert(static_cast<int>(deploykit::DataType::uint8) == DEPLOYKIT_UINT8);
static_assert(static_cast<int>(deploykit::DataType::int8) == DEPLOYKIT_INT8);
static_assert(static_cast<int>(deploykit::DataType::int32) == DEPLOYKIT_INT32);
static_assert(static_cast<int>(deploykit::DataType::int64) == DEPLOYKIT_INT64);
static_assert(static_cast<int>(deploykit::Runtime::any) == DEPLOYKIT_RUNTIME_ANY);
static_assert(static_cast<int>(deploykit::Runtime::tensorrt) == DEPLOYKIT_RUNTIME_TENSORRT);
static_assert(static_cast<int>(deploykit::Runtime::onnxruntime) == DEPLOYKIT_RUNTIME_ONNXRUNTIME);
static_assert(static_cast<int>(deploykit::ChannelOrder::rgb) == DEPLOYKIT_RGB);
static_assert(static_cast<int>(deploykit::ChannelOrder::bgr) == DEPLOYKIT_BGR);
static_assert(static_cast<std::size_t>(DEPLOYKIT_MAX_RANK) == deploykit::Shape::max_rank);

// Sizes in bytes must fit std::size_t and address differences std::ptrdiff_t, for elements of up to eight bytes.
constexpr std::int64_t largest_tensor = std::numeric_limits<std::ptrdiff_t>::max() / 8;

int report(deploykit_error** error, const deploykit::Error& found) noexcept {
    try {
        if (error != nullptr) {
            *error = new deploykit_error{found};
        }
    } catch (const std::bad_alloc&) {
        // Out of memory for the message; the code still tells the kind of error.
    }
    return static_cast<int>(found.code());
}

// Calls a function that can fail, and converts exceptions to a code and an error.
template <class Call>
int call_guarded(deploykit_error** error, const Call& call) noexcept {
    if (error != nullptr) {
        *error = nullptr;
    }
    const char* const remedy = "Please report this: it is a bug in deploykit.";
    try {
        call();
        return DEPLOYKIT_OK;
    } catch (const deploykit::Error& found) {
        return report(error, found);
    } catch (const std::bad_alloc&) {
        return DEPLOYKIT_OUT_OF_MEMORY;
    } catch (const std::exception& found) {
        try {
            return report(error, {ErrorCode::internal, std::string(found.what()) + ".", "deploykit", remedy});
        } catch (const std::bad_alloc&) {
            return DEPLOYKIT_OUT_OF_MEMORY;
        }
    } catch (...) {
        return DEPLOYKIT_INTERNAL;
    }
}

[[noreturn]] void refuse(const std::string& problem, const std::string& where, const std::string& remedy) {
    throw deploykit::Error(ErrorCode::usage, problem, where, remedy);
}

void require(std::initializer_list<std::pair<const void*, const char*>> arguments) {
    for (const auto& [pointer, name] : arguments) {
        if (pointer == nullptr) {
            refuse("it is NULL.", std::string("argument ") + name, "Pass a valid pointer.");
        }
    }
}

// Converts a number to an enumeration with values from 0 to `last`.
template <class Enumeration>
Enumeration checked_enum(std::int32_t number, Enumeration last, const char* what) {
    if (number < 0 || number > static_cast<std::int32_t>(last)) {
        refuse(std::to_string(number) + " is not valid.", what,
               "The values from 0 to " + std::to_string(static_cast<int>(last)) + " are defined in deploykit.h.");
    }
    return static_cast<Enumeration>(number);
}

// Validates a caller's tensor. `sizes` is a reusable buffer for its shape.
deploykit::TensorView view(const deploykit_tensor& tensor, std::vector<std::int64_t>& sizes) {
    const char* const where = "a deploykit_tensor";
    const auto type = checked_enum(tensor.type, deploykit::DataType::int64, "type of a deploykit_tensor");
    if (tensor.rank > deploykit::Shape::max_rank) {
        refuse("it has " + std::to_string(tensor.rank) + " axes.", where, "There are at most 8.");
    }
    sizes.assign(tensor.shape, tensor.shape + tensor.rank);
    std::int64_t elements = 1;
    for (const std::int64_t size : sizes) {
        if (size < 0 || (size > 0 && elements > largest_tensor / size)) {
            refuse("its shape is invalid or too large: one size is " + std::to_string(size) + ".", where,
                   "Sizes are not negative, and `rank` is the number of sizes in use.");
        }
        elements *= size;
    }
    if (tensor.data == nullptr && elements > 0) {
        refuse("its data pointer is NULL.", where, "Point it to the elements.");
    }
    return {tensor.data, type, deploykit::Shape(sizes)};
}

deploykit_tensor tensor(const deploykit::TensorView& view) {
    deploykit_tensor tensor{view.data(), static_cast<std::int32_t>(view.type()), view.shape().rank(), {}};
    std::copy(view.shape().begin(), view.shape().end(), tensor.shape);
    return tensor;
}

std::vector<deploykit_tensor_spec> describe_specs(const std::vector<deploykit::TensorSpec>& specs) {
    std::vector<deploykit_tensor_spec> described;
    described.reserve(specs.size());
    for (const auto& spec : specs) {
        described.push_back({spec.name.c_str(), static_cast<std::int32_t>(spec.type), spec.shape.size(),
                             spec.shape.data(), spec.layout.c_str()});
    }
    return described;
}

std::vector<const char*> c_strings(const std::vector<std::string>& strings) {
    std::vector<const char*> texts;
    texts.reserve(strings.size());
    for (const auto& text : strings) {
        texts.push_back(text.c_str());
    }
    return texts;
}

deploykit::EngineOptions options_of(const deploykit_engine_options* c_options) {
    deploykit::EngineOptions options;
    if (c_options != nullptr) {
        options.runtime = checked_enum(c_options->runtime, deploykit::Runtime::onnxruntime, "runtime of the options");
        options.threads = c_options->threads;
        options.device = c_options->device;
        options.cuda_graphs = c_options->without_cuda_graphs == 0;
    }
    return options;
}

deploykit::Image image(const deploykit_image& c_image) {
    const auto order = checked_enum(c_image.order, deploykit::ChannelOrder::bgr, "order of a deploykit_image");
    return {c_image.pixels, c_image.height, c_image.width, order, c_image.stride};
}

// Returns an array to C: its first element and its size.
template <class T>
void return_array(const std::vector<T>& found, const T** first, std::size_t* count) {
    *first = found.data();
    *count = found.size();
}

}  // namespace

// Each handle holds a C++ object and the arrays and strings that C reads; these point into the object, which does not
// move.

struct deploykit_bundle {
    explicit deploykit_bundle(const char* folder) : bundle(folder), labels(c_strings(bundle.labels())) {}

    deploykit::Bundle bundle;
    std::vector<const char*> labels;
};

struct deploykit_engine {
    deploykit_engine(const deploykit::Bundle& bundle, const deploykit::EngineOptions& options)
        : engine(bundle, options),
          inputs(describe_specs(engine.inputs())),
          outputs(describe_specs(engine.outputs())),
          skipped_engines(c_strings(engine.skipped_engines())) {}

    deploykit::Engine engine;
    std::vector<deploykit_tensor_spec> inputs;
    std::vector<deploykit_tensor_spec> outputs;
    std::vector<const char*> skipped_engines;
};

struct deploykit_context {
    explicit deploykit_context(const deploykit::Engine& engine) : context(engine.context()) {}

    deploykit::Context context;
    std::vector<std::int64_t> sizes;
    std::vector<deploykit::TensorView> inputs;
    std::vector<deploykit_tensor> outputs;
};

struct deploykit_preprocessor {
    explicit deploykit_preprocessor(const deploykit::Bundle& bundle) : preprocessor(bundle) {}

    deploykit::Preprocessor preprocessor;
    std::vector<deploykit::Image> images;
};

const char* deploykit_version(void) { return DEPLOYKIT_VERSION; }

int deploykit_error_code(const deploykit_error* error) {
    return error == nullptr ? DEPLOYKIT_OK : static_cast<int>(error->error.code());
}

const char* deploykit_error_problem(const deploykit_error* error) {
    return error == nullptr ? "" : error->error.problem().c_str();
}

const char* deploykit_error_where(const deploykit_error* error) {
    return error == nullptr ? "" : error->error.where().c_str();
}

const char* deploykit_error_remedy(const deploykit_error* error) {
    return error == nullptr ? "" : error->error.remedy().c_str();
}

const char* deploykit_error_message(const deploykit_error* error) {
    return error == nullptr ? "" : error->error.what();
}

void deploykit_error_free(deploykit_error* error) { delete error; }

int deploykit_tensor_floats(const deploykit_tensor* tensor, float* values, size_t count, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{tensor, "tensor"}, {values, "values"}});
        std::vector<std::int64_t> sizes;
        const deploykit::TensorView elements = view(*tensor, sizes);
        if (elements.elements() != count) {
            refuse("it is " + std::to_string(count) + " for a tensor of " + elements.shape().text() + ".",
                   "argument count", "Give the product of the tensor's sizes.");
        }
        for (std::size_t index = 0; index < count; ++index) {
            values[index] = elements.value(index);
        }
    });
}

int deploykit_bundle_open(const char* folder, deploykit_bundle** bundle, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}});
        *bundle = nullptr;
        require({{folder, "folder"}});
        *bundle = new deploykit_bundle(folder);
    });
}

void deploykit_bundle_free(deploykit_bundle* bundle) { delete bundle; }

int deploykit_bundle_describe(const deploykit_bundle* bundle, deploykit_bundle_description* description,
                              deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}, {description, "description"}});
        const deploykit::Manifest& manifest = bundle->bundle.manifest();
        *description = {manifest.model.c_str(), manifest.precision.c_str(), manifest.head.c_str(),
                        manifest.trained ? 1 : 0};
    });
}

int deploykit_bundle_takes_images(const deploykit_bundle* bundle, int* takes_images, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}, {takes_images, "takes_images"}});
        *takes_images = bundle->bundle.manifest().takes_images ? 1 : 0;
    });
}

int deploykit_bundle_labels(const deploykit_bundle* bundle, const char* const** labels, size_t* count,
                            deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}, {labels, "labels"}, {count, "count"}});
        return_array(bundle->labels, labels, count);
    });
}

int deploykit_engine_load(const deploykit_bundle* bundle, const deploykit_engine_options* options,
                          deploykit_engine** engine, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}});
        *engine = nullptr;
        require({{bundle, "bundle"}});
        *engine = new deploykit_engine(bundle->bundle, options_of(options));
    });
}

void deploykit_engine_free(deploykit_engine* engine) { delete engine; }

int deploykit_engine_inputs(const deploykit_engine* engine, const deploykit_tensor_spec** inputs, size_t* count,
                            deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {inputs, "inputs"}, {count, "count"}});
        return_array(engine->inputs, inputs, count);
    });
}

int deploykit_engine_outputs(const deploykit_engine* engine, const deploykit_tensor_spec** outputs, size_t* count,
                             deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {outputs, "outputs"}, {count, "count"}});
        return_array(engine->outputs, outputs, count);
    });
}

int deploykit_engine_batch(const deploykit_engine* engine, deploykit_batch_range* batch, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {batch, "batch"}});
        const deploykit::BatchRange& range = engine->engine.batch();
        *batch = {range.minimum, range.optimum, range.maximum};
    });
}

int deploykit_engine_runtime(const deploykit_engine* engine, const char** runtime, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {runtime, "runtime"}});
        *runtime = engine->engine.runtime().c_str();
    });
}

int deploykit_engine_file(const deploykit_engine* engine, const char** file, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {file, "file"}});
        *file = engine->engine.file().c_str();
    });
}

int deploykit_engine_skipped_engines(const deploykit_engine* engine, const char* const** reasons, size_t* count,
                                     deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{engine, "engine"}, {reasons, "reasons"}, {count, "count"}});
        return_array(engine->skipped_engines, reasons, count);
    });
}

int deploykit_context_create(const deploykit_engine* engine, deploykit_context** context, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{context, "context"}});
        *context = nullptr;
        require({{engine, "engine"}});
        *context = new deploykit_context(engine->engine);
    });
}

void deploykit_context_free(deploykit_context* context) { delete context; }

int deploykit_context_run(deploykit_context* context, const deploykit_tensor* inputs, size_t input_count,
                          const deploykit_tensor** outputs, size_t* output_count, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{context, "context"}, {inputs, "inputs"}, {outputs, "outputs"}, {output_count, "output_count"}});
        context->inputs.clear();  // keeps its capacity
        for (std::size_t index = 0; index < input_count; ++index) {
            context->inputs.push_back(view(inputs[index], context->sizes));
        }
        context->outputs.clear();
        for (const deploykit::TensorView& output : context->context.run(context->inputs)) {
            context->outputs.push_back(tensor(output));
        }
        return_array(context->outputs, outputs, output_count);
    });
}

int deploykit_self_test(const deploykit_bundle* bundle, const deploykit_engine* engine, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}, {engine, "engine"}});
        deploykit::self_test(bundle->bundle, engine->engine);
    });
}

int deploykit_preprocessor_create(const deploykit_bundle* bundle, deploykit_preprocessor** preprocessor,
                                  deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{preprocessor, "preprocessor"}});
        *preprocessor = nullptr;
        require({{bundle, "bundle"}});
        *preprocessor = new deploykit_preprocessor(bundle->bundle);
    });
}

void deploykit_preprocessor_free(deploykit_preprocessor* preprocessor) { delete preprocessor; }

int deploykit_preprocessor_run(deploykit_preprocessor* preprocessor, const deploykit_image* images, size_t count,
                               deploykit_tensor* input, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{preprocessor, "preprocessor"}, {images, "images"}, {input, "input"}});
        preprocessor->images.clear();
        for (std::size_t index = 0; index < count; ++index) {
            preprocessor->images.push_back(image(images[index]));
        }
        *input = tensor(preprocessor->preprocessor(preprocessor->images));
    });
}

int deploykit_top_k(const deploykit_bundle* bundle, const deploykit_tensor* scores, size_t sample, size_t k,
                    deploykit_prediction* predictions, size_t* count, deploykit_error** error) {
    return call_guarded(error, [&] {
        require({{bundle, "bundle"}, {scores, "scores"}, {predictions, "predictions"}, {count, "count"}});
        std::vector<std::int64_t> sizes;
        const auto found = deploykit::top_k(view(*scores, sizes), k, bundle->bundle, sample);
        for (std::size_t rank = 0; rank < found.size(); ++rank) {
            const std::size_t index = found[rank].index;
            const char* const label = index < bundle->labels.size() ? bundle->labels[index] : nullptr;
            predictions[rank] = {index, label, found[rank].probability};
        }
        *count = found.size();
    });
}
