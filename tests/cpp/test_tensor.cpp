// Types, shapes, views, and halves: all 65536 of them.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "deploykit/tensor.hpp"
#include "refusal.hpp"

using deploykit::DataType;
using deploykit::ErrorCode;
using deploykit::Half;
using deploykit::Shape;
using deploykit::TensorView;

namespace {

constexpr std::array<DataType, 6> types{DataType::float32, DataType::float16, DataType::uint8,
                                        DataType::int8,    DataType::int32,   DataType::int64};

// IEEE 754-2008, 3.4, word by word, in double precision: exact for every half that is a number.
double value_of(unsigned bits) {
    const double sign = (bits & 0x8000U) != 0 ? -1 : 1;
    const int exponent = static_cast<int>((bits >> 10U) & 31U);
    const double fraction = (bits & 1023U) / 1024.0;
    if (exponent == 31) {
        return sign * std::numeric_limits<double>::infinity();
    }
    return sign * (exponent == 0 ? fraction * std::pow(2.0, -14) : (1 + fraction) * std::pow(2.0, exponent - 15));
}

bool is_nan(unsigned bits) { return (bits & 0x7FFFU) > 0x7C00U; }

unsigned half_bits(float value) { return deploykit::to_half(value).bits; }

Half half(unsigned bits) { return {static_cast<std::uint16_t>(bits)}; }

// The nearest half by trying both neighbours: `magnitude` is not negative and not NaN.
unsigned nearest(double magnitude) {
    unsigned below = 0;
    for (unsigned step = 0x4000U; step > 0; step /= 2) {
        if (below + step <= 0x7BFFU && value_of(below + step) <= magnitude) {
            below += step;
        }
    }
    const double next = below == 0x7BFFU ? 65536.0 : value_of(below + 1);  // infinity is rounded to as 2^16 would be
    const double down = magnitude - value_of(below);
    const double up = next - magnitude;
    return below + ((up < down || (up == down && below % 2 == 1)) ? 1U : 0U);
}

}  // namespace

TEST_CASE("every half has the value that IEEE 754 gives it") {
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const float value = deploykit::to_float(half(bits));
        if (is_nan(bits)) {
            REQUIRE(std::isnan(value));
        } else {
            REQUIRE(static_cast<double>(value) == value_of(bits));
            REQUIRE(std::signbit(value) == (bits >= 0x8000U));
        }
    }
}

TEST_CASE("every half comes back from its float; a NaN stays one, with its sign") {
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const unsigned back = half_bits(deploykit::to_float(half(bits)));
        if (is_nan(bits)) {
            REQUIRE(is_nan(back));
            REQUIRE((back & 0x8000U) == (bits & 0x8000U));
        } else {
            REQUIRE(back == bits);
        }
    }
}

TEST_CASE("between two halves the nearer is taken, and of equally near ones the even") {
    for (unsigned bits = 0; bits < 0x7C00U; ++bits) {
        const double above = bits == 0x7BFFU ? 65536.0 : value_of(bits + 1);
        const auto middle = static_cast<float>((value_of(bits) + above) / 2);
        const unsigned even = bits % 2 == 0 ? bits : bits + 1;
        REQUIRE(half_bits(middle) == even);
        REQUIRE(half_bits(-middle) == (even | 0x8000U));
        REQUIRE(half_bits(std::nextafter(middle, 0.0F)) == bits);
        REQUIRE(half_bits(std::nextafter(middle, 1e6F)) == bits + 1);
    }
}

TEST_CASE("floats of all sizes are rounded to the nearest half") {
    std::mt19937 random(0);
    for (int count = 0; count < 200'000; ++count) {
        std::uint32_t bits = static_cast<std::uint32_t>(random()) & 0x7FFFFFFFU;
        if (count % 2 == 0) {
            bits = 0x33000000U + bits % 0x15000000U;  // 2^-25 to 2^17: where halves are
        }
        float value = 0;
        std::memcpy(&value, &bits, sizeof value);
        if (std::isnan(value)) {
            REQUIRE(is_nan(half_bits(value)));
        } else {
            REQUIRE(half_bits(value) == nearest(std::isinf(value) ? 1e300 : static_cast<double>(value)));
        }
    }
}

TEST_CASE("beyond the largest half is infinity, below the smallest is zero with its sign") {
    CHECK(half_bits(65504.0F) == 0x7BFFU);
    CHECK(half_bits(std::nextafter(65520.0F, 0.0F)) == 0x7BFFU);
    CHECK(half_bits(65520.0F) == 0x7C00U);
    CHECK(half_bits(-std::numeric_limits<float>::max()) == 0xFC00U);
    CHECK(half_bits(std::numeric_limits<float>::infinity()) == 0x7C00U);
    CHECK(half_bits(std::ldexp(1.0F, -24)) == 1U);
    CHECK(half_bits(std::ldexp(1.0F, -25)) == 0U);
    CHECK(half_bits(std::nextafter(std::ldexp(1.0F, -25), 1.0F)) == 1U);
    CHECK(half_bits(-std::numeric_limits<float>::denorm_min()) == 0x8000U);
    CHECK(half_bits(-0.0F) == 0x8000U);
}

