// deploykit-answer: what this library answers to inputs in a file, so that it can be compared with what others do.

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "../src/files.hpp"
#include "../src/npy.hpp"
#include "deploykit/deploykit.hpp"

namespace {

using deploykit::Error;
using deploykit::ErrorCode;

constexpr const char* usage =
    "usage: deploykit-answer BUNDLE BATCH IN.npy OUT.npy\n"
    "\n"
    "Runs the rows of IN.npy, BATCH of them per call and the rest in the last one, writes the answers to OUT.npy, and\n"
    "prints a line of JSON that says what computed them. The bundle has one input and one output.\n";

constexpr const char* program = "deploykit-answer";

constexpr std::uint64_t largest = std::uint64_t{1} << 32U;

std::int64_t batch_size(std::string_view word) {
    std::int64_t size = 0;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), size);
    if (problem != std::errc{} || end != word.data() + word.size() || size < 1) {
        throw Error(ErrorCode::usage, "'" + std::string(word) + "' is no batch size.", program,
                    "deploykit-answer --help says what it takes.");
    }
    return size;
}

const char* code(deploykit::DataType type) {
    switch (type) {
        case deploykit::DataType::float32:
            return "<f4";
        case deploykit::DataType::float16:
            return "<f2";
        case deploykit::DataType::uint8:
            return "|u1";
        case deploykit::DataType::int8:
            return "|i1";
        case deploykit::DataType::int32:
            return "<i4";
        case deploykit::DataType::int64:
            return "<i8";
    }
    return "";
}

// Version 1.0 of NumPy's format: a magic word, the length of a dictionary, and the dictionary, filled up to 64 bytes.
std::string header(deploykit::DataType type, const deploykit::Shape& shape) {
    constexpr std::size_t before = 10;
    constexpr std::size_t multiple = 64;
    std::string text = std::string("{'descr': '") + code(type) + "', 'fortran_order': False, 'shape': (";
    for (const std::int64_t size : shape) {
        text += std::to_string(size) + ", ";
    }
    text += "), }";
    text.append(multiple - 1 - (before + text.size()) % multiple, ' ');
    text += '\n';
    std::string whole("\x93NUMPY\x01\x00", 8);
    whole += static_cast<char>(text.size() % 256);
    whole += static_cast<char>(text.size() / 256);
    return whole + text;
}

deploykit::Array inputs(const std::string& path) {
    constexpr const char* remedy = "Write it with numpy.save, in the type that the bundle takes.";
    deploykit::Array array;
    try {
        array = deploykit::parse_npy(deploykit::read_file(path, largest), path);
    } catch (const Error& error) {
        throw Error(ErrorCode::bad_input, error.problem(), path, remedy);
    }
    if (array.shape.rank() == 0 || array.shape[0] < 1) {
        throw Error(ErrorCode::bad_input, "it has no rows.", path, remedy);
    }
    return array;
}

void answer(const std::string& folder, std::int64_t batch, const std::string& from, const std::string& to) {
    const deploykit::Bundle bundle(folder);
    const deploykit::Engine engine(bundle);
    deploykit::Context context = engine.context();
    const deploykit::Array given = inputs(from);
    const std::int64_t rows = given.shape[0];
    const std::size_t bytes_per_row = given.bytes.size() / static_cast<std::size_t>(rows);
    std::ofstream file(to, std::ios::binary);
    for (std::int64_t begin = 0; begin < rows; begin += batch) {
        deploykit::Shape shape = given.shape;
        shape[0] = std::min(batch, rows - begin);
        const std::byte* first = given.bytes.data() + static_cast<std::size_t>(begin) * bytes_per_row;
        const deploykit::TensorView& answers = context.run(deploykit::TensorView(first, given.type, shape));
        if (begin == 0) {
            deploykit::Shape whole = answers.shape();
            whole[0] = rows;
            file << header(answers.type(), whole);
        }
        file.write(static_cast<const char*>(answers.data()), static_cast<std::streamsize>(answers.bytes()));
    }
    if (!file.flush()) {
        throw Error(ErrorCode::bad_input, "it cannot be written.", to, "Name another file.");
    }
    const nlohmann::ordered_json said = {
        {"runtime", engine.runtime()}, {"file", engine.file()}, {"passed_over", engine.passed_over()}};
    std::cout << said.dump() << '\n' << std::flush;
}

}  // namespace

int main(int count, char** words) {
    try {
        const std::vector<std::string> given(words + 1, words + count);
        if (given.size() == 1 && (given[0] == "--help" || given[0] == "-h")) {
            std::cout << usage;
            return 0;
        }
        if (given.size() != 4) {
            throw Error(ErrorCode::usage, "it takes four words.", program,
                        "deploykit-answer --help says which they are.");
        }
        answer(given[0], batch_size(given[1]), given[2], given[3]);
        return 0;
    } catch (const Error& error) {
        std::cerr << error.what() << '\n';
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::cerr << program << ": " << error.what() << '\n';
        return static_cast<int>(ErrorCode::internal);
    }
}
