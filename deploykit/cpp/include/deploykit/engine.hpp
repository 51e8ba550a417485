// Engines: a bundle's network, loaded and ready to run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit {

namespace backends {
class Engine;
class Context;
}  // namespace backends

enum class Runtime {
    any,          // TensorRT where the bundle has an engine for this very machine, else ONNX Runtime
    tensorrt,     // TensorRT or a refusal
    onnxruntime,  // ONNX Runtime or a refusal
};

struct EngineOptions {
    Runtime runtime = Runtime::any;
    int threads = 0;  // ONNX Runtime: threads that one call is spread over, shared by all contexts; 0: one per core
    int device = 0;   // TensorRT: the CUDA device
    bool cuda_graphs = true;  // TensorRT: replay launches as one graph from the second call of a batch size on
};

// One thread's way to run an engine. It holds the outputs; it may move between threads but serves one at a time.
//
// Once a batch size was run, running it again from the same addresses allocates nothing.
class Context {
public:
    Context(Context&&) noexcept;
    Context& operator=(Context&&) noexcept;
    ~Context();

    // Outputs in the order of Engine::outputs(), valid until the next call; inputs in the order of Engine::inputs(),
    // with a batch of one size within Engine::batch(), and read until the call returns.
    // Error(usage) where a number, type or shape does not fit; Error(backend) where the library or device fails.
    const std::vector<TensorView>& run(const TensorView* inputs, std::size_t count);
    const std::vector<TensorView>& run(const std::vector<TensorView>& inputs);

    // The output of a network with one input and one output. Error(usage) for any other network.
    const TensorView& run(const TensorView& input);

private:
    friend class Engine;
    explicit Context(std::unique_ptr<backends::Context> context, std::shared_ptr<const backends::Engine> engine);

    std::shared_ptr<const backends::Engine> engine_;  // outlives the context
    std::unique_ptr<backends::Context> context_;
};

// A network loaded by one of the runtimes that this library was built with. Immutable, and safe to share by threads:
// each makes a context of its own. Contexts keep alive what they need of it; the bundle is not needed any more.
//
// Error(backend), naming each runtime and why it was passed over, where none of them can run the bundle here.
// A TensorRT engine that was built for another platform, version or GPU is refused before a byte of it is read.
class Engine {
public:
    explicit Engine(const Bundle& bundle, const EngineOptions& options = {});

    Context context() const;

    const std::vector<TensorSpec>& inputs() const noexcept;
    const std::vector<TensorSpec>& outputs() const noexcept;
    const BatchRange& batch() const noexcept;

    const std::string& runtime() const noexcept;  // "ONNX Runtime 1.21.0"
    const std::string& file() const noexcept;     // the engine's path within the bundle

    // Runtimes that would have come first, each with the reason why it did not: "TensorRT: no driver is installed."
    const std::vector<std::string>& passed_over() const noexcept { return passed_over_; }

private:
    std::shared_ptr<const backends::Engine> engine_;
    std::vector<std::string> passed_over_;
};

// The runtimes that this library was built with, the preferred one first: "tensorrt", "onnxruntime".
std::vector<std::string> runtimes();

}  // namespace deploykit
