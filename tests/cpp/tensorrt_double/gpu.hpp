// What the double of TensorRT and CUDA is told, and what it has counted.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

// Counted by several threads, and copied with the rest of a Gpu.
class Count {
public:
    Count(int number = 0) : number_(number) {}
    Count(const Count& other) : number_(other) {}
    Count& operator=(const Count& other) {
        number_ = static_cast<int>(other);
        return *this;
    }
    ~Count() = default;

    operator int() const { return number_; }
    void operator+=(int change) { number_ += change; }

private:
    std::atomic<int> number_;
};

struct Gpu {
    // The machine.
    int driver = 13000;
    int count = 1;
    cudaError_t counting = cudaSuccess;
    int major = 8;
    int minor = 6;
    std::int32_t tensorrt = 101501;  // as getInferLibVersion tells it

    // The engine in every plan: y = 2·x, N×3, for batches of 1 to 4.
    nvinfer1::DataType input_type = nvinfer1::DataType::kFLOAT;
    nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR;
    std::int64_t width = 3;
    const char* input = "x";
    std::int32_t tensors = 2;
    std::int32_t first_profile = 0;  // -1: a context must choose one, as all but the first must in 8.6

    // What fails.
    bool runtime = true;
    bool plan = true;
    bool context = true;
    bool profile = true;
    bool enqueue = true;
    bool capturable = true;
    bool room_to_capture = true;  // false: a call on a stream that is captured throws std::bad_alloc
    bool launchable = true;
    cudaError_t memory = cudaSuccess;
    cudaError_t page_locked = cudaSuccess;
    cudaError_t waiting = cudaSuccess;

    // What was done.
    Count current = -1;  // the device that was chosen last
    bool host_code = false;
    int dla_core = 0;
    Count enqueued;  // outside of captures
    Count captured;  // graphs that were made
    Count launched;  // graphs that were launched
    Count alive;     // memory, streams, graphs and TensorRT's objects that were not released
};

// Of the process. Tests put a fresh one there.
Gpu& gpu();

// While it lives, what its thread allocates is the double's own.
class Inside {
public:
    Inside() { ++depth(); }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    ~Inside() { --depth(); }

    static int& depth() {
        thread_local int calls = 0;
        return calls;
    }
};

// What nobody is to read on the host: an address is a GPU's.
void* on_gpu(void* memory);
