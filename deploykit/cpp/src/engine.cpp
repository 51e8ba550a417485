#include "deploykit/engine.hpp"

#include <utility>

#include "backend.hpp"
#include "deploykit/error.hpp"

namespace deploykit {
namespace {

struct Loader {
    Runtime runtime;
    const char* name;
    std::shared_ptr<const backends::Engine> (*load)(const Bundle&, const EngineOptions&);
};

// Runtimes that the library was built with, in order of preference.
const std::vector<Loader>& loaders() {
    static const std::vector<Loader> available{
#ifdef DEPLOYKIT_TENSORRT
        {Runtime::tensorrt, "tensorrt", backends::load_tensorrt},
#endif
#ifdef DEPLOYKIT_ONNXRUNTIME
        {Runtime::onnxruntime, "onnxruntime", backends::load_onnxruntime},
#endif
    };
    return available;
}

std::string join(const std::vector<std::string>& sentences) {
    std::string text;
    for (const std::string& sentence : sentences) {
        text += (text.empty() ? "" : " ") + sentence;
    }
    return text;
}

Shape expected_shape(const TensorSpec& spec, std::int64_t batch) {
    Shape shape(spec.shape);
    shape[0] = shape[0] == -1 ? batch : shape[0];
    return shape;
}

[[noreturn]] void refuse(const TensorSpec& spec, const std::string& problem) {
    throw Error(ErrorCode::usage, problem, "input '" + spec.name + "'", "Compare with Engine::inputs().");
}

void require_matching(const TensorSpec& spec, const TensorView& input, std::int64_t batch) {
    if (input.data() == nullptr) {
        refuse(spec, "it has no data.");
    }
    if (input.type() != spec.type) {
        refuse(spec, std::string("it is ") + name(input.type()) + ", and the network needs " + name(spec.type) + ".");
    }
    if (const Shape expected = expected_shape(spec, batch); input.shape() != expected) {
        refuse(spec, "it is " + input.shape().text() + ", and the network needs " + expected.text() + ".");
    }
}

// The batch size of the first input. Error(usage) unless the engine accepts it.
std::int64_t checked_batch(const backends::Description& engine, const TensorView& first) {
    const std::int64_t batch = first.shape().rank() > 0 ? first.shape()[0] : 0;
    if (batch < engine.batch.minimum || batch > engine.batch.maximum) {
        refuse(engine.inputs.front(), "it is " + first.shape().text() + ", and the engine accepts batches of " +
                                          std::to_string(engine.batch.minimum) + " to " +
                                          std::to_string(engine.batch.maximum) + ".");
    }
    return batch;
}

void require_matching(const backends::Description& engine, const TensorView* inputs, std::size_t count) {
    if (count != engine.inputs.size() || inputs == nullptr) {
        throw Error(ErrorCode::usage,
                    std::to_string(count) + " inputs were passed, and the network has " +
                        std::to_string(engine.inputs.size()) + ".",
                    engine.file, "Compare with Engine::inputs().");
    }
    const std::int64_t batch = checked_batch(engine, inputs[0]);
    for (std::size_t index = 0; index < count; ++index) {
        require_matching(engine.inputs[index], inputs[index], batch);
    }
}

}  // namespace

Context::Context(std::unique_ptr<backends::Context> context, std::shared_ptr<const backends::Engine> engine)
    : engine_(std::move(engine)), context_(std::move(context)) {}

Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&& other) noexcept {
    context_ = std::move(other.context_);  // before the engine that it needs
    engine_ = std::move(other.engine_);
    return *this;
}
Context::~Context() = default;

const std::vector<TensorView>& Context::run(const TensorView* inputs, std::size_t count) {
    require_matching(engine_->description(), inputs, count);
    return context_->run(inputs);
}

const std::vector<TensorView>& Context::run(const std::vector<TensorView>& inputs) {
    return run(inputs.data(), inputs.size());
}

const TensorView& Context::run(const TensorView& input) {
    const std::vector<TensorView>& outputs = run(&input, 1);
    if (outputs.size() != 1) {
        throw Error(ErrorCode::usage, "it has " + std::to_string(outputs.size()) + " outputs, not one.",
                    engine_->description().file, "Call run with a vector of inputs, which returns all outputs.");
    }
    return outputs.front();
}

Engine::Engine(const Bundle& bundle, const EngineOptions& options) {
    for (const Loader& loader : loaders()) {
        if (options.runtime != Runtime::any && options.runtime != loader.runtime) {
            continue;
        }
        try {
            engine_ = loader.load(bundle, options);
            return;
        } catch (const Error& error) {
            if (error.code() != ErrorCode::backend || options.runtime != Runtime::any) {
                throw;
            }
            skipped_engines_.push_back(std::string(loader.name) + ": " + error.what());
        }
    }
    if (skipped_engines_.empty()) {
        throw Error(ErrorCode::backend, "this library was built without that runtime.", bundle.folder().string(),
                    "It has " + join(runtimes()) + ": use one of these, or build the library with the other.");
    }
    throw Error(ErrorCode::backend, "no runtime can load it on this machine. " + join(skipped_engines_),
                bundle.folder().string(), "Fix one of these.");
}

Context Engine::context() const { return Context(engine_->context(), engine_); }

const std::vector<TensorSpec>& Engine::inputs() const noexcept { return engine_->description().inputs; }
const std::vector<TensorSpec>& Engine::outputs() const noexcept { return engine_->description().outputs; }
const BatchRange& Engine::batch() const noexcept { return engine_->description().batch; }
const std::string& Engine::runtime() const noexcept { return engine_->description().runtime; }
const std::string& Engine::file() const noexcept { return engine_->description().file; }

std::vector<std::string> runtimes() {
    std::vector<std::string> names;
    for (const Loader& loader : loaders()) {
        names.emplace_back(loader.name);
    }
    return names;
}

}  // namespace deploykit
