// A double of the CUDA runtime: what deploykit calls of it, on the host. Its streams do nothing before somebody waits
// for them, and its GPU addresses cannot be read. It proves nothing about a GPU.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <vector>

#include "gpu.hpp"
#include "stream.hpp"

struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};

Gpu& gpu() {
    static Gpu one;
    return one;
}

void* on_gpu(void* memory) {
    constexpr std::uintptr_t far_away = std::uintptr_t{1} << 62U;
    return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(memory) ^ far_away);
}

namespace {

template <class T, class... Arguments>
cudaError_t make(T** made, Arguments&&... arguments) {
    *made = new T{std::forward<Arguments>(arguments)...};
    gpu().alive += 1;
    return cudaSuccess;
}

template <class T>
cudaError_t release(T* made) {
    delete made;
    gpu().alive += made != nullptr ? -1 : 0;
    return cudaSuccess;
}

cudaError_t reserve(void** memory, std::size_t bytes, cudaError_t answer) {
    if (answer == cudaSuccess) {
        *memory = std::malloc(bytes);
        gpu().alive += 1;
    }
    return answer;
}

cudaError_t give_back(void* memory) {
    std::free(memory);
    gpu().alive += memory != nullptr ? -1 : 0;
    return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
    *version = gpu().driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = gpu().count;
    return gpu().counting;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
    std::strcpy(properties->name, "NVIDIA Fake");
    properties->major = gpu().major;
    properties->minor = gpu().minor;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    gpu().current = device;
    return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t code) {
    return code == cudaErrorMemoryAllocation ? "out of memory" : "an error of the double";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    const cudaError_t code = reserve(memory, bytes, gpu().memory);
    if (code == cudaSuccess) {
        *memory = on_gpu(*memory);
    }
    return code;
}

cudaError_t cudaFree(void* memory) { return give_back(memory == nullptr ? nullptr : on_gpu(memory)); }
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) { return reserve(memory, bytes, gpu().page_locked); }
cudaError_t cudaFreeHost(void* memory) { return give_back(memory); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
    return flags == cudaStreamNonBlocking ? make(stream) : cudaErrorInvalidValue;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return release(stream); }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream->capturing) {
        return cudaErrorStreamCaptureUnsupported;
    }
    const Inside here;
    for (const auto& work : std::exchange(stream->work, {})) {
        work();
    }
    return gpu().waiting;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    void* const target = kind == cudaMemcpyHostToDevice ? on_gpu(to) : to;
    const void* const source = kind == cudaMemcpyDeviceToHost ? on_gpu(const_cast<void*>(from)) : from;
    if (stream->capturing && !gpu().room_to_capture) {
        throw std::bad_alloc();
    }
    const Inside here;
    stream->add([=] { std::memcpy(target, source, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    if (mode != cudaStreamCaptureModeThreadLocal || stream->capturing) {
        return cudaErrorStreamCaptureUnsupported;
    }
    stream->capturing = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    stream->capturing = false;
    if (std::exchange(stream->invalid, false)) {
        stream->captured.clear();
        *graph = nullptr;
        return cudaErrorStreamCaptureInvalidated;
    }
    return make(graph, std::exchange(stream->captured, {}));
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long /*flags*/) {
    gpu().captured += 1;
    return make(executable, graph->work);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (!gpu().launchable) {
        return cudaErrorInvalidValue;
    }
    gpu().launched += 1;
    const Inside here;
    for (const auto& work : executable->work) {
        stream->add(work);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return release(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return release(executable); }
}
