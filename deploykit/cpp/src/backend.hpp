// Interface of a runtime: load an engine of a bundle, and run it from several threads.
//
// engine.cpp checks numbers, types, shapes and batch against the specs before it calls a context, so that backends do
// not repeat it. Each backend is one function in one file, compiled if CMake finds its library.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/engine.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit::backends {

class Context {
public:
    Context() = default;
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    virtual ~Context() = default;

    // Inputs are in the order of the engine's specs and already checked. Outputs stay valid until the next call.
    virtual const std::vector<TensorView>& run(const TensorView* inputs) = 0;
};

// Properties of a loaded engine.
struct Description {
    std::vector<TensorSpec> inputs;  // in the order that contexts use
    std::vector<TensorSpec> outputs;
    BatchRange batch;
    std::string runtime;  // "ONNX Runtime 1.31.1"
    std::string file;     // path in the bundle
};

class Engine {
public:
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    // Thread-safe.
    virtual std::unique_ptr<Context> context() const = 0;

    const Description& description() const noexcept { return description_; }

protected:
    explicit Engine(Description description) : description_(std::move(description)) {}

private:
    Description description_;
};

// Error(backend) if the runtime does not support this machine or this bundle, before any engine is read.
std::shared_ptr<const Engine> load_tensorrt(const Bundle& bundle, const EngineOptions& options);
std::shared_ptr<const Engine> load_onnxruntime(const Bundle& bundle, const EngineOptions& options);

}  // namespace deploykit::backends
