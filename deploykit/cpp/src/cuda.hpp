// CUDA runtime wrappers: resources are released automatically, and failures are Error(backend).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "deploykit/error.hpp"

namespace deploykit::backends::cuda {

// Error(backend) unless `code` is success. The message begins with `doing` and `what`: "allocating GPU memory for ",
// "x".
inline void require(cudaError_t code, const char* doing, const std::string& what = "") {
    if (code == cudaSuccess) {
        return;
    }
    static_cast<void>(cudaGetLastError());  // clear the error, so that the next CUDA call does not report it again
    throw Error(ErrorCode::backend, doing + what + " failed: " + cudaGetErrorString(code) + ".", "CUDA",
                code == cudaErrorMemoryAllocation
                    ? "Use a smaller batch, or close other programs that use this GPU."
                    : "Most CUDA errors make the GPU unusable for the process: restart it, then run deploykit doctor.");
}

template <auto Release>
struct Releaser {
    template <class T>
    void operator()(T* handle) const noexcept {
        static_cast<void>(Release(handle));  // a failure to release is not recoverable
    }
};

template <class Handle, auto Release>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Releaser<Release>>;

using DeviceMemory = Owned<void*, cudaFree>;
using HostMemory = Owned<void*, cudaFreeHost>;  // page-locked, for asynchronous copies
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using ExecutableGraph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline DeviceMemory device_memory(std::size_t bytes, const std::string& tensor) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes), "allocating GPU memory for ", tensor);
    return DeviceMemory(memory);
}

inline HostMemory host_memory(std::size_t bytes, const std::string& tensor) {
    void* memory = nullptr;
    require(cudaMallocHost(&memory, bytes), "allocating page-locked memory for ", tensor);
    return HostMemory(memory);
}

// Create a stream that does not synchronize with the default stream, which could also invalidate a graph capture.
inline Stream stream() {
    cudaStream_t stream_handle = nullptr;
    require(cudaStreamCreateWithFlags(&stream_handle, cudaStreamNonBlocking), "creating a stream");
    return Stream(stream_handle);
}

// The capture of what is enqueued on a stream. It is always ended, whatever is thrown in between: until then the stream
// cannot be used.
class Capture {
public:
    explicit Capture(cudaStream_t captured_stream) noexcept
        : stream_(captured_stream),
          active_(cudaStreamBeginCapture(captured_stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {}
    Capture(const Capture&) = delete;
    Capture(Capture&&) = delete;
    Capture& operator=(const Capture&) = delete;
    Capture& operator=(Capture&&) = delete;
    ~Capture() { static_cast<void>(end()); }

    // Whether the capture has begun and not ended.
    bool active() const noexcept { return active_; }

    // What was captured; null if the capture failed.
    Graph end() noexcept {
        cudaGraph_t captured = nullptr;
        if (std::exchange(active_, false) && cudaStreamEndCapture(stream_, &captured) != cudaSuccess) {
            captured = nullptr;
        }
        return Graph(captured);
    }

private:
    cudaStream_t stream_;
    bool active_;
};

// Select the device for the calling thread: engines are called from any thread. The previous device is not restored,
// since that could create a context on it, which needs memory.
inline void use(int device) { require(cudaSetDevice(device), "selecting the GPU"); }

}  // namespace deploykit::backends::cuda
