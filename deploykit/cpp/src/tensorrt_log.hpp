// What TensorRT says when it refuses something: it gives no reason but to a logger.
#pragma once

#include <NvInferRuntime.h>

#include <new>
#include <string>
#include <string_view>

namespace deploykit::backends::tensorrt {

// The errors that TensorRT logs while this object lives, on the thread that made it. It allocates nothing before one.
class Heard {
public:
    Heard() noexcept : outer_(innermost()) { innermost() = this; }
    Heard(const Heard&) = delete;
    Heard& operator=(const Heard&) = delete;
    ~Heard() { innermost() = outer_; }

    // ": one; another", or nothing where TensorRT said nothing.
    const std::string& reasons() const noexcept { return reasons_; }

    // To the innermost of this thread, if there is one.
    static void add(std::string_view message) noexcept {
        Heard* const heard = innermost();
        const std::size_t end = message.find_last_not_of(". \n");
        if (heard == nullptr || end == std::string_view::npos || heard->reasons_.size() > enough) {
            return;
        }
        try {
            heard->reasons_ += (heard->reasons_.empty() ? ": " : "; ") + std::string(message.substr(0, end + 1));
        } catch (const std::bad_alloc&) {
            return;  // the error is told without it
        }
    }

private:
    static constexpr std::size_t enough = 1000;  // characters, for a message that is read

    static Heard*& innermost() noexcept {
        thread_local Heard* current = nullptr;
        return current;
    }

    Heard* outer_;
    std::string reasons_;
};

class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (message != nullptr && severity <= Severity::kERROR) {
            Heard::add(message);
        }
    }
};

// TensorRT keeps one logger for the whole process, the first it was given, for as long as any runtime lives: so ours
// has no state, and is never destroyed. Where the application came first with its own, that one gets the messages.
inline nvinfer1::ILogger& logger() {
    static auto* const kept = new Logger;
    return *kept;
}

}  // namespace deploykit::backends::tensorrt
