// overhead BUNDLE SIDE…: the library (cpp) and the bare loop (bare) in one process, loaded in the order given.
//
// The first line of output is ONNX Runtime's version, printed after one call of each side if their results are the
// same. Then each line of input is answered: `cpp` and `bare` run one call and print its nanoseconds, `own` runs one of
// `cpp` and prints those spent outside of OrtApi::Run, `memory` prints the peak in bytes.

#include <deploykit/deploykit.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "bare.hpp"
#include "measure.hpp"
#include "memory.hpp"
#include "run_timer.hpp"
#include "workload.hpp"

namespace {

using deploykit::TensorView;
using deploykit::bench::timed;

bool same(const TensorView& output, const std::vector<float>& other) {
    return output.elements() == other.size() && std::memcmp(output.data(), other.data(), output.bytes()) == 0;
}

int serve(const std::vector<std::string>& words) {
    const deploykit::Bundle bundle(words.at(0));
    std::unique_ptr<deploykit::Engine> engine;
    std::unique_ptr<deploykit::Context> context;
    std::unique_ptr<Bare> bare;
    const deploykit::bench::Workload workload(bundle, bundle.manifest().inputs, 1);
    for (std::size_t index = 1; index < words.size(); ++index) {
        if (words[index] == "cpp") {
            engine = std::make_unique<deploykit::Engine>(bundle);
            context = std::make_unique<deploykit::Context>(engine->context());
            context->run(workload.inputs());
        } else {
            bare = std::make_unique<Bare>(bundle, workload.inputs(), 0);
            bare->run();
        }
    }
    if (context && bare && !same(context->run(workload.inputs()).front(), bare->outputs().front())) {
        std::cerr << "the library and the bare loop give different results\n";
        return 1;
    }
    std::cout << OrtGetApiBase()->GetVersionString() << '\n' << std::flush;
    for (std::string request; std::getline(std::cin, request);) {
        if (request == "memory") {
            std::cout << deploykit::bench::peak_memory_bytes() << '\n';
        } else if (request == "cpp") {
            std::cout << timed([&] { context->run(workload.inputs()); }) << '\n';
        } else if (request == "own") {
            const auto whole = timed([&] { context->run(workload.inputs()); });
            std::cout << whole - run_timer::inside_ns << '\n';
        } else {
            std::cout << timed([&] { bare->run(); }) << '\n';
        }
        std::cout.flush();
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        return serve({words + 1, words + count});
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 4;
    }
}
