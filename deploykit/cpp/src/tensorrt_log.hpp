// Capture TensorRT's error messages: it reports reasons only to its logger.
#pragma once

#include <NvInferRuntime.h>

#include <new>
#include <string>
#include <string_view>

namespace deploykit::backends::tensorrt {

// Errors that TensorRT logs during this object's lifetime, on its thread. Allocates nothing unless there is an error.
class LogCapture {
public:
    LogCapture() noexcept : outer_(innermost()) { innermost() = this; }
    LogCapture(const LogCapture&) = delete;
    LogCapture& operator=(const LogCapture&) = delete;
    ~LogCapture() { innermost() = outer_; }

    // ": one; another", or empty if there was no message.
    const std::string& reasons() const noexcept { return reasons_; }

    // Add a message to the innermost capture of this thread, if there is one.
    static void add(std::string_view message) noexcept {
        LogCapture* const capture = innermost();
        const std::size_t end = message.find_last_not_of(". \n");
        if (capture == nullptr || end == std::string_view::npos || capture->reasons_.size() > enough) {
            return;
        }
        try {
            capture->reasons_ += (capture->reasons_.empty() ? ": " : "; ") + std::string(message.substr(0, end + 1));
        } catch (const std::bad_alloc&) {
            return;  // the error is reported without it
        }
    }

private:
    static constexpr std::size_t enough = 1000;  // characters, to keep messages readable

    static LogCapture*& innermost() noexcept {
        thread_local LogCapture* current = nullptr;
        return current;
    }

    LogCapture* outer_;
    std::string reasons_;
};

class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (message != nullptr && severity <= Severity::kERROR) {
            LogCapture::add(message);
        }
    }
};

// TensorRT keeps the first logger of the process as long as any runtime exists, so this one has no state and is never
// destroyed. If the application registered its own logger first, that one receives the messages.
inline nvinfer1::ILogger& logger() {
    static auto* const instance = new Logger;
    return *instance;
}

}  // namespace deploykit::backends::tensorrt
