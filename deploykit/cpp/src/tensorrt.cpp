// Run a bundle's plan with TensorRT 8.6 to 11.
//
// Uses tensors by name, addresses set once and enqueueV3, which all these versions have; differences are commented.
// Without a driver, TensorRT may crash with SIGSEGV instead of refusing a plan (seen in 11.4's lean runtime). So the
// driver is checked first, through CUDA's runtime, then the engine's record, and only then TensorRT is called.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend.hpp"
#include "cuda.hpp"
#include "deploykit/error.hpp"
#include "files.hpp"
#include "tensorrt_gate.hpp"
#include "tensorrt_log.hpp"

static_assert(NV_TENSORRT_MAJOR > 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR >= 6),
              "deploykit needs TensorRT 8.6 or later");

extern "C" {
// Missing in the headers or the library of some releases: null there.
// NOLINTNEXTLINE(readability-redundant-declaration)
[[gnu::weak]] std::int32_t getInferLibBuildVersion() noexcept;
}

namespace deploykit::backends {
namespace {

using tensorrt::LogCapture;

constexpr const char* title = "TensorRT";
constexpr const char* build_again = "Build it again here: deploykit compile BUNDLE --target tensorrt.";

[[noreturn]] void refuse_gpu(const std::string& problem) {
    throw Error(
        ErrorCode::backend, problem + ".", "CUDA",
        "TensorRT engines need an NVIDIA GPU and its driver; ONNX Runtime runs the bundle's graph without them.");
}

int gpu_count() {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        refuse_gpu("no NVIDIA driver is installed");
    }
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaErrorInsufficientDriver) {
        int runtime = 0;
        static_cast<void>(cudaRuntimeGetVersion(&runtime));
        const auto text = [](int version) {
            return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
        };
        refuse_gpu("the NVIDIA driver supports CUDA " + text(driver) + ", and this program needs CUDA " +
                   text(runtime));
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0)) {
        refuse_gpu("the NVIDIA driver finds no GPU");
    }
    if (code != cudaSuccess) {
        refuse_gpu(std::string("the NVIDIA driver failed: ") + cudaGetErrorString(code));
    }
    return count;
}

tensorrt::Machine machine(int device) {
    if (const int count = gpu_count(); device < 0 || device >= count) {
        throw Error(ErrorCode::usage, "there is no GPU " + std::to_string(device) + ".", "EngineOptions::device",
                    "CUDA finds " + std::to_string(count) + " on this machine, counted from 0.");
    }
    cudaDeviceProp gpu{};
    cuda::require(cudaGetDeviceProperties(&gpu, device), "reading the GPU's properties");
    const std::int32_t build = getInferLibBuildVersion != nullptr ? getInferLibBuildVersion() : 0;
    return {tensorrt::read_platform(), tensorrt::format_version(getInferLibVersion(), build), gpu.name,
            10 * gpu.major + gpu.minor};
}

[[noreturn]] void refuse(const std::string& problem, const LogCapture& errors, const std::string& where,
                         const std::string& remedy) {
    throw Error(ErrorCode::backend, problem + errors.reasons() + ".", where, remedy);
}

std::optional<DataType> to_data_type(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
            return DataType::float32;
        case nvinfer1::DataType::kHALF:
            return DataType::float16;
        case nvinfer1::DataType::kUINT8:
            return DataType::uint8;
        case nvinfer1::DataType::kINT8:
            return DataType::int8;
        case nvinfer1::DataType::kINT32:
            return DataType::int32;
#if NV_TENSORRT_MAJOR >= 10  // 8.6 has no 64-bit integers
        case nvinfer1::DataType::kINT64:
            return DataType::int64;
#endif
        default:
            return std::nullopt;
    }
}

// Sizes are 32-bit integers in 8.6 and 64-bit ones later.
nvinfer1::Dims dims(const Shape& shape) {
    nvinfer1::Dims made{};
    made.nbDims = static_cast<std::int32_t>(shape.rank());
    std::transform(shape.begin(), shape.end(), std::begin(made.d),
                   [](std::int64_t size) { return static_cast<std::decay_t<decltype(made.d[0])>>(size); });
    return made;
}

bool is(const nvinfer1::Dims& sizes, const Shape& shape) {
    return sizes.nbDims == static_cast<std::int32_t>(shape.rank()) &&
           std::equal(shape.begin(), shape.end(), std::begin(sizes.d));
}

