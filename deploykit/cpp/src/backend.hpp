// What a runtime must do to be one: load an engine of a bundle, and run it from several threads.
//
// engine.cpp checks numbers, types, shapes and batch against the specs before a context is asked, so that no backend
// repeats that. Each backend is one function in one file, compiled where CMake found its library.
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

    // Inputs in the order of the engine's specs, already checked. The outputs stay valid until the next call.
    virtual const std::vector<TensorView>& run(const TensorView* inputs) = 0;
};

// What is known of a loaded engine without asking its library.
struct Description {
    std::vector<TensorSpec> inputs;  // in the order in which contexts take them
    std::vector<TensorSpec> outputs;
    BatchRange batch;
    std::string runtime;  // "ONNX Runtime 1.31.1"
    std::string file;     // within the bundle
};

class Engine {
public:
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    // Called by several threads at once.
    virtual std::unique_ptr<Context> context() const = 0;

    const Description& description() const noexcept { return description_; }

protected:
    explicit Engine(Description description) : description_(std::move(description)) {}

private:
    Description description_;
};

// Error(backend) where this machine or this bundle is not one for the runtime, before any engine is read.
std::shared_ptr<const Engine> load_tensorrt(const Bundle& bundle, const EngineOptions& options);
std::shared_ptr<const Engine> load_onnxruntime(const Bundle& bundle, const EngineOptions& options);

}  // namespace deploykit::backends
