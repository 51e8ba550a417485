// TensorRT 8.6 to 11: a plan from the bundle, on the GPU that it was built for.
//
// Everything goes through tensors by name, addresses set once and enqueueV3, which all these versions have. What
// differs is said where it differs. With no driver, TensorRT may end the process by SIGSEGV instead of refusing a plan
// (seen in 11.4's lean runtime): so the driver is asked first, by CUDA's runtime, then the record, and only then
// TensorRT.

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
// Some releases lack it, in their headers or in their library: null there.
// NOLINTNEXTLINE(readability-redundant-declaration)
[[gnu::weak]] std::int32_t getInferLibBuildVersion() noexcept;
}

namespace deploykit::backends {
namespace {

using tensorrt::Heard;

constexpr const char* title = "TensorRT";
constexpr const char* build_again = "Build it again here: deploykit compile BUNDLE --target tensorrt.";

[[noreturn]] void refuse_gpu(const std::string& problem) {
    throw Error(
        ErrorCode::backend, problem + ".", "CUDA",
        "TensorRT engines run where there is an NVIDIA GPU with its driver; ONNX Runtime runs the bundle's graph.");
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
        refuse_gpu("the NVIDIA driver serves CUDA " + text(driver) + ", and this program uses CUDA " + text(runtime));
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
                    "CUDA counts from 0, and sees " + std::to_string(count) + " here.");
    }
    cudaDeviceProp gpu{};
    cuda::require(cudaGetDeviceProperties(&gpu, device), "asking for the GPU's properties");
    const std::int32_t build = getInferLibBuildVersion != nullptr ? getInferLibBuildVersion() : 0;
    return {tensorrt::platform(), tensorrt::version(getInferLibVersion(), build), gpu.name, 10 * gpu.major + gpu.minor};
}

[[noreturn]] void refuse(const std::string& problem, const Heard& heard, const std::string& where,
                         const std::string& remedy) {
    throw Error(ErrorCode::backend, problem + heard.reasons() + ".", where, remedy);
}

