#include "deploykit/tensor.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "deploykit/error.hpp"

namespace deploykit {

const char* name(DataType type) noexcept {
    switch (type) {
        case DataType::float32:
            return "float32";
        case DataType::float16:
            return "float16";
        case DataType::uint8:
            return "uint8";
        case DataType::int8:
            return "int8";
        case DataType::int32:
            return "int32";
        case DataType::int64:
            return "int64";
    }
    return "unknown";
}

std::size_t bytes_per_element(DataType type) noexcept {
    switch (type) {
        case DataType::uint8:
        case DataType::int8:
            return 1;
        case DataType::float16:
            return 2;
        case DataType::float32:
        case DataType::int32:
            return 4;
        case DataType::int64:
            return 8;
    }
    return 0;
}

// A half is sign (1 bit), exponent (5 bits, bias 15), fraction (10 bits); a float has 1, 8 (bias 127) and 23.
float to_float(Half half) noexcept {
    const bool negative = (half.bits & 0x8000U) != 0;
    const int exponent = (half.bits >> 10U) & 0x1F;
    const int fraction = half.bits & 0x3FF;
    float magnitude = 0;
    if (exponent == 31) {
        magnitude = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(fraction), -24);  // subnormal: no hidden bit
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return negative ? -magnitude : magnitude;
}

Half to_half(float value) noexcept {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t sign = (bits >> 16U) & 0x8000U;
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    const auto half = [sign](std::uint32_t rest) { return Half{static_cast<std::uint16_t>(sign | rest)}; };
    if (magnitude > 0x7F800000U) {
        return half(0x7E00U);  // NaN
    }
    if (magnitude >= 0x477FF000U) {
        return half(0x7C00U);  // 65520 and above round to infinity
    }
    // Fraction bits that are cut off: 13, and more below the smallest normal half, 2^-14.
    const int exponent = static_cast<int>(magnitude >> 23U) - 127;
    const std::uint32_t cut = exponent >= -14 ? 13U : static_cast<std::uint32_t>(-1 - exponent);
    if (cut > 24U) {
        return half(0);  // below half of the smallest subnormal
    }
    const std::uint32_t fraction =
        exponent >= -14
            ? magnitude - (static_cast<std::uint32_t>(127 - 15) << 23U)  // the exponent in a half's bias, in front
            : (magnitude & 0x7FFFFFU) | 0x800000U;                       // the hidden bit, since there will be none
    const std::uint32_t rest = fraction & ((1U << cut) - 1U);
    const std::uint32_t middle = 1U << (cut - 1U);
    const std::uint32_t kept = fraction >> cut;
    const bool up = rest > middle || (rest == middle && (kept & 1U) != 0);
    return half(kept + (up ? 1U : 0U));  // a carry into the exponent is what rounding up to a power of two is
}

Shape::Shape(std::initializer_list<std::int64_t> sizes) : Shape(sizes.begin(), sizes.size()) {}

Shape::Shape(const std::vector<std::int64_t>& sizes) : Shape(sizes.data(), sizes.size()) {}

Shape::Shape(const std::int64_t* sizes, std::size_t rank) : rank_(rank) {
    if (rank_ > max_rank) {
        throw Error(ErrorCode::usage, "it has " + std::to_string(rank_) + " axes.", "a shape",
                    "Tensors here have up to eight.");
    }
    std::copy_n(sizes, rank_, sizes_.begin());
}

std::int64_t Shape::elements() const noexcept {
    if (std::find(begin(), end(), 0) != end()) {
        return 0;
    }
    std::int64_t product = 1;
    for (const std::int64_t size : *this) {
        if (__builtin_mul_overflow(product, size, &product)) {
            return std::numeric_limits<std::int64_t>::max();
        }
    }
    return product;
}

std::string Shape::text() const {
    std::string text;
    for (const std::int64_t size : *this) {
        text += (text.empty() ? "" : "×") + std::to_string(size);
    }
    return rank_ == 0 ? "a scalar" : text;
}

bool operator==(const Shape& a, const Shape& b) noexcept { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

void TensorView::require(DataType type) const {
    if (type != type_) {
        throw Error(ErrorCode::usage, std::string("its elements are ") + name(type_) + ", not " + name(type) + ".",
                    "a tensor", "Read them as what they are, or one by one with value().");
    }
}

float TensorView::value(std::size_t index) const noexcept {
    switch (type_) {
        case DataType::float32:
            return static_cast<const float*>(data_)[index];
        case DataType::float16:
            return to_float(static_cast<const Half*>(data_)[index]);
        case DataType::uint8:
            return static_cast<float>(static_cast<const std::uint8_t*>(data_)[index]);
        case DataType::int8:
            return static_cast<float>(static_cast<const std::int8_t*>(data_)[index]);
        case DataType::int32:
            return static_cast<float>(static_cast<const std::int32_t*>(data_)[index]);
        case DataType::int64:
            return static_cast<float>(static_cast<const std::int64_t*>(data_)[index]);
    }
    return 0;
}

}  // namespace deploykit
