// A camera application: process frame by frame, and measure the latency of every stage.
#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <deploykit/deploykit.hpp>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../image_file.hpp"
#include "../latency.hpp"

namespace {

constexpr const char* usage =
    "usage: camera_loop BUNDLE FOLDER\n"
    "       camera_loop BUNDLE --raw WIDTHxHEIGHT [FILE]\n"
    "\n"
    "Prints the best class of every frame and the latency of every stage. Frames are the images of a folder, sorted "
    "by\n"
    "name, or raw 8-bit RGB from a file or standard input:\n"
    "\n"
    "    ffmpeg -i /dev/video0 -f rawvideo -pix_fmt rgb24 - | camera_loop BUNDLE --raw 640x480\n"
    "\n"
    "Prints p50, p90 and p99 of each stage at the end, or after Ctrl-C.\n"
    "\n"
    "Exit 1: the bundle is damaged or the self-test failed. 2: wrong usage. 3: a frame or file that cannot be\n"
    "used. 4: no runtime for the engine. 5: an internal fault.\n";

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C ends the loop, and interrupts a read that waits for a frame.
void listen_for_interrupt() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigaction(SIGINT, &action, nullptr);
}

[[noreturn]] void refuse(deploykit::ErrorCode code, const char* problem, const std::string& where, const char* remedy) {
    throw deploykit::Error(code, problem, where, remedy);
}

// Source of frames; none at the end. An image is valid until the next call.
class Source {
public:
    Source() = default;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    virtual ~Source() = default;
    virtual std::optional<deploykit::Image> next() = 0;
};

class Folder : public Source {
public:
    explicit Folder(const std::string& path) {
        if (!std::filesystem::is_directory(path)) {
            refuse(deploykit::ErrorCode::bad_input, "there is no such folder.", path, "Give a folder of images.");
        }
        for (const auto& entry : std::filesystem::directory_iterator(path)) {
            paths_.push_back(entry.path().string());
        }
        if (paths_.empty()) {
            refuse(deploykit::ErrorCode::bad_input, "it is empty.", path, "Give a folder of images.");
        }
        std::sort(paths_.begin(), paths_.end());
    }

    std::optional<deploykit::Image> next() override {
        if (index_ == paths_.size()) {
            return std::nullopt;
        }
        file_.emplace(paths_[index_++]);
        return file_->image();
    }

private:
    std::vector<std::string> paths_;
    std::size_t index_ = 0;
    std::optional<ImageFile> file_;
};

class RawStream : public Source {
public:
    // Reads standard input if there is no path.
    RawStream(int width, int height, const std::optional<std::string>& path)
        : width_(width),
          height_(height),
          pixels_(std::size_t{3} * static_cast<std::size_t>(width) * static_cast<std::size_t>(height)),
          name_(path.value_or("standard input")),
          file_(path ? std::fopen(path->c_str(), "rb") : stdin, std::fclose) {
        if (file_ == nullptr) {
            refuse(deploykit::ErrorCode::bad_input, "it cannot be opened.", name_, "Give a file of raw frames.");
        }
    }

