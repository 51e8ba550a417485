// Many threads, one engine: every answer is, in every bit, the one that a single thread got.
//
//   bundle_threads BUNDLE [THREADS [RUNS]]        8 threads of 1,000 runs each
//
// A thread has a context and a preprocessor of its own, and turns from image to image and between batches of one and of
// two, so that at any time the threads are about different ones. Meant for ThreadSanitizer, and for any other build
// too.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "deploykit/deploykit.hpp"

namespace {

constexpr int images = 6;

// An odd-sized image of noise, the same on every machine.
class Picture {
public:
    explicit Picture(unsigned seed)
        : height_(40 + 3 * static_cast<int>(seed)), width_(60 - 5 * static_cast<int>(seed)) {
        std::mt19937 next(seed);
        pixels_.resize(static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_) * 3);
        for (std::uint8_t& value : pixels_) {
            value = static_cast<std::uint8_t>(next());
        }
    }

    deploykit::Image view() const { return {pixels_.data(), height_, width_, deploykit::ChannelOrder::rgb, 0}; }

private:
    int height_;
    int width_;
    std::vector<std::uint8_t> pixels_;
};

// What one thread works with.
class Worker {
public:
    Worker(const deploykit::Bundle& bundle, const deploykit::Engine& engine, const std::vector<Picture>& pictures)
        : preprocess_(bundle), context_(engine.context()), pictures_(pictures) {}

    // The answer to run `number`: one image, or it and the next.
    const deploykit::TensorView& run(std::size_t number) {
        batch_.clear();
        for (std::size_t row = 0; row <= number / images % 2; ++row) {
            batch_.push_back(pictures_[(number + row) % images].view());
        }
        return context_.run(preprocess_(batch_));
    }

private:
    deploykit::Preprocessor preprocess_;
    deploykit::Context context_;
    const std::vector<Picture>& pictures_;
    std::vector<deploykit::Image> batch_;
};

std::vector<char> bytes(const deploykit::TensorView& view) {
    std::vector<char> copied(view.bytes());
    std::memcpy(copied.data(), view.data(), view.bytes());
    return copied;
}

int check(const std::string& folder, std::size_t threads, std::size_t runs) {
    const deploykit::Bundle bundle(folder);
    deploykit::EngineOptions options;
    options.threads = 1;
    const deploykit::Engine engine(bundle, options);

    std::vector<Picture> pictures;
    for (unsigned seed = 0; seed < images; ++seed) {
        pictures.emplace_back(seed);
    }
    std::vector<std::vector<char>> expected;
    Worker alone(bundle, engine, pictures);
    for (std::size_t number = 0; number < 2 * images; ++number) {
        expected.push_back(bytes(alone.run(number)));
    }

    std::atomic<std::size_t> equal{0};
    std::atomic<std::size_t> different{0};
    std::atomic<std::size_t> failed{0};
    std::vector<std::thread> pool;
    for (std::size_t thread = 0; thread < threads; ++thread) {
        pool.emplace_back([&, thread] {
            try {
                Worker worker(bundle, engine, pictures);
                for (std::size_t run = 0; run < runs; ++run) {
                    const std::size_t number = (run + thread) % (2 * images);
                    ++(bytes(worker.run(number)) == expected[number] ? equal : different);
                }
            } catch (const std::exception& error) {
                std::fprintf(stderr, "thread %zu: %s\n", thread, error.what());
                ++failed;
            }
        });
    }
    for (std::thread& thread : pool) {
        thread.join();
    }
    std::printf("%zu threads, %zu runs each, %s: %zu answers equal to a single thread's, %zu different, %zu failed\n",
                threads, runs, engine.runtime().c_str(), equal.load(), different.load(), failed.load());
    return equal == threads * runs && different == 0 && failed == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) {
        std::fprintf(stderr, "bundle_threads BUNDLE [THREADS [RUNS]]\n");
        return 2;
    }
    try {
        return check(words[1], count > 2 ? std::stoul(words[2]) : 8, count > 3 ? std::stoul(words[3]) : 1000);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
