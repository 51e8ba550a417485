// Any bytes are an array as long as its shape says, or Error(check_failed).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "deploykit/error.hpp"
#include "npy.hpp"

namespace {

// A violated invariant aborts the program, which the fuzzer reports.
void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

void require_sound(const deploykit::Array& array, std::size_t read) {
    const deploykit::TensorView view = array.view();
    require(view.bytes() == array.bytes.size() && view.bytes() < read);
    for (const std::int64_t size : view.shape()) {
        require(size >= 0);
    }
    for (std::size_t index = 0; index < view.elements(); ++index) {
        static_cast<void>(view.value(index));  // within the array, or the sanitizer says so
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::unique_ptr<char[]> exact(new char[size]);  // a byte read behind its end is seen
    std::copy(data, data + size, exact.get());
    try {
        require_sound(deploykit::parse_npy(std::string_view(exact.get(), size), "fuzzed"), size);
    } catch (const deploykit::Error& error) {
        require(error.code() == deploykit::ErrorCode::check_failed);
        require(std::string_view(error.what()).size() < 500);
    }
    return 0;
}