    std::optional<deploykit::Image> next() override {
        const std::size_t got = std::fread(pixels_.data(), 1, pixels_.size(), file_.get());
        if (interrupted != 0 || (got == 0 && !empty_)) {
            return std::nullopt;
        }
        empty_ = false;
        if (got < pixels_.size()) {
            refuse(deploykit::ErrorCode::bad_input, got == 0 ? "there is no frame." : "it ends within a frame.", name_,
                   "Check WIDTHxHEIGHT: each pixel has three bytes, RGB.");
        }
        return deploykit::Image{pixels_.data(), height_, width_};
    }

private:
    int width_;
    int height_;
    std::vector<std::uint8_t> pixels_;
    std::string name_;
    bool empty_ = true;
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

// "640x480", of up to 20000 pixels a side.
std::unique_ptr<Source> raw_stream(const std::string& size, const std::optional<std::string>& path) {
    int width = 0;
    int height = 0;
    const char* const end = size.data() + size.size();
    const auto [middle, failure] = std::from_chars(size.data(), end, width);
    if (failure == std::errc() && middle != end && *middle == 'x') {
        const auto [last, other] = std::from_chars(middle + 1, end, height);
        if (other == std::errc() && last == end && std::min(width, height) > 0 && std::max(width, height) <= 20000) {
            return std::make_unique<RawStream>(width, height, path);
        }
    }
    refuse(deploykit::ErrorCode::usage, "it is not a frame size.", "'" + size + "'",
           "Give WIDTHxHEIGHT in pixels, such as 640x480.");
}

std::unique_ptr<Source> source_of(const std::vector<std::string>& words) {
    if (words.front() != "--raw" && words.size() == 1) {
        return std::make_unique<Folder>(words.front());
    }
    if (words.front() == "--raw" && (words.size() == 2 || words.size() == 3)) {
        return raw_stream(words[1], words.size() == 3 ? std::optional(words[2]) : std::nullopt);
    }
    refuse(deploykit::ErrorCode::usage, "frames must come from one folder or one raw stream.", "the command line",
           "Run camera_loop --help.");
}

constexpr std::array<const char*, 5> stages{"decode", "preprocess", "run", "top-k", "all"};

using Latencies = std::array<std::vector<double>, stages.size()>;

void print_summary(const Latencies& latencies_ms) {
    std::printf("frames: %zu\n", latencies_ms[0].size());
    if (latencies_ms[0].empty()) {
        return;
    }
    std::printf("              p50 ms    p90 ms    p99 ms\n");
    for (std::size_t stage = 0; stage < stages.size(); ++stage) {
        std::printf("%-10s  %8.2f  %8.2f  %8.2f\n", stages[stage], percentile_ms(latencies_ms[stage], 50),
                    percentile_ms(latencies_ms[stage], 90), percentile_ms(latencies_ms[stage], 99));
    }
}

void camera_loop(const std::string& folder, const std::vector<std::string>& frames) {
    const std::unique_ptr<Source> source = source_of(frames);
    const deploykit::Bundle bundle(folder);
    const deploykit::Engine engine(bundle);
    deploykit::self_test(bundle, engine);
    deploykit::Preprocessor preprocess(bundle);
    deploykit::Context context = engine.context();

    Latencies latencies_ms;
    while (interrupted == 0) {
        Stopwatch whole;
        Stopwatch stopwatch;
        const std::optional<deploykit::Image> frame = source->next();
        if (!frame) {
            break;
        }
        std::array<double, stages.size()> passed_ms{};
        passed_ms[0] = stopwatch.lap_ms();
        const deploykit::TensorView input = preprocess(*frame);
        passed_ms[1] = stopwatch.lap_ms();
        const deploykit::TensorView& scores = context.run(input);
        passed_ms[2] = stopwatch.lap_ms();
        const deploykit::Prediction best = deploykit::top_k(scores, 1, bundle).front();
        passed_ms[3] = stopwatch.lap_ms();
        passed_ms[4] = whole.lap_ms();
        for (std::size_t stage = 0; stage < stages.size(); ++stage) {
            latencies_ms[stage].push_back(passed_ms[stage]);
        }
        std::printf("decode %.2f  preprocess %.2f  run %.2f  top-k %.2f  all %.2f ms  %.2f %%  %s\n", passed_ms[0],
                    passed_ms[1], passed_ms[2], passed_ms[3], passed_ms[4],
                    100.0 * static_cast<double>(best.probability), best.label.c_str());
        std::fflush(stdout);
    }
    print_summary(latencies_ms);
}

}  // namespace

int main(int count, char** words) {
    const std::vector<std::string> arguments(words + 1, words + count);
    if (arguments == std::vector<std::string>{"--help"}) {
        std::fputs(usage, stdout);
        return 0;
    }
    if (arguments.size() < 2) {
        std::fputs(usage, stderr);
        return static_cast<int>(deploykit::ErrorCode::usage);
    }
    try {
        listen_for_interrupt();
        camera_loop(arguments.front(), {arguments.begin() + 1, arguments.end()});
        return 0;
    } catch (const deploykit::Error& error) {
        std::fprintf(stderr, "camera_loop: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "camera_loop: %s\n", error.what());
        return static_cast<int>(deploykit::ErrorCode::internal);
    }
}