std::optional<DataType> served(nvinfer1::DataType type) {
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

// Buffers are sized by the record, so that the engine must have these tensors, dense, in GPU memory, and of sizes of
// which none but the batch is free.
bool as_recorded(const nvinfer1::ICudaEngine& engine, const TensorSpec& spec, nvinfer1::TensorIOMode mode) {
    const char* const tensor = spec.name.c_str();
    bool found = false;
    for (std::int32_t index = 0; index < engine.getNbIOTensors(); ++index) {
        found = found || spec.name == engine.getIOTensorName(index);
    }
    if (!found || engine.getTensorIOMode(tensor) != mode || served(engine.getTensorDataType(tensor)) != spec.type ||
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
        throw Error(ErrorCode::backend, "the engine and its record disagree about " + name + ".", record.file.path,
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

// Of the first optimization profile, the only one that deploykit builds; of a fixed size, that size.
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

// A tensor's memory on both sides of the bus, for the largest batch.
struct Buffer {
    const TensorSpec& spec;
    std::size_t bytes;  // of the batch at hand
    cuda::DeviceMemory device;
    cuda::HostMemory host;
};

Buffer buffer(const TensorSpec& spec, std::int64_t largest_batch) {
    const std::size_t bytes = TensorView(nullptr, spec.type, with_batch(spec, largest_batch)).bytes();
    return {spec, bytes, cuda::device_memory(bytes, spec.name), cuda::host_memory(bytes, spec.name)};
}

class TensorRtContext final : public Context {
public:
    // The engine and its description outlive it: deploykit::Context sees to that.
    TensorRtContext(nvinfer1::ICudaEngine& engine, const Description& description, int device, bool graphs)
        : description_(description), device_(device), graphs_(graphs), stream_(cuda::stream()) {
        const Heard heard;
        execution_.reset(engine.createExecutionContext());
        if (!execution_) {
            refuse("TensorRT gives no execution context", heard, description.file,
                   "Free GPU memory, or build the engine with a smaller largest batch.");
        }
        choose_profile(heard);
        reserve(inputs_, description.inputs);
        reserve(outputs_, description.outputs);
        answers_.resize(outputs_.size());
    }

    ~TensorRtContext() override {
        static_cast<void>(cudaSetDevice(device_));  // members are released on the GPU that they belong to
        static_cast<void>(cudaStreamSynchronize(stream_.get()));
    }

    const std::vector<TensorView>& run(const TensorView* inputs) override {
        cuda::use(device_);
        const std::int64_t batch = inputs[0].shape()[0];
        // Whatever throws below leaves no batch behind, so that the next call begins from the beginning.
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
    // Before 10, the first context of an engine alone has a profile to begin with. Several may share one where the
    // engine was built for that, as deploykit's are.
    void choose_profile(const Heard& heard) {
        if (execution_->getOptimizationProfile() >= 0) {
            return;
        }
        if (!execution_->setOptimizationProfileAsync(0, stream_.get())) {
            refuse("TensorRT gives this context no optimization profile", heard, description_.file,
                   "Use one context at a time, or build the engine again: deploykit compile BUNDLE --target tensorrt.");
        }
        cuda::require(cudaStreamSynchronize(stream_.get()), "choosing an optimization profile");
    }

    void reserve(std::vector<Buffer>& buffers, const std::vector<TensorSpec>& specs) {
        buffers.reserve(specs.size());
        for (const auto& spec : specs) {
            const Heard heard;
            buffers.push_back(buffer(spec, description_.batch.maximum));
            if (!execution_->setTensorAddress(spec.name.c_str(), buffers.back().device.get())) {
                refuse("TensorRT refuses the memory of " + spec.name, heard, description_.file, build_again);
            }
        }
    }

    // Another batch from now on. A graph of the one before may not be replayed once its context has served others.
    void resize(std::int64_t batch) {
        graph_.reset();
        cuda::require(cudaStreamSynchronize(stream_.get()), "computing");  // what a failed call may have left behind
        const Heard heard;
        for (auto& input : inputs_) {
            const Shape shape = with_batch(input.spec, batch);
            if (!execution_->setInputShape(input.spec.name.c_str(), dims(shape))) {
                refuse("TensorRT refuses " + input.spec.name + " of " + shape.text(), heard, description_.file,
                       "Keep within Engine::batch().");
            }
            input.bytes = TensorView(nullptr, input.spec.type, shape).bytes();
        }
        for (std::size_t index = 0; index < outputs_.size(); ++index) {
            auto& output = outputs_[index];
            const Shape shape = with_batch(output.spec, batch);
            if (!is(execution_->getTensorShape(output.spec.name.c_str()), shape)) {
                refuse("TensorRT does not give " + output.spec.name + " as " + shape.text(), heard, description_.file,
                       build_again);
            }
            answers_[index] = TensorView(output.host.get(), output.spec.type, shape);
            output.bytes = answers_[index].bytes();
        }
    }

    // Inputs to the GPU, the network, outputs back: all of it queued on the stream, nothing waited for.
    void submit() {
        for (const auto& input : inputs_) {
            cuda::require(cudaMemcpyAsync(input.device.get(), input.host.get(), input.bytes, cudaMemcpyHostToDevice,
                                          stream_.get()),
                          "copying inputs");
        }
        const Heard heard;
        if (!execution_->enqueueV3(stream_.get())) {
            refuse("TensorRT failed while computing", heard, description_.file,
                   "Use a smaller batch, or close what else uses this GPU.");
        }
        for (const auto& output : outputs_) {
            cuda::require(cudaMemcpyAsync(output.host.get(), output.device.get(), output.bytes, cudaMemcpyDeviceToHost,
                                          stream_.get()),
                          "copying outputs");
        }
    }

    // The same as one graph. The call before had the same batch: it was the warm-up that TensorRT needs, and sizes that
    // take turns are not captured anew each time. An engine that cannot be captured is launched kernel by kernel.
    void capture() {
        graphs_ = false;
        if (cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
            bool queued = true;
            try {
                submit();
            } catch (const Error&) {
                queued = false;
            }
            cudaGraph_t captured = nullptr;  // a capture is ended whatever came of it: its stream is of no use before
            const bool ended = cudaStreamEndCapture(stream_.get(), &captured) == cudaSuccess;
            const cuda::Graph graph(captured);
            cudaGraphExec_t executable = nullptr;
            graphs_ = queued && ended && cudaGraphInstantiateWithFlags(&executable, captured, 0) == cudaSuccess;
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
    bool graphs_;             // wanted, and not refused so far
    std::int64_t batch_ = 0;  // that the last call had; 0: there was none, or it failed
    cuda::Stream stream_;
    std::vector<Buffer> inputs_;
    std::vector<Buffer> outputs_;
    std::unique_ptr<nvinfer1::IExecutionContext> execution_;
    cuda::ExecutableGraph graph_;
    std::vector<TensorView> answers_;
};

// A plan, deserialized. The engine goes before the runtime that made it.
struct Plan {
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
};

Plan deserialize(const std::string& bytes, const EngineRecord& record, const std::string& library) {
    const Heard heard;
    Plan plan;
    plan.runtime.reset(nvinfer1::createInferRuntime(tensorrt::logger()));
    if (!plan.runtime) {
        refuse(library + " gives no runtime", heard, title, "See what deploykit doctor says.");
    }
    // A version-compatible plan brings a runtime of its own: code, which runs only where that is allowed.
    plan.runtime->setEngineHostCodeAllowed(record.build && record.build->version_compatible);
    plan.engine.reset(plan.runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!plan.engine) {
        refuse(library + " does not take it", heard, record.file.path, build_again);
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

// The bundle has read the file through to compare its digest; that it is still that long is asked again.
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
    const auto engines = tensorrt::engines(bundle.manifest(), folder);
    const auto here = machine(options.device);
    const EngineRecord& record = tensorrt::fitting(engines, here, folder);
    const std::string library = title + (" " + here.version);
    cuda::use(options.device);
    Plan plan = deserialize(read_plan(bundle, record.file.path), record, library);
    require_recorded(*plan.engine, record);
    Description description{record.inputs, record.outputs, batch_range(*plan.engine, record), library,
                            record.file.path};
    return std::make_shared<TensorRtEngine>(std::move(description), std::move(plan), options);
}

}  // namespace deploykit::backends
