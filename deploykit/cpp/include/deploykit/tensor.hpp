// Inputs and outputs of engines: dense, row-major tensors in host memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace deploykit {

enum class DataType { float32, float16, uint8, int8, int32, int64 };

// Name of the data type as in the manifest and in NumPy: "float32".
const char* name(DataType type) noexcept;
std::size_t bytes_per_element(DataType type) noexcept;

// IEEE 754 binary16, as bits: C++17 has no such type.
struct Half {
    std::uint16_t bits;
};

float to_float(Half half) noexcept;
Half to_half(float value) noexcept;  // rounds to nearest, ties to even; infinity from 65520 on

// Sizes of up to eight axes, stored inline: a shape never allocates.
class Shape {
public:
    static constexpr std::size_t max_rank = 8;

    Shape() = default;
    Shape(std::initializer_list<std::int64_t> sizes);        // Error(usage): more than eight axes
    explicit Shape(const std::vector<std::int64_t>& sizes);  // the same
    Shape(const std::int64_t* sizes, std::size_t rank);      // the same

    std::size_t rank() const noexcept { return rank_; }
    std::int64_t operator[](std::size_t axis) const noexcept { return sizes_[axis]; }
    std::int64_t& operator[](std::size_t axis) noexcept { return sizes_[axis]; }
    const std::int64_t* begin() const noexcept { return sizes_.data(); }
    const std::int64_t* end() const noexcept { return sizes_.data() + rank_; }

    std::int64_t elements() const noexcept;  // product of all sizes, 1 for a scalar; saturates at the largest int64
    std::string text() const;                // "1×3×224×224"

    friend bool operator==(const Shape& a, const Shape& b) noexcept;
    friend bool operator!=(const Shape& a, const Shape& b) noexcept { return !(a == b); }

private:
    std::array<std::int64_t, max_rank> sizes_{};
    std::size_t rank_ = 0;
};

template <class T>
struct DataTypeOf;
template <>
struct DataTypeOf<float> {
    static constexpr DataType value = DataType::float32;
};
template <>
struct DataTypeOf<Half> {
    static constexpr DataType value = DataType::float16;
};
template <>
struct DataTypeOf<std::uint8_t> {
    static constexpr DataType value = DataType::uint8;
};
template <>
struct DataTypeOf<std::int8_t> {
    static constexpr DataType value = DataType::int8;
};
template <>
struct DataTypeOf<std::int32_t> {
    static constexpr DataType value = DataType::int32;
};
template <>
struct DataTypeOf<std::int64_t> {
    static constexpr DataType value = DataType::int64;
};

// A non-owning view of elements with their data type and shape, valid as long as the elements are.
class TensorView {
public:
    TensorView() = default;
    TensorView(const void* data, DataType type, Shape shape) noexcept : data_(data), type_(type), shape_(shape) {}

    template <class T>
    TensorView(const T* data, Shape shape) noexcept : TensorView(data, DataTypeOf<T>::value, shape) {}

    const void* data() const noexcept { return data_; }
    DataType type() const noexcept { return type_; }
    const Shape& shape() const noexcept { return shape_; }
    std::size_t elements() const noexcept { return static_cast<std::size_t>(shape_.elements()); }
    std::size_t bytes() const noexcept { return elements() * bytes_per_element(type_); }

    // The elements as T. Error(usage) if they have another data type.
    template <class T>
    const T* as() const {
        require(DataTypeOf<T>::value);
        return static_cast<const T*>(data_);
    }

    // Element `index` in row-major order, converted to float.
    float value(std::size_t index) const noexcept;

private:
    void require(DataType type) const;

    const void* data_ = nullptr;
    DataType type_ = DataType::float32;
    Shape shape_;
};

// An input or output of an engine.
struct TensorSpec {
    std::string name;
    DataType type = DataType::float32;
    std::vector<std::int64_t> shape;  // -1 for a batch that is chosen at run time
    std::string layout;               // NCHW, NHWC, NC (one vector per sample), or ND (any other batch)
};

}  // namespace deploykit
