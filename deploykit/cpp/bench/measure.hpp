// Latency measurement by the method of deploykit/evaluate/latency/measure.py, so that C++ and Python are comparable.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace deploykit::bench {

using Nanoseconds = std::int64_t;

inline Nanoseconds now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

inline Nanoseconds timed(const std::function<void()>& run) {
    const Nanoseconds start = now();
    run();
    return now() - start;
}

// Warm-up ends when the medians of the last three windows differ by at most 5 % of the smallest, or after 20 s.
struct Settings {
    double window_s = 0.1;
    std::size_t agreeing_windows = 3;
    double agreement = 0.05;
    double warmup_at_most_s = 20;
    std::size_t iterations_at_least = 50;
    double seconds_at_least = 2;
    double seconds_at_most = 30;  // ends the measurement even before there are enough iterations
};

// Durations of consecutive calls, and the time from the first start to the last end.
struct Series {
    std::vector<Nanoseconds> durations;
    Nanoseconds elapsed = 0;
};

struct Measured {
    Series series;
    std::size_t warmup_iterations = 0;
    bool settled = false;
};

inline Series repeated(const std::function<void()>& run, std::size_t iterations_at_least, double seconds_at_least,
                       double seconds_at_most) {
    Series series;
    const Nanoseconds start = now();
    while (true) {
        series.durations.push_back(timed(run));
        series.elapsed = now() - start;
        const double seconds = static_cast<double>(series.elapsed) / 1e9;
        const bool enough = series.durations.size() >= iterations_at_least && seconds >= seconds_at_least;
        if (enough || seconds >= seconds_at_most) {
            return series;
        }
    }
}

// Median of unsorted values; the mean of the middle two for an even number.
inline double median(std::vector<Nanoseconds> durations) {
    std::sort(durations.begin(), durations.end());
    const std::size_t middle = durations.size() / 2;
    const auto upper = static_cast<double>(durations[middle]);
    return durations.size() % 2 == 1 ? upper : (static_cast<double>(durations[middle - 1]) + upper) / 2;
}

inline Measured measured(const std::function<void()>& run, const Settings& settings) {
    Measured result;
    std::vector<double> medians;
    const Nanoseconds start = now();
    while (!result.settled && static_cast<double>(now() - start) / 1e9 < settings.warmup_at_most_s) {
        const Series window = repeated(run, 1, settings.window_s, settings.seconds_at_most);
        result.warmup_iterations += window.durations.size();
        medians.push_back(median(window.durations));
        if (medians.size() >= settings.agreeing_windows) {
            const auto last = medians.end() - static_cast<std::ptrdiff_t>(settings.agreeing_windows);
            const auto [least, most] = std::minmax_element(last, medians.end());
            result.settled = *most - *least <= settings.agreement * *least;
        }
    }
    result.series = repeated(run, settings.iterations_at_least, settings.seconds_at_least, settings.seconds_at_most);
    return result;
}

// The smallest duration that at most 100 − `percent` % of them exceed, without interpolation, as trtexec defines it:
// ascending[max(N − 1 − ⌊(100 − percent)·N / 100⌋, 0)].
inline Nanoseconds percentile(const std::vector<Nanoseconds>& ascending, std::size_t percent) {
    const std::size_t above = (100 - percent) * ascending.size() / 100;
    return ascending[ascending.size() - 1 - std::min(above, ascending.size() - 1)];
}

inline double mean(const std::vector<Nanoseconds>& durations) {
    double sum = 0;
    for (const Nanoseconds duration : durations) {
        sum += static_cast<double>(duration);
    }
    return sum / static_cast<double>(durations.size());
}

// Standard deviation of the durations.
inline double deviation(const std::vector<Nanoseconds>& durations) {
    const double centre = mean(durations);
    double sum = 0;
    for (const Nanoseconds duration : durations) {
        sum += (static_cast<double>(duration) - centre) * (static_cast<double>(duration) - centre);
    }
    return std::sqrt(sum / static_cast<double>(durations.size()));
}

}  // namespace deploykit::bench