Shape with_batch(const TensorSpec& spec, std::int64_t batch) {
    Shape shape(spec.shape);
    shape[0] = shape[0] == -1 ? batch : shape[0];
    return shape;
}

// Buffers are sized by the record, so the engine must have exactly these tensors, dense, in GPU memory, with only the
// batch size dynamic.
bool as_recorded(const nvinfer1::ICudaEngine& engine, const TensorSpec& spec, nvinfer1::TensorIOMode mode) {
    const char* const tensor = spec.name.c_str();
    bool found = false;
    for (std::int32_t index = 0; index < engine.getNbIOTensors(); ++index) {
        found = found || spec.name == engine.getIOTensorName(index);
    }
    if (!found || engine.getTensorIOMode(tensor) != mode ||
        to_data_type(engine.getTensorDataType(tensor)) != spec.type ||
        engine.getTensorFormat(tensor) != nvinfer1::TensorFormat::kLINEAR ||
        engine.getTensorLocation(tensor) != nvinfer1::TensorLocation::kDEVICE) {
        return false;
    }
    const auto sizes = engine.getTensorShape(tensor);
    return sizes.nbDims > 0 && sizes.nbDims == static_cast<std::int32_t>(spec.shape.size()) &&
           is(sizes, with_batch(spec, sizes.d[0])) &&
           std::all_of(spec.shape.begin() + 1, spec.shape.end(), [](std::int64_t size) { return size > 0; });
}

void require_recorded(const nvinfer1::ICudaEngine& engine, const EngineRecord& record) {
    const auto refuse_tensor = [&](const std::string& name) {
        throw Error(ErrorCode::backend, "the engine and its record differ in " + name + ".", record.file.path,
                    build_again);
    };
    for (const auto& spec : record.inputs) {
        if (!as_recorded(engine, spec, nvinfer1::TensorIOMode::kINPUT)) {
            refuse_tensor("the input " + spec.name);
        }
    }
    for (const auto& spec : record.outputs) {
        if (!as_recorded(engine, spec, nvinfer1::TensorIOMode::kOUTPUT)) {
            refuse_tensor("the output " + spec.name);
        }
    }
    if (record.inputs.empty() || record.outputs.empty() ||
        record.inputs.size() + record.outputs.size() != static_cast<std::size_t>(engine.getNbIOTensors())) {
        refuse_tensor("the number of tensors");
    }
}

// Batch range of the first optimization profile, the only one that deploykit builds, or the fixed batch size.
BatchRange batch_range(const nvinfer1::ICudaEngine& engine, const EngineRecord& record) {
    const char* const tensor = record.inputs.front().name.c_str();
    if (const std::int64_t fixed = engine.getTensorShape(tensor).d[0]; fixed >= 0) {
        return {fixed, fixed, fixed};
    }
    const auto size = [&](nvinfer1::OptProfileSelector which) -> std::int64_t {
        const auto sizes = engine.getProfileShape(tensor, 0, which);
        return sizes.nbDims > 0 ? sizes.d[0] : 0;
    };
    const BatchRange range{size(nvinfer1::OptProfileSelector::kMIN), size(nvinfer1::OptProfileSelector::kOPT),
                           size(nvinfer1::OptProfileSelector::kMAX)};
    if (range.minimum < 1 || range.maximum < range.minimum) {
        throw Error(ErrorCode::backend, "the engine has no range of batch sizes.", record.file.path, build_again);
    }
    return range;
}

// A tensor's host and device memory, for the largest batch.
struct Buffer {
    const TensorSpec& spec;
    std::size_t bytes;  // of the current batch
    cuda::DeviceMemory device;
    cuda::HostMemory host;
};

Buffer buffer(const TensorSpec& spec, std::int64_t largest_batch) {
    const std::size_t bytes = TensorView(nullptr, spec.type, with_batch(spec, largest_batch)).bytes();
    return {spec, bytes, cuda::device_memory(bytes, spec.name), cuda::host_memory(bytes, spec.name)};
}

class TensorRtContext final : public Context {
public:
    // deploykit::Context keeps the engine and its description alive.
    TensorRtContext(nvinfer1::ICudaEngine& engine, const Description& description, int device, bool graphs)
        : description_(description), device_(device), graphs_(graphs), stream_(cuda::stream()) {
        const LogCapture errors;
        execution_.reset(engine.createExecutionContext());
        if (!execution_) {
            refuse("TensorRT cannot create an execution context", errors, description.file,
                   "Free GPU memory, or build the engine with a smaller largest batch.");
        }
        choose_profile(errors);
        reserve(inputs_, description.inputs);
        reserve(outputs_, description.outputs);
        answers_.resize(outputs_.size());
    }