TEST_CASE("types are named and sized as NumPy does it") {
    const std::vector<std::string> names{"float32", "float16", "uint8", "int8", "int32", "int64"};
    const std::vector<std::size_t> sizes{4, 2, 1, 1, 4, 8};
    for (std::size_t index = 0; index < types.size(); ++index) {
        CHECK(deploykit::name(types[index]) == names[index]);
        CHECK(deploykit::bytes_per_element(types[index]) == sizes[index]);
    }
}

TEST_CASE("a shape says its rank, sizes, number of elements and text") {
    Shape shape{2, 3, 224, 224};
    CHECK(shape.rank() == 4);
    CHECK(shape[2] == 224);
    CHECK(shape.elements() == 2 * 3 * 224 * 224);
    CHECK(shape.text() == "2×3×224×224");
    CHECK(std::vector<std::int64_t>(shape.begin(), shape.end()) == std::vector<std::int64_t>{2, 3, 224, 224});
    shape[0] = 5;
    CHECK(shape == Shape{5, 3, 224, 224});
}

TEST_CASE("a shape without axes is one element") {
    CHECK(Shape().rank() == 0);
    CHECK(Shape().elements() == 1);
    CHECK_FALSE(Shape().text().empty());
}

TEST_CASE("a shape with an axis of size zero has no elements") { CHECK(Shape{3, 0, 5}.elements() == 0); }

TEST_CASE("shapes are equal where rank and sizes are") {
    CHECK(Shape{1, 2} == Shape(std::vector<std::int64_t>{1, 2}));
    CHECK(Shape{1, 2} != Shape{2, 1});
    CHECK(Shape{1, 2} != Shape{1, 2, 1});
    CHECK(Shape{} == Shape());
}

TEST_CASE("eight axes are a shape, nine are refused") {
    CHECK(Shape{1, 1, 1, 1, 1, 1, 1, 1}.rank() == Shape::max_rank);
    const auto nine = refusal([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; });
    CHECK(nine.code() == ErrorCode::usage);
    CHECK(nine.what() == doctest::Contains("9 axes"));
    const auto many = refusal([] { Shape(std::vector<std::int64_t>(100'000, 1)); });
    CHECK(many.code() == ErrorCode::usage);
}

TEST_CASE("a shape too large to count has as many elements as can be counted") {
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    CHECK(Shape{most, most}.elements() == most);
    CHECK(Shape{std::int64_t{1} << 32, std::int64_t{1} << 31}.elements() == most);
    CHECK(Shape{std::int64_t{1} << 32, 0, std::int64_t{1} << 32}.elements() == 0);
}

TEST_CASE("a view gives its elements as what they are") {
    const std::vector<std::int32_t> numbers{1, -2, 3, -4, 5, -6};
    const TensorView view(numbers.data(), Shape{2, 3});
    CHECK(view.type() == DataType::int32);
    CHECK(view.elements() == 6);
    CHECK(view.bytes() == 24);
    CHECK(view.as<std::int32_t>() == numbers.data());
}

TEST_CASE("a view refuses to give its elements as anything else, naming both types") {
    const std::vector<float> numbers{1};
    const auto error = refusal([&] { TensorView(numbers.data(), Shape{1}).as<std::uint8_t>(); });
    CHECK(error.code() == ErrorCode::usage);
    CHECK(error.what() == doctest::Contains("float32"));
    CHECK(error.what() == doctest::Contains("uint8"));
}

TEST_CASE("a view gives single elements as floats, whatever their type") {
    const std::vector<float> floats{0, -1.5F};
    const std::vector<Half> halves{{0}, {0xBE00U}};
    const std::vector<std::uint8_t> bytes{0, 255};
    const std::vector<std::int8_t> small{0, -128};
    const std::vector<std::int32_t> middle{0, -70'000};
    const std::vector<std::int64_t> large{0, std::int64_t{1} << 40};
    const Shape shape{2};
    CHECK(TensorView(floats.data(), shape).value(1) == -1.5F);
    CHECK(TensorView(halves.data(), shape).value(1) == -1.5F);
    CHECK(TensorView(bytes.data(), shape).value(1) == 255.0F);
    CHECK(TensorView(small.data(), shape).value(1) == -128.0F);
    CHECK(TensorView(middle.data(), shape).value(1) == -70'000.0F);
    CHECK(TensorView(large.data(), shape).value(1) == std::ldexp(1.0F, 40));
}
