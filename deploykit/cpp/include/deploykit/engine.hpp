// Engines: load a bundle's network and run it.
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
    any,          // TensorRT if the bundle has an engine for this machine, else ONNX Runtime
    tensorrt,     // TensorRT, else an error
    onnxruntime,  // ONNX Runtime, else an error
};

struct EngineOptions {
    Runtime runtime = Runtime::any;
    int threads = 0;          // ONNX Runtime: threads per call, shared by all contexts; 0: one per core
    int device = 0;           // TensorRT: CUDA device
    bool cuda_graphs = true;  // TensorRT: replay a CUDA graph from the second call of a batch size on
};

// Runs an engine and holds its outputs. It can move between threads but is used by one at a time.
//
// Repeated calls with the same batch size and input addresses allocate nothing.
class Context {
public:
    Context(Context&&) noexcept;
    Context& operator=(Context&&) noexcept;
    ~Context();

    // Run the network. Inputs are in the order of Engine::inputs(), with equal batch sizes within Engine::batch(); they
    // are read until the call returns. Outputs are in the order of Engine::outputs(), valid until the next call.
    // Error(usage) if a number, type or shape does not match; Error(backend) if the library or device fails.
    const std::vector<TensorView>& run(const TensorView* inputs, std::size_t count);
    const std::vector<TensorView>& run(const std::vector<TensorView>& inputs);

    // Run a network with one input and one output. Error(usage) for any other network.
    const TensorView& run(const TensorView& input);

private:
    friend class Engine;
    explicit Context(std::unique_ptr<backends::Context> context, std::shared_ptr<const backends::Engine> engine);

    std::shared_ptr<const backends::Engine> engine_;  // outlives the context
    std::unique_ptr<backends::Context> context_;
};

// A network loaded by one of the runtimes that this library was built with. Immutable and shareable by threads, each of
// which creates its own context. Contexts keep the engine's resources alive; the bundle is not needed after loading.
//
// Error(backend) if no runtime can run the bundle here; the message states the reason for each runtime.
// A TensorRT engine that was built for another platform, version or GPU is refused before any of it is read.
class Engine {
public:
    explicit Engine(const Bundle& bundle, const EngineOptions& options = {});

    Context context() const;

    const std::vector<TensorSpec>& inputs() const noexcept;
    const std::vector<TensorSpec>& outputs() const noexcept;
    const BatchRange& batch() const noexcept;

    const std::string& runtime() const noexcept;  // "ONNX Runtime 1.21.0"
    const std::string& file() const noexcept;     // path of the engine in the bundle

    // Engines of preferred runtimes that were skipped, each with the reason: "tensorrt: no NVIDIA driver is installed."
    const std::vector<std::string>& skipped_engines() const noexcept { return skipped_engines_; }

private:
    std::shared_ptr<const backends::Engine> engine_;
    std::vector<std::string> skipped_engines_;
};

// Runtimes that this library was built with, in order of preference: "tensorrt", "onnxruntime".
std::vector<std::string> runtimes();

}  // namespace deploykit
