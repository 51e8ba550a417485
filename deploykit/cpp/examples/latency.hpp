// Latency measurement for the examples.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

// Milliseconds since construction or the last call, on a monotonic clock.
class Stopwatch {
public:
    double lap_ms() {
        const auto now = std::chrono::steady_clock::now();
        const std::chrono::duration<double, std::milli> passed = now - last_;
        last_ = now;
        return passed.count();
    }

private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// The smallest latency that `percent` of the calls did not exceed. There must be at least one call.
inline double percentile_ms(std::vector<double> latencies_ms, int percent) {
    std::sort(latencies_ms.begin(), latencies_ms.end());
    return latencies_ms[(latencies_ms.size() * static_cast<std::size_t>(percent) + 99) / 100 - 1];
}
