// NumPy's .npy files, as the golden vectors are.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "deploykit/tensor.hpp"

namespace deploykit {

struct Array {
    DataType type = DataType::float32;
    Shape shape;
    std::vector<std::byte> bytes;  // little-endian, row-major

    TensorView view() const noexcept { return {bytes.data(), type, shape}; }
};

// Versions 1.0 to 3.0 of the format, little-endian, row-major, of the types in DataType and of up to eight axes.
// Error(check_failed) for everything else; `where` is the path that the error names.
Array parse_npy(std::string_view content, const std::string& where);

}  // namespace deploykit
