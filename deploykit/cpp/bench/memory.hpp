// Peak memory of this process.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace deploykit::bench {

// Peak resident set size in bytes. getrusage is not used, since Linux inherits a larger value from the parent process.
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
