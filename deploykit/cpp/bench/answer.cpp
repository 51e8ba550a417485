// deploykit-answer: compute outputs for inputs from files, so that they can be compared with other runtimes.

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../src/files.hpp"
#include "../src/npy.hpp"
#include "deploykit/deploykit.hpp"

namespace {

using deploykit::Error;
using deploykit::ErrorCode;

constexpr const char* usage =
    "usage: deploykit-answer BUNDLE BATCH IN.npy... OUT.npy...\n"
    "\n"
    "Runs all rows of the inputs, BATCH rows per call and the rest in the last one, writes the outputs, and prints a\n"
    "line of JSON that names the engine. Give one file per input and then one per output, in the order of the\n"
    "bundle's manifest.\n";

constexpr const char* program = "deploykit-answer";

constexpr std::uint64_t largest = std::uint64_t{1} << 32U;

std::int64_t batch_size(std::string_view word) {
    std::int64_t size = 0;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), size);
    if (problem != std::errc{} || end != word.data() + word.size() || size < 1) {
        throw Error(ErrorCode::usage, "'" + std::string(word) + "' is not a batch size.", program,
                    "Run deploykit-answer --help.");
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

// Version 1.0 of NumPy's format: magic bytes, the length of a dictionary, and the dictionary, padded to 64 bytes.
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

deploykit::Array rows_in(const std::string& path) {
    constexpr const char* remedy = "Write it with numpy.save, with the data type of the bundle's input.";
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

// The rows of one call.
deploykit::TensorView piece(const deploykit::Array& whole, std::int64_t begin, std::int64_t count) {
    const std::size_t bytes_per_row = whole.bytes.size() / static_cast<std::size_t>(whole.shape[0]);
    deploykit::Shape shape = whole.shape;
    shape[0] = count;
    return {whole.bytes.data() + static_cast<std::size_t>(begin) * bytes_per_row, whole.type, shape};
}

// Index of each engine tensor among the manifest's tensors, whose order the files have.
std::vector<std::size_t> places(const std::vector<deploykit::TensorSpec>& of_engine,
                                const std::vector<deploykit::TensorSpec>& of_manifest, const std::string& folder) {
    std::vector<std::size_t> found;
    for (const deploykit::TensorSpec& spec : of_engine) {
        const auto same = std::find_if(of_manifest.begin(), of_manifest.end(),
                                       [&spec](const deploykit::TensorSpec& one) { return one.name == spec.name; });
        if (same == of_manifest.end()) {
            throw Error(ErrorCode::bad_input, "its manifest has no tensor '" + spec.name + "', which its engine has.",
                        folder, "Export the bundle again.");
        }
        found.push_back(static_cast<std::size_t>(same - of_manifest.begin()));
    }
    return found;
}

// One array per input, in the engine's order, with equal numbers of rows.
std::vector<deploykit::Array> inputs(const std::vector<std::string>& files, const std::vector<std::size_t>& order) {
    std::vector<deploykit::Array> arrays;
    for (const std::size_t place : order) {
        arrays.push_back(rows_in(files[place]));
        if (arrays.back().shape[0] != arrays.front().shape[0]) {
            throw Error(ErrorCode::bad_input,
                        "it has " + std::to_string(arrays.back().shape[0]) + " rows, and " + files[order.front()] +
                            " has " + std::to_string(arrays.front().shape[0]) + ".",
                        files[place], "Give each input the same number of rows.");
        }
    }
    return arrays;
}

// Output files, appended to after each call.
class Answers {
public:
    // `rows` is the final number of rows.
    Answers(std::vector<std::string> paths, std::int64_t rows)
        : paths_(std::move(paths)), files_(paths_.size()), rows_(rows) {}

    void add(const std::vector<deploykit::TensorView>& answers) {
        for (std::size_t index = 0; index < files_.size(); ++index) {
            const deploykit::TensorView& answer = answers[index];
            if (!files_[index].is_open()) {
                deploykit::Shape whole = answer.shape();
                whole[0] = rows_;
                files_[index].open(paths_[index], std::ios::binary);
                files_[index] << header(answer.type(), whole);
            }
            files_[index].write(static_cast<const char*>(answer.data()), static_cast<std::streamsize>(answer.bytes()));
            if (!files_[index].flush()) {
                throw Error(ErrorCode::bad_input, "it cannot be written.", paths_[index], "Use another file.");
            }
        }
    }

private:
    std::vector<std::string> paths_;
    std::vector<std::ofstream> files_;
    std::int64_t rows_;
};

std::string counted(std::size_t count, const std::string& thing) {
    return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

void answer(const std::string& folder, std::int64_t batch, const std::vector<std::string>& files) {
    const deploykit::Bundle bundle(folder);
    const deploykit::Manifest& manifest = bundle.manifest();
    const std::size_t in = manifest.inputs.size();
    const std::size_t out = manifest.outputs.size();
    if (files.size() != in + out) {
        throw Error(ErrorCode::usage,
                    "it has " + counted(in, "input") + " and " + counted(out, "output") + ", and " +
                        counted(files.size(), "file") + " were given.",
                    folder, "Give one file per input, and then one per output.");
    }
    const deploykit::Engine engine(bundle);
    deploykit::Context context = engine.context();
    const std::vector<deploykit::Array> given = inputs(files, places(engine.inputs(), manifest.inputs, folder));
    std::vector<std::string> paths;
    for (const std::size_t place : places(engine.outputs(), manifest.outputs, folder)) {
        paths.push_back(files[in + place]);
    }
    const std::int64_t rows = given.front().shape[0];
    Answers answers(paths, rows);
    for (std::int64_t begin = 0; begin < rows; begin += batch) {
        std::vector<deploykit::TensorView> views;
        for (const deploykit::Array& array : given) {
            views.push_back(piece(array, begin, std::min(batch, rows - begin)));
        }
        answers.add(context.run(views));
    }
    const nlohmann::ordered_json said = {
        {"runtime", engine.runtime()}, {"file", engine.file()}, {"skipped_engines", engine.skipped_engines()}};
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
        if (given.size() < 4) {
            throw Error(ErrorCode::usage, "it needs four arguments or more.", program, "Run deploykit-answer --help.");
        }
        answer(given[0], batch_size(given[1]), {given.begin() + 2, given.end()});
        return 0;
    } catch (const Error& error) {
        std::cerr << error.what() << '\n';
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::cerr << program << ": " << error.what() << '\n';
        return static_cast<int>(ErrorCode::internal);
    }
}
