// .npy files: those that NumPy writes for golden vectors are read, everything else is refused.
#include "npy.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "bundle_folder.hpp"
#include "refusal.hpp"

using deploykit::Array;
using deploykit::DataType;
using deploykit::ErrorCode;
using deploykit::parse_npy;
using deploykit::Shape;
using namespace std::string_literals;

namespace {

// A file of version 1.0, whose header is `header` and a line feed.
std::string npy(const std::string& header, const std::string& data = "") {
    const std::size_t size = header.size() + 1;
    return "\x93NUMPY\x01\x00"s + static_cast<char>(size % 256) + static_cast<char>(size / 256) + header + "\n" + data;
}

std::string header(const std::string& descr, const std::string& shape) {
    return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
}

template <class T>
std::string bytes(const std::vector<T>& elements) {
    return {reinterpret_cast<const char*>(elements.data()), elements.size() * sizeof(T)};
}

std::vector<float> values(const Array& array) {
    std::vector<float> found;
    for (std::size_t index = 0; index < array.view().elements(); ++index) {
        found.push_back(array.view().value(index));
    }
    return found;
}

void check_refused(const std::string& content, const char* why) {
    CAPTURE(content);
    const auto error = refusal([&] { parse_npy(content, "golden/in.npy"); });
    CHECK(error.code() == ErrorCode::check_failed);
    CHECK(error.where() == "golden/in.npy");
    CHECK(error.what() == doctest::Contains(why));
}

const std::string two_floats = bytes<float>({1.5F, -2.0F});

}  // namespace

TEST_CASE("what NumPy wrote is read: versions 1.0, 2.0 and 3.0, of several types") {
    const Array floats = parse_npy(seed("npy/float32_v1.npy"), "");
    CHECK(floats.type == DataType::float32);
    CHECK(floats.shape == Shape{2, 3});
    CHECK(values(floats) == std::vector<float>{0, 0.5F, 1, 1.5F, 2, 2.5F});
    const Array halves = parse_npy(seed("npy/float16_v3.npy"), "");
    CHECK(halves.type == DataType::float16);
    CHECK(values(halves) == std::vector<float>{0.5F, -1, 65504});
    const Array image = parse_npy(seed("npy/uint8_v2.npy"), "");
    CHECK(image.type == DataType::uint8);
    CHECK(image.shape == Shape{1, 2, 2, 3});
    CHECK(values(image).back() == 255);
    const Array scalar = parse_npy(seed("npy/int64_scalar.npy"), "");
    CHECK(scalar.shape == Shape());
    CHECK(values(scalar) == std::vector<float>{-7});
}

TEST_CASE("every type that tensors have is read") {
    const auto type_of = [](const char* descr, std::size_t width) {
        return parse_npy(npy(header(descr, "(2,)"), std::string(2 * width, '\0')), "").type;
    };
    CHECK(type_of("<f4", 4) == DataType::float32);
    CHECK(type_of("<f2", 2) == DataType::float16);
    CHECK(type_of("|u1", 1) == DataType::uint8);
    CHECK(type_of("|i1", 1) == DataType::int8);
    CHECK(type_of("<i4", 4) == DataType::int32);
    CHECK(type_of("<i8", 8) == DataType::int64);
}

TEST_CASE("an array without elements is read, also where the product of its other sizes is beyond counting") {
    CHECK(parse_npy(npy(header("<f4", "(0,)")), "").bytes.empty());
    CHECK(parse_npy(npy(header("<f4", "(0, 2147483647, 2147483647, 2147483647)")), "").bytes.empty());
}

TEST_CASE("eight axes are read, nine are refused") {
    CHECK(parse_npy(npy(header("|u1", "(1, 1, 1, 1, 1, 1, 1, 1)"), "x"), "").shape.rank() == 8);
    check_refused(npy(header("|u1", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), "x"), "more than eight axes");
}

TEST_CASE("a file cut off anywhere is refused") {
    const std::string whole = seed("npy/float32_v1.npy");
    for (std::size_t size = 0; size < whole.size(); ++size) {
        const auto error = refusal([&] { parse_npy(std::string_view(whole).substr(0, size), "golden/in.npy"); });
        REQUIRE(error.code() == ErrorCode::check_failed);
    }
}

TEST_CASE("what is no .npy file is refused") {
    check_refused("", "not an .npy file");
    check_refused("\x93NUMPX\x01\x00\x10\x00"s, "not an .npy file");
    check_refused("PK\x03\x04 a zip archive, as .npz files are"s, "not an .npy file");
}