    ~TensorRtContext() override {
        static_cast<void>(cudaSetDevice(device_));  // release members on their GPU
        static_cast<void>(cudaStreamSynchronize(stream_.get()));
    }

    const std::vector<TensorView>& run(const TensorView* inputs) override {
        cuda::use(device_);
        const std::int64_t batch = inputs[0].shape()[0];
        // If anything below throws, no batch is set, so that the next call starts over.
        const bool repeated = std::exchange(batch_, 0) == batch;
        if (!repeated) {
            resize(batch);
        }
        for (std::size_t index = 0; index < inputs_.size(); ++index) {
            std::memcpy(inputs_[index].host.get(), inputs[index].data(), inputs_[index].bytes);
        }
        if (repeated && graphs_ && !graph_) {
            capture();
        }
        if (!replayed()) {
            submit();
        }
        cuda::require(cudaStreamSynchronize(stream_.get()), "computing");
        batch_ = batch;
        return answers_;
    }

private:
    // Before version 10, only the first context of an engine has a profile initially. Several contexts can share one
    // if the engine was built for that, as deploykit's are.
    void choose_profile(const LogCapture& errors) {
        if (execution_->getOptimizationProfile() >= 0) {
            return;
        }
        if (!execution_->setOptimizationProfileAsync(0, stream_.get())) {
            refuse("TensorRT provides no optimization profile for this context", errors, description_.file,
                   "Use one context at a time, or build the engine again: deploykit compile BUNDLE --target tensorrt.");
        }
        cuda::require(cudaStreamSynchronize(stream_.get()), "selecting an optimization profile");
    }

    void reserve(std::vector<Buffer>& buffers, const std::vector<TensorSpec>& specs) {
        buffers.reserve(specs.size());
        for (const auto& spec : specs) {
            const LogCapture errors;
            buffers.push_back(buffer(spec, description_.batch.maximum));
            if (!execution_->setTensorAddress(spec.name.c_str(), buffers.back().device.get())) {
                refuse("TensorRT refuses the buffer of " + spec.name, errors, description_.file, build_again);
            }
        }
    }

    // Change the batch size. A CUDA graph of the previous size must not be replayed after its context ran others.
    void resize(std::int64_t batch) {
        graph_.reset();
        cuda::require(cudaStreamSynchronize(stream_.get()), "computing");  // of a failed call
        const LogCapture errors;
        for (auto& input : inputs_) {
            const Shape shape = with_batch(input.spec, batch);
            if (!execution_->setInputShape(input.spec.name.c_str(), dims(shape))) {
                refuse("TensorRT refuses " + input.spec.name + " of " + shape.text(), errors, description_.file,
                       "Use a batch size within Engine::batch().");
            }
            input.bytes = TensorView(nullptr, input.spec.type, shape).bytes();
        }
        for (std::size_t index = 0; index < outputs_.size(); ++index) {
            auto& output = outputs_[index];
            const Shape shape = with_batch(output.spec, batch);
            if (!is(execution_->getTensorShape(output.spec.name.c_str()), shape)) {
                refuse("TensorRT cannot compute " + output.spec.name + " as " + shape.text(), errors, description_.file,
                       build_again);
            }
            answers_[index] = TensorView(output.host.get(), output.spec.type, shape);
            output.bytes = answers_[index].bytes();
        }
    }

    // Enqueue the copy of inputs, the network and the copy of outputs on the stream, without waiting.
    void submit() {
        for (const auto& input : inputs_) {
            cuda::require(cudaMemcpyAsync(input.device.get(), input.host.get(), input.bytes, cudaMemcpyHostToDevice,
                                          stream_.get()),
                          "copying inputs");
        }
        const LogCapture errors;
        if (!execution_->enqueueV3(stream_.get())) {
            refuse("TensorRT failed while computing", errors, description_.file,
                   "Use a smaller batch, or close other programs that use this GPU.");
        }
        for (const auto& output : outputs_) {
            cuda::require(cudaMemcpyAsync(output.host.get(), output.device.get(), output.bytes, cudaMemcpyDeviceToHost,
                                          stream_.get()),
                          "copying outputs");
        }
    }

