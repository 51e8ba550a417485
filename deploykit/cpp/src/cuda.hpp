// CUDA's runtime, owned and checked: what is reserved is given back, and what fails is an Error(backend).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "deploykit/error.hpp"

namespace deploykit::backends::cuda {

// Error(backend) where `code` is one. The message begins with `doing` and `what`: "reserving GPU memory for ", "input".
inline void require(cudaError_t code, const char* doing, const std::string& what = "") {
    if (code == cudaSuccess) {
        return;
    }
    static_cast<void>(cudaGetLastError());  // told here, and not once more to whoever asks CUDA next
    throw Error(
        ErrorCode::backend, doing + what + " failed: " + cudaGetErrorString(code) + ".", "CUDA",
        code == cudaErrorMemoryAllocation
            ? "Use a smaller batch, or close what else uses this GPU."
            : "After most of CUDA's errors a process has lost its GPU: start it anew, then run deploykit doctor.");
}

template <auto Release>
struct Releaser {
    template <class T>
    void operator()(T* held) const noexcept {
        static_cast<void>(Release(held));  // what cannot be released is gone with the GPU
    }
};

template <class Handle, auto Release>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Releaser<Release>>;

using DeviceMemory = Owned<void*, cudaFree>;
using HostMemory = Owned<void*, cudaFreeHost>;  // page-locked: the GPU copies it by itself
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using ExecutableGraph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline DeviceMemory device_memory(std::size_t bytes, const std::string& tensor) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes), "reserving GPU memory for ", tensor);
    return DeviceMemory(memory);
}

inline HostMemory host_memory(std::size_t bytes, const std::string& tensor) {
    void* memory = nullptr;
    require(cudaMallocHost(&memory, bytes), "reserving page-locked memory for ", tensor);
    return HostMemory(memory);
}

// One that neither waits for other libraries' work on the default stream, nor has a capture broken by it.
inline Stream stream() {
    cudaStream_t made = nullptr;
    require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "making a stream");
    return Stream(made);
}

// CUDA's device is a property of the calling thread, and engines are called by any. It stays `device` afterwards: to
// set another one back could create a context on it, with all the memory that this takes.
inline void use(int device) { require(cudaSetDevice(device), "choosing the GPU"); }

}  // namespace deploykit::backends::cuda
