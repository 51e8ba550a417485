// The most memory that this process had at once.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace deploykit::bench {

// The largest resident set so far, in bytes. getrusage would tell the parent's where that was larger: Linux hands it
// on.
inline std::int64_t peak_memory_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word == "VmHWM:") {
            std::int64_t kibibytes = 0;
            status >> kibibytes;
            return kibibytes * 1024;
        }
    }
    return 0;
}

}  // namespace deploykit::bench