TEST_CASE("a version of the format that is not known is refused by its number") {
    check_refused("\x93NUMPY\x04\x00"s + std::string(100, ' '), "version is 4");
    check_refused("\x93NUMPY\x00\x00"s + std::string(100, ' '), "version is 0");
    check_refused("\x93NUMPY\xFF\x00"s + std::string(100, ' '), "version is 255");
}

TEST_CASE("a header that is longer than the file is refused, even by 4 GiB") {
    check_refused("\x93NUMPY\x01\x00\xFF\xFF"s + header("<f4", "(2,)"), "ends within its header");
    check_refused("\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF"s + header("<f4", "(2,)"), "ends within its header");
}

TEST_CASE("data shorter or longer than the shape says is refused") {
    check_refused(npy(header("<f4", "(2,)"), two_floats.substr(1)), "shorter than its shape");
    check_refused(npy(header("<f4", "(2,)"), two_floats + "x"), "longer than its shape");
    check_refused(npy(header("<f4", "(0,)"), two_floats), "longer than its shape");
}

TEST_CASE("sizes whose product is beyond 64 bits are refused, not wrapped") {
    check_refused(npy(header("<f4", "(1073741824, 1073741824, 16)")), "shorter than its shape");
    check_refused(npy(header("<i8", "(2147483648, 1073741824)")), "shorter than its shape");
    check_refused(npy(header("|u1", "(2147483648, 2147483648, 4)")), "shorter than its shape");
}

TEST_CASE("a size that is negative, no number, or beyond counting is refused") {
    for (const char* shape : {"(-1,)", "(2.0,)", "(two,)", "(18446744073709551618,)", "(0x2,)", "(True,)", "((2,),)",
                              "(99999999999999999999999999999999,)", "('2',)", "(None,)"}) {
        check_refused(npy(header("<f4", shape), two_floats), "header");
    }
}

TEST_CASE("types that no tensor has are refused by name") {
    check_refused(npy(header(">f4", "(2,)"), two_floats), "'>f4'");
    check_refused(npy(header("<f8", "(1,)"), two_floats), "'<f8'");
    check_refused(npy(header("<c8", "(1,)"), two_floats), "'<c8'");
    check_refused(npy(header("|b1", "(8,)"), two_floats), "'|b1'");
    check_refused(npy(header("|S4", "(2,)"), two_floats), "'|S4'");
    check_refused(npy(header("|V4", "(2,)"), two_floats), "'|V4'");
}

TEST_CASE("pickled objects are refused: nothing is ever unpickled") {
    check_refused(npy(header("|O", "(1,)"), "cposix\nsystem\n"), "'|O'");
}

TEST_CASE("records are refused") {
    check_refused(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", two_floats), "header");
}

TEST_CASE("column-major order is refused by name") {
    check_refused(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", two_floats), "column-major");
}

TEST_CASE("a header that is not NumPy's is refused") {
    for (const char* text :
         {"", "{", "}", "{}", "[]", "'descr'", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
          "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (2}", "{'descr': '<f4, 'fortran_order': False}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} and more",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (2,,)}",
          "{'descr' '<f4', 'fortran_order': False, 'shape': (2,)}", "__import__('os').system('true')"}) {
        check_refused(npy(text, two_floats), "header");
    }
}

TEST_CASE("a header that says one thing twice is refused") {
    check_refused(npy("{'descr': '<f4', 'descr': '<f4', 'shape': (2,), }", two_floats), "header");
    check_refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'shape': (2,), }", two_floats),
                  "header");
}

TEST_CASE("a header of a hundred thousand parentheses is refused") {
    std::string content = "\x93NUMPY\x02\x00"s + bytes<std::uint32_t>({200'000});
    content += "{'shape': " + std::string(200'000 - 10, '(');
    const auto error = refusal([&] { parse_npy(content, "golden/in.npy"); });
    CHECK(error.code() == ErrorCode::check_failed);
}

TEST_CASE("a message that quotes the file stays one readable line") {
    const auto error =
        refusal([&] { parse_npy(npy(header("\xFF\x00\n\x1B"s + std::string(9000, 'x'), "(2,)")), "a.npy"); });
    const std::string said = error.what();
    CHECK(said == error.where() + ": " + error.problem() + " " + error.remedy());
    CHECK(said.size() < 500);
    CHECK(said.find_first_of("\n\x1B\xFF") == std::string::npos);
}
