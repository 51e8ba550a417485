// A double of TensorRT, behind NVIDIA's own headers: every plan is y = 2·x, on the host. It proves nothing about
// numbers or a GPU, but that deploykit asks in the right order, releases what it took, and refuses what it must.
#include <NvInferRuntime.h>

#include <cstdlib>
#include <string>

#include "gpu.hpp"
#include "stream.hpp"
#include "unused.hpp"

namespace {

using nvinfer1::Dims;

constexpr std::int64_t largest_batch = 4;

struct Counted {
    Counted() { gpu().alive += 1; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() { gpu().alive += -1; }
};

bool is_input(const char* name) { return name == std::string(gpu().input); }

Dims sizes(std::int64_t batch) { return {2, {batch, gpu().width}}; }

class ExecutionContext final : public nvinfer1::IExecutionContext, nvinfer1::apiv::UnusedVExecutionContext, Counted {
public:
    explicit ExecutionContext(nvinfer1::ILogger& logger) : logger_(logger), profile_(gpu().first_profile) {
        mImpl = this;
    }

private:
    nvinfer1::IExecutionContext* getPImpl() noexcept override { return this; }
    std::int32_t getOptimizationProfile() const noexcept override { return profile_; }
    bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t /*stream*/) noexcept override {
        profile_ = index;
        return gpu().profile;
    }
    bool setInputShape(const char* name, const Dims& shape) noexcept override {
        ++version_;
        batch_ = shape.d[0];
        return is_input(name) && shape.nbDims == 2 && batch_ >= 1 && batch_ <= largest_batch;
    }
    Dims getTensorShape(const char* /*name*/) const noexcept override { return sizes(batch_); }
    bool setTensorAddress(const char* name, void* data) noexcept override {
        (is_input(name) ? input_ : output_) = data;
        return true;
    }

    // As TensorRT: after a new size, one call must come before a capture. And a graph of a size may not be launched
    // once the context has had another.
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (!gpu().enqueue || profile_ != 0) {
            logger_.log(nvinfer1::ILogger::Severity::kWARNING, "of no importance");
            logger_.log(nvinfer1::ILogger::Severity::kERROR, "out of workspace.");
            return false;
        }
        if (stream->capturing && (!gpu().capturable || warm_ != version_)) {
            stream->invalid = true;
            return false;
        }
        gpu().enqueued += stream->capturing ? 0 : 1;
        warm_ = version_;
        const Inside here;
        stream->add([this, version = version_] {
            if (version != version_) {
                std::abort();
            }
            const auto* from = static_cast<const float*>(on_gpu(input_));
            auto* to = static_cast<float*>(on_gpu(output_));
            for (std::int64_t i = 0; i < batch_ * gpu().width; ++i) {
                to[i] = 2 * from[i];
            }
        });
        return true;
    }

    nvinfer1::ILogger& logger_;
    std::int32_t profile_;
    std::int64_t batch_ = -1;
    int version_ = 0;
    int warm_ = 0;
    void* input_ = nullptr;
    void* output_ = nullptr;
};

class CudaEngine final : public nvinfer1::ICudaEngine, nvinfer1::apiv::UnusedVCudaEngine, Counted {
public:
    explicit CudaEngine(nvinfer1::ILogger& logger) : logger_(logger) { mImpl = this; }

private:
    nvinfer1::ICudaEngine* getPImpl() noexcept override { return this; }
    std::int32_t getNbIOTensors() const noexcept override { return gpu().tensors; }
    const char* getIOTensorName(std::int32_t index) const noexcept override {
        return index == 0 ? gpu().input : index == 1 ? "y" : "unknown";
    }
    nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
        return is_input(name) ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
    }
    nvinfer1::DataType getTensorDataType(const char* name) const noexcept override {
        return is_input(name) ? gpu().input_type : nvinfer1::DataType::kFLOAT;
    }
    nvinfer1::TensorFormat getTensorFormat(const char* /*name*/) const noexcept override { return gpu().format; }
    nvinfer1::TensorLocation getTensorLocation(const char* /*name*/) const noexcept override {
        return nvinfer1::TensorLocation::kDEVICE;
    }
    Dims getTensorShape(const char* /*name*/) const noexcept override { return sizes(-1); }
    Dims getProfileShape(const char* /*name*/, std::int32_t /*profile*/,
                         nvinfer1::OptProfileSelector select) const noexcept override {
        return sizes(select == nvinfer1::OptProfileSelector::kMIN ? 1 : largest_batch);
    }
    nvinfer1::IExecutionContext* createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy /*strategy*/) noexcept override {
        return gpu().context ? new ExecutionContext(logger_) : nullptr;
    }

    nvinfer1::ILogger& logger_;
};

class Runtime final : public nvinfer1::IRuntime, nvinfer1::apiv::UnusedVRuntime, Counted {
public:
    explicit Runtime(nvinfer1::ILogger& logger) : logger_(logger) { mImpl = this; }

private:
    nvinfer1::IRuntime* getPImpl() noexcept override { return this; }
    void setEngineHostCodeAllowed(bool allowed) noexcept override { gpu().host_code = allowed; }
    void setDLACore(std::int32_t core) noexcept override { gpu().dla_core = core; }
    nvinfer1::ICudaEngine* deserializeCudaEngine(const void* /*plan*/, std::size_t /*bytes*/) noexcept override {
        if (!gpu().plan) {
            logger_.log(nvinfer1::ILogger::Severity::kERROR, "the plan is damaged.");
            logger_.log(nvinfer1::ILogger::Severity::kINTERNAL_ERROR, "and so on.\n");
        }
        return gpu().plan ? new CudaEngine(logger_) : nullptr;
    }

    nvinfer1::ILogger& logger_;
};

}  // namespace

extern "C" {

std::int32_t getInferLibVersion() noexcept { return gpu().tensorrt; }
std::int32_t getInferLibBuildVersion() noexcept { return 0; }

void* createInferRuntime_INTERNAL(void* logger, std::int32_t /*version*/) noexcept {
    return gpu().runtime ? static_cast<nvinfer1::IRuntime*>(new Runtime(*static_cast<nvinfer1::ILogger*>(logger)))
                         : nullptr;
}
}
