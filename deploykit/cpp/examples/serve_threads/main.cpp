// Share one engine between threads: each has its own context and calls again as soon as the last call returns.
#include <charconv>
#include <chrono>
#include <cstdio>
#include <deploykit/deploykit.hpp>
#include <exception>
#include <future>
#include <numeric>
#include <string>
#include <vector>

#include "../image_file.hpp"
#include "../latency.hpp"

namespace {

constexpr const char* usage =
    "usage: serve_threads BUNDLE IMAGE [--threads N] [--seconds S]\n"
    "\n"
    "Measures throughput and latency of 1, 2, 4, … and N threads (default 4) that share one engine and repeatedly\n"
    "preprocess and run the same image, for S seconds (default 2) each. Every call uses only its own thread.\n"
    "\n"
    "Exit 1: the bundle is damaged or the self-test failed. 2: wrong usage. 3: an image or file that\n"
    "cannot be used. 4: no runtime for the engine. 5: an internal fault.\n";

struct Options {
    std::string bundle;
    std::string image;
    int threads = 4;
    int seconds = 2;
};

int whole_number(const std::string& option, const std::string& word) {
    int number = 0;
    const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (failure != std::errc() || end != word.data() + word.size() || number < 1 || number > 1000) {
        throw deploykit::Error(deploykit::ErrorCode::usage, "'" + word + "' is not a valid number.", option,
                               "Give an integer from 1 to 1000.");
    }
    return number;
}

Options parse(std::vector<std::string> words) {
    Options options;
    while (words.size() > 3) {
        const std::string option = words[words.size() - 2];
        if (option != "--threads" && option != "--seconds") {
            throw deploykit::Error(deploykit::ErrorCode::usage, "it is an unknown option.", "'" + option + "'",
                                   "Run serve_threads --help.");
        }
        (option == "--threads" ? options.threads : options.seconds) = whole_number(option, words.back());
        words.resize(words.size() - 2);
    }
    if (words.size() != 2) {
        throw deploykit::Error(deploykit::ErrorCode::usage, "a bundle and an image are needed.", "the command line",
                               "Run serve_threads --help.");
    }
    options.bundle = words[0];
    options.image = words[1];
    return options;
}

// One thread: measures the latency of every call until the time is up.
std::vector<double> serve(const deploykit::Bundle& bundle, const deploykit::Engine& engine,
                          const deploykit::Image& image, std::chrono::steady_clock::time_point end) {
    deploykit::Preprocessor preprocess(bundle);
    deploykit::Context context = engine.context();
    const auto answer = [&] {
        const deploykit::TensorView input = preprocess(image);
        context.run(&input, 1);  // returns all outputs
    };
    answer();  // the first call allocates buffers
    std::vector<double> latencies_ms;
    Stopwatch stopwatch;
    do {
        answer();
        latencies_ms.push_back(stopwatch.lap_ms());
    } while (std::chrono::steady_clock::now() < end);
    return latencies_ms;
}

void measure(const deploykit::Bundle& bundle, const deploykit::Engine& engine, const deploykit::Image& image,
             int threads, int seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    std::vector<std::future<std::vector<double>>> running;
    for (int thread = 0; thread < threads; ++thread) {
        running.push_back(std::async(std::launch::async, [&] { return serve(bundle, engine, image, end); }));
    }
    std::vector<double> all_ms;
    for (auto& thread : running) {
        const std::vector<double> latencies_ms = thread.get();  // rethrows the thread's exception
        all_ms.insert(all_ms.end(), latencies_ms.begin(), latencies_ms.end());
    }
    // All threads are busy at any time; the start, when fewer are, is not counted.
    const double sum_ms = std::accumulate(all_ms.begin(), all_ms.end(), 0.0);
    const double images_per_second = 1000.0 * threads * static_cast<double>(all_ms.size()) / sum_ms;
    std::printf("%7d  %8.1f  %8.2f  %8.2f  %8.2f\n", threads, images_per_second, percentile_ms(all_ms, 50),
                percentile_ms(all_ms, 90), percentile_ms(all_ms, 99));
    std::fflush(stdout);
}

void serve_threads(const Options& options) {
    const ImageFile file(options.image);
    const deploykit::Bundle bundle(options.bundle);
    deploykit::EngineOptions engine_options;
    engine_options.threads = 1;  // ONNX Runtime: otherwise all contexts would share, and wait for, one thread pool
    const deploykit::Engine engine(bundle, engine_options);
    deploykit::self_test(bundle, engine);

    std::printf("%s, %s\n", engine.runtime().c_str(), engine.file().c_str());
    std::printf("threads  images/s    p50 ms    p90 ms    p99 ms\n");
    for (int threads = 1; threads < options.threads; threads *= 2) {
        measure(bundle, engine, file.image(), threads, options.seconds);
    }
    measure(bundle, engine, file.image(), options.threads, options.seconds);
}

}  // namespace

int main(int count, char** words) {
    const std::vector<std::string> arguments(words + 1, words + count);
    if (arguments.empty() || arguments.front() == "--help") {
        std::fputs(usage, arguments.empty() ? stderr : stdout);
        return arguments.empty() ? static_cast<int>(deploykit::ErrorCode::usage) : 0;
    }
    try {
        serve_threads(parse(arguments));
        return 0;
    } catch (const deploykit::Error& error) {
        std::fprintf(stderr, "serve_threads: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "serve_threads: %s\n", error.what());
        return static_cast<int>(deploykit::ErrorCode::internal);
    }
}