    // Capture the same as a CUDA graph. The previous call had the same batch size and served as the warm-up that
    // TensorRT needs; alternating sizes are not captured each time. An engine that cannot be captured is enqueued.
    void capture() {
        graphs_ = false;
        if (cuda::Capture capture(stream_.get()); capture.active()) {
            bool queued = true;
            try {
                submit();
            } catch (const Error&) {
                queued = false;
            }
            const cuda::Graph graph = capture.end();
            cudaGraphExec_t executable = nullptr;
            graphs_ = queued && graph && cudaGraphInstantiateWithFlags(&executable, graph.get(), 0) == cudaSuccess;
            graph_.reset(executable);
        }
        if (!graphs_) {
            static_cast<void>(cudaGetLastError());
        }
    }

    bool replayed() {
        if (!graph_) {
            return false;
        }
        if (cudaGraphLaunch(graph_.get(), stream_.get()) == cudaSuccess) {
            return true;
        }
        static_cast<void>(cudaGetLastError());
        graph_.reset();
        graphs_ = false;
        return false;
    }

    const Description& description_;
    int device_;
    bool graphs_;             // requested, and capturing has not failed
    std::int64_t batch_ = 0;  // of the last call; 0: none, or it failed
    cuda::Stream stream_;
    std::vector<Buffer> inputs_;
    std::vector<Buffer> outputs_;
    std::unique_ptr<nvinfer1::IExecutionContext> execution_;
    cuda::ExecutableGraph graph_;
    std::vector<TensorView> answers_;
};

// A deserialized plan. The engine is destroyed before its runtime.
struct Plan {
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
};

Plan deserialize(const std::string& bytes, const EngineRecord& record, const std::string& library) {
    const LogCapture errors;
    Plan plan;
    plan.runtime.reset(nvinfer1::createInferRuntime(tensorrt::logger()));
    if (!plan.runtime) {
        refuse(library + " cannot create a runtime", errors, title, "Run deploykit doctor.");
    }
    // A version-compatible plan contains its own runtime as code, which must be allowed explicitly.
    plan.runtime->setEngineHostCodeAllowed(record.build && record.build->version_compatible);
    if (record.build && record.build->dla_core) {  // otherwise core 0, whichever it was built for
        plan.runtime->setDLACore(*record.build->dla_core);
    }
    plan.engine.reset(plan.runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!plan.engine) {
        refuse(library + " cannot load it", errors, record.file.path, build_again);
    }
    return plan;
}

class TensorRtEngine final : public Engine {
public:
    TensorRtEngine(Description description, Plan plan, const EngineOptions& options)
        : Engine(std::move(description)),
          plan_(std::move(plan)),
          device_(options.device),
          graphs_(options.cuda_graphs) {}

    ~TensorRtEngine() override { static_cast<void>(cudaSetDevice(device_)); }

    std::unique_ptr<Context> context() const override {
        const std::lock_guard<std::mutex> one_at_a_time(making_);
        cuda::use(device_);
        return std::make_unique<TensorRtContext>(*plan_.engine, description(), device_, graphs_);
    }

private:
    Plan plan_;
    int device_;
    bool graphs_;
    mutable std::mutex making_;
};

// The bundle verified the digest when it was opened; check that the size is still the same.
std::string read_plan(const Bundle& bundle, const std::string& path) {
    const FileRecord& file = bundle.manifest().files.at(path);
    auto bytes = read_file(bundle.path(file.path), file.bytes);
    if (bytes.size() != file.bytes) {
        throw Error(ErrorCode::check_failed, "it has changed since the bundle was opened.", file.path,
                    "Open the bundle again.");
    }
    return bytes;
}

}  // namespace

std::shared_ptr<const Engine> load_tensorrt(const Bundle& bundle, const EngineOptions& options) {
    const std::string folder = bundle.folder().string();
    const auto engines = tensorrt::find_engines(bundle.manifest(), folder);
    const auto here = machine(options.device);
    const EngineRecord& record = tensorrt::select_engine(engines, here, folder);
    const std::string library = title + (" " + here.version);
    cuda::use(options.device);
    Plan plan = deserialize(read_plan(bundle, record.file.path), record, library);
    require_recorded(*plan.engine, record);
    Description description{record.inputs, record.outputs, batch_range(*plan.engine, record), library,
                            record.file.path};
    return std::make_shared<TensorRtEngine>(std::move(description), std::move(plan), options);
}

}  // namespace deploykit::backends
