// deploykit-bench: latency, start-up time and peak memory of a bundle through this library, as one JSON document.

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "deploykit/deploykit.hpp"
#include "measure.hpp"
#include "memory.hpp"
#include "workload.hpp"

namespace {

using deploykit::Error;
using deploykit::ErrorCode;
using deploykit::bench::Nanoseconds;

constexpr const char* usage =
    "usage: deploykit-bench BUNDLE [options]\n"
    "\n"
    "  --batch N                             samples per call (default: the bundle's smallest batch)\n"
    "  --runtime any|tensorrt|onnxruntime    preferred runtime (default: any)\n"
    "  --threads N                           ONNX Runtime threads (default: one per core)\n"
    "  --seconds S                           minimum measuring time (default: 2)\n"
    "  --iterations N                        minimum number of calls (default: 50)\n"
    "  --seconds-at-most S                   maximum measuring time (default: 30)\n"
    "  --raw FILE                            write every duration in nanoseconds, one per line\n"
    "  --serve                               do not measure, but answer requests on stdin, one per line: run\n"
    "                                        (nanoseconds of one call), memory (peak in bytes)\n";

constexpr const char* program = "deploykit-bench";

struct Options {
    std::string bundle;
    std::optional<std::int64_t> batch;
    deploykit::EngineOptions engine;
    deploykit::bench::Settings settings;
    std::string raw;
    bool serve = false;
};

[[noreturn]] void refuse(const std::string& problem) {
    throw Error(ErrorCode::usage, problem, program, "Run deploykit-bench --help.");
}

// Parse all of `word` as a number between the two bounds.
template <class Number, class Parse>
Number number(const std::string& option, const std::string& word, Number least, Number most, Parse parse) {
    try {
        std::size_t used = 0;
        const Number value = static_cast<Number>(parse(word, &used));
        if (used == word.size() && value >= least && value <= most) {
            return value;
        }
    } catch (const std::logic_error&) {  // not a number, or out of range
    }
    refuse("'" + word + "' is not a valid value for " + option + ".");
}

std::int64_t integer(const std::string& option, const std::string& word, std::int64_t least) {
    constexpr std::int64_t most = 1 << 20;
    return number<std::int64_t>(option, word, least, most,
                                [](const std::string& text, std::size_t* used) { return std::stoll(text, used); });
}

double seconds(const std::string& option, const std::string& word) {
    return number<double>(option, word, 1e-3, 86400.0,
                          [](const std::string& text, std::size_t* used) { return std::stod(text, used); });
}

deploykit::Runtime runtime(const std::string& word) {
    if (word == "any") {
        return deploykit::Runtime::any;
    }
    if (word == "tensorrt") {
        return deploykit::Runtime::tensorrt;
    }
    if (word == "onnxruntime") {
        return deploykit::Runtime::onnxruntime;
    }
    refuse("'" + word + "' is not a runtime; choose any, tensorrt or onnxruntime.");
}

void set(Options& options, const std::string& option, const std::string& word) {
    if (option == "--batch") {
        options.batch = integer(option, word, 1);
    } else if (option == "--runtime") {
        options.engine.runtime = runtime(word);
    } else if (option == "--threads") {
        options.engine.threads = static_cast<int>(integer(option, word, 0));
    } else if (option == "--seconds") {
        options.settings.seconds_at_least = seconds(option, word);
    } else if (option == "--seconds-at-most") {
        options.settings.seconds_at_most = seconds(option, word);
    } else if (option == "--iterations") {
        options.settings.iterations_at_least = static_cast<std::size_t>(integer(option, word, 1));
    } else if (option == "--raw") {
        options.raw = word;
    } else {
        refuse("unknown option '" + option + "'.");
    }
}

Options parse(const std::vector<std::string>& words) {
    Options options;
    for (std::size_t index = 0; index < words.size(); ++index) {
        const std::string& word = words[index];
        if (word == "--serve") {
            options.serve = true;
        } else if (word.rfind("--", 0) == 0) {
            if (index + 1 == words.size()) {
                refuse("'" + word + "' is not an option, or needs a value.");
            }
            set(options, word, words[++index]);
        } else if (options.bundle.empty()) {
            options.bundle = word;
        } else {
            refuse("'" + word + "' is an unexpected argument.");
        }
    }
    if (options.bundle.empty()) {
        refuse("the folder of a bundle is missing.");
    }
    return options;
}

double milliseconds(double nanoseconds) { return nanoseconds / 1e6; }

// An open bundle after its first call, with its startup times.
class Opened {
public:
    explicit Opened(const Options& options)
        : bundle_(options.bundle),
          opened_(deploykit::bench::now()),
          engine_(bundle_, options.engine),
          context_(engine_.context()),
          loaded_(deploykit::bench::now()),
          batch_(options.batch.value_or(engine_.batch().minimum)),
          workload_(bundle_, engine_.inputs(), batch_),
          first_(timed()) {}

