// NVIDIA's own TensorRT and CUDA libraries, which the library under test is linked with. Without a driver they must not
// even be asked; with one, a bundle named by DEPLOYKIT_TENSORRT_BUNDLE is run and judged by its golden vectors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "bundle_folder.hpp"
#include "deploykit/deploykit.hpp"
#include "refusal.hpp"
#include "tensorrt_gate.hpp"

using deploykit::Bundle;
using deploykit::Engine;
using deploykit::ErrorCode;

namespace {

bool built_in() {
    const auto names = deploykit::runtimes();
    return std::find(names.begin(), names.end(), "tensorrt") != names.end();
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

deploykit::EngineOptions only_tensorrt() {
    deploykit::EngineOptions options;
    options.runtime = deploykit::Runtime::tensorrt;
    return options;
}

// What loading a plan of nonsense, built for this platform, ends in.
deploykit::Error refused() {
    const TemporaryFolder folder;
    auto manifest = rich_manifest();
    manifest["extra_engines"][0]["engine"]["build"]["platform"] = deploykit::backends::tensorrt::read_platform();
    write_bundle(folder.path(), manifest);
    const Bundle bundle(folder.path());
    return refusal([&] { Engine(bundle, only_tensorrt()); });
}

// "CUDA" is where the driver is asked: a machine without one gets no further.
bool has_gpu() { return refused().where() != "CUDA"; }

}  // namespace

TEST_CASE("a library without TensorRT says so") {
    if (built_in()) {
        MESSAGE("left out: this library has TensorRT");
        return;
    }
    CHECK(contains(refused().problem(), "built without that runtime"));
}

TEST_CASE("a bundle without a TensorRT engine is refused with what would make one") {
    if (!built_in()) {
        MESSAGE("left out: this library has no TensorRT");
        return;
    }
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const Bundle bundle(folder.path());
    const auto error = refusal([&] { Engine(bundle, only_tensorrt()); });
    CHECK(error.code() == ErrorCode::backend);
    CHECK(error.problem() == "it has no TensorRT engine.");
    CHECK(contains(error.remedy(), "deploykit compile BUNDLE --target tensorrt"));
}

TEST_CASE("without a driver, NVIDIA's libraries end in an error that names it, and not in a signal") {
    if (!built_in() || has_gpu()) {
        MESSAGE("left out: this library has no TensorRT, or this machine has a GPU");
        return;
    }
    const auto error = refused();
    CHECK(error.code() == ErrorCode::backend);
    CHECK(contains(error.problem(), "driver"));
    CHECK(contains(error.remedy(), "NVIDIA GPU"));
}

TEST_CASE("without a driver, a bundle runs with ONNX Runtime, and says why not with TensorRT") {
    const char* const folder = std::getenv("DEPLOYKIT_TENSORRT_BUNDLE");
    if (folder == nullptr || !built_in() || has_gpu() || deploykit::runtimes().size() < 2) {
        MESSAGE("left out: no DEPLOYKIT_TENSORRT_BUNDLE, a GPU, or a library without both runtimes");
        return;
    }
    const Bundle bundle(folder);
    const Engine engine(bundle);
    CHECK(contains(engine.runtime(), "ONNX Runtime"));
    REQUIRE(engine.skipped_engines().size() == 1);
    CHECK(contains(engine.skipped_engines().front(), "tensorrt"));
}

TEST_CASE("on a GPU, the engine answers its golden vectors, with a graph and without") {
    const char* const folder = std::getenv("DEPLOYKIT_TENSORRT_BUNDLE");
    if (folder == nullptr || !built_in() || !has_gpu()) {
        MESSAGE("left out: DEPLOYKIT_TENSORRT_BUNDLE names no bundle, or there is no GPU, or no TensorRT");
        return;
    }
    const Bundle bundle(folder);
    for (const bool graphs : {true, false}) {
        auto options = only_tensorrt();
        options.cuda_graphs = graphs;
        const Engine engine(bundle, options);
        for (int call = 0; call < 3; ++call) {
            deploykit::self_test(bundle, engine);
        }
    }
}
