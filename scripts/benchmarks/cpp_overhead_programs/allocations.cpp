// allocations BUNDLE N: the number of allocations in N calls in steady state, of the library and of the bare loop.
//
// Every allocation function of the C library is replaced by one that counts, for all threads and all libraries of the
// process; operator new calls malloc.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deploykit/deploykit.hpp>
#include <iostream>
#include <limits>
#include <string>

#include "bare.hpp"
#include "workload.hpp"

namespace {
std::atomic<std::uint64_t> allocations{0};
}

// glibc's own names of them.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* before, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

void* malloc(std::size_t bytes) {
    ++allocations;
    return __libc_malloc(bytes);
}

void* calloc(std::size_t count, std::size_t bytes) {
    ++allocations;
    return __libc_calloc(count, bytes);
}

void* realloc(void* before, std::size_t bytes) {
    ++allocations;
    return __libc_realloc(before, bytes);
}

void* memalign(std::size_t alignment, std::size_t bytes) {
    ++allocations;
    return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
    ++allocations;
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
    ++allocations;
    *memory = __libc_memalign(alignment, bytes);
    return *memory == nullptr ? ENOMEM : 0;
}
}

namespace {

// Allocations of `calls` calls in steady state: the lowest of five counts, since the library sometimes does work of its
// own that belongs to no call.
template <class Run>
std::uint64_t count_allocations(int calls, Run run) {
    constexpr int warmup = 5;  // ONNX Runtime lays out its memory in the first calls
    constexpr int counts = 5;
    for (int call = 0; call < warmup; ++call) {
        run();
    }
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (int count = 0; count < counts; ++count) {
        const std::uint64_t before = allocations;
        for (int call = 0; call < calls; ++call) {
            run();
        }
        least = std::min(least, allocations - before);
    }
    return least;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) {
        std::cerr << "usage: allocations BUNDLE CALLS\n";
        return 2;
    }
    try {
        const int calls = std::stoi(words[2]);
        const deploykit::Bundle bundle(words[1]);
        deploykit::EngineOptions options;
        options.threads = 1;  // with more, ONNX Runtime's own count depends on which of them takes which piece of work
        const deploykit::Engine engine(bundle, options);
        deploykit::Context context = engine.context();
        const deploykit::bench::Workload workload(bundle, bundle.manifest().inputs, 1);
        Bare bare(bundle, workload.inputs(), options.threads);
        if (allocations == 0) {
            std::cerr << "nothing was counted: malloc cannot be replaced here\n";
            return 4;
        }
        std::cout << count_allocations(calls, [&] { context.run(workload.inputs()); }) << ' ';
        std::cout << count_allocations(calls, [&] { bare.run(); }) << '\n';
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 4;
    }
    return 0;
}