    void run() { context_.run(workload_.inputs()); }
    Nanoseconds timed() {
        return deploykit::bench::timed([this] { run(); });
    }

    std::int64_t batch() const { return batch_; }

    nlohmann::ordered_json description() const {
        nlohmann::ordered_json json;
        json["runtime"] = engine_.runtime();
        json["file"] = engine_.file();
        json["skipped_engines"] = engine_.skipped_engines();
        json["start_up"] = {{"open_ms", milliseconds(static_cast<double>(opened_ - start_))},
                            {"load_ms", milliseconds(static_cast<double>(loaded_ - opened_))},
                            {"first_call_ms", milliseconds(static_cast<double>(first_))}};
        return json;
    }

private:
    Nanoseconds start_ = deploykit::bench::now();
    deploykit::Bundle bundle_;
    Nanoseconds opened_;
    deploykit::Engine engine_;
    deploykit::Context context_;
    Nanoseconds loaded_;
    std::int64_t batch_;
    deploykit::bench::Workload workload_;
    Nanoseconds first_;
};

// The class Latency of deploykit/core/values/latencies.py.
nlohmann::ordered_json latency(const deploykit::bench::Measured& measured, std::int64_t batch) {
    const deploykit::bench::Series& series = measured.series;
    std::vector<Nanoseconds> ascending = series.durations;
    std::sort(ascending.begin(), ascending.end());
    const auto count = static_cast<double>(ascending.size());
    nlohmann::ordered_json json;
    json["batch"] = batch;
    json["iterations"] = ascending.size();
    json["warmup_iterations"] = measured.warmup_iterations;
    for (const std::size_t percent : {50U, 90U, 95U, 99U}) {
        json["p" + std::to_string(percent) + "_ms"] =
            milliseconds(static_cast<double>(deploykit::bench::percentile(ascending, percent)));
    }
    json["mean_ms"] = milliseconds(deploykit::bench::mean(series.durations));
    json["deviation_ms"] = milliseconds(deploykit::bench::deviation(series.durations));
    json["throughput_per_s"] = static_cast<double>(batch) * count / (static_cast<double>(series.elapsed) / 1e9);
    json["settled"] = measured.settled;
    return json;
}

void write_raw(const std::string& path, const std::vector<Nanoseconds>& durations) {
    std::ofstream file(path);
    for (const Nanoseconds duration : durations) {
        file << duration << '\n';
    }
    if (!file.flush()) {
        throw Error(ErrorCode::bad_input, "it cannot be written.", path, "Name another file with --raw.");
    }
}

void measure(const Options& options) {
    Opened opened(options);
    deploykit::bench::Settings settings = options.settings;
    settings.seconds_at_most = std::max(settings.seconds_at_least, settings.seconds_at_most);
    const auto measured = deploykit::bench::measured([&opened] { opened.run(); }, settings);
    if (!options.raw.empty()) {
        write_raw(options.raw, measured.series.durations);
    }
    nlohmann::ordered_json json = opened.description();
    json["latency"] = latency(measured, opened.batch());
    json["peak_memory_bytes"] = deploykit::bench::peak_memory_bytes();
    std::cout << json.dump(2) << '\n' << std::flush;
}

// Print one line about the opened engine, then one line per request, until stdin ends.
void serve(const Options& options) {
    Opened opened(options);
    std::cout << opened.description().dump() << '\n' << std::flush;
    for (std::string request; std::getline(std::cin, request);) {
        if (request == "run") {
            std::cout << opened.timed() << '\n' << std::flush;
        } else if (request == "memory") {
            std::cout << deploykit::bench::peak_memory_bytes() << '\n' << std::flush;
        } else {
            refuse("'" + request + "' is not a request; send run or memory.");
        }
    }
}

int answer(const std::vector<std::string>& words) {
    if (words.size() == 1 && (words[0] == "--help" || words[0] == "-h")) {
        std::cout << usage;
        return 0;
    }
    const Options options = parse(words);
    if (options.serve) {
        serve(options);
    } else {
        measure(options);
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        return answer({words + 1, words + count});
    } catch (const Error& error) {
        std::cerr << error.what() << '\n';
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::cerr << program << ": " << error.what() << '\n';
        return static_cast<int>(ErrorCode::internal);
    }
}
