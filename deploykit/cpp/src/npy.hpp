// Parse NumPy's .npy files, the format of the golden vectors.
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

// Supports format versions 1.0 to 3.0, little-endian, row-major, the types in DataType, and up to eight axes.
// Error(check_failed) for everything else; `where` is the path for the error message.
Array parse_npy(std::string_view content, const std::string& where);

}  // namespace deploykit
