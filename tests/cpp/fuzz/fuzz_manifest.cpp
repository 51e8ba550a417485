// Any bytes are a manifest, or Error(bad_input). A manifest names no path that leaves its bundle, and none twice.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "deploykit/error.hpp"
#include "files.hpp"
#include "manifest.hpp"

namespace {

// A violated invariant aborts the program, which the fuzzer reports.
void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

void require_listed(const deploykit::Manifest& manifest, const std::string& path) {
    require(deploykit::stays_inside(path));
    require(manifest.files.count(path) == 1);
}

void require_sound(const deploykit::TensorSpec& spec) {
    require(!spec.shape.empty() && spec.shape.size() <= deploykit::Shape::max_rank);
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        require(spec.shape[axis] > 0 || (axis == 0 && spec.shape[axis] == -1));
    }
}

void require_sound(const deploykit::Manifest& manifest) {
    for (const auto& [path, file] : manifest.files) {
        require(path == file.path && deploykit::stays_inside(path) && file.sha256.size() == 64);
    }
    require_listed(manifest, manifest.graph);
    if (manifest.labels) {
        require_listed(manifest, *manifest.labels);
    }
    for (const auto* paths : {&manifest.golden.inputs, &manifest.golden.outputs}) {
        for (const auto& [tensor, path] : *paths) {
            require_listed(manifest, path);
        }
    }
    require(!manifest.engines.empty());
    for (const auto& engine : manifest.engines) {
        require_listed(manifest, engine.file.path);
        for (const auto& spec : engine.inputs) {
            require_sound(spec);
        }
    }
    require(manifest.takes_images == (manifest.preprocessing.resize > 0));
    const auto& batch = manifest.batch;
    require(1 <= batch.minimum && batch.minimum <= batch.optimum && batch.optimum <= batch.maximum);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::unique_ptr<char[]> exact(new char[size]);  // a byte read behind its end is seen
    std::copy(data, data + size, exact.get());
    try {
        require_sound(deploykit::parse_manifest(std::string_view(exact.get(), size), "fuzzed"));
    } catch (const deploykit::Error& error) {
        require(error.code() == deploykit::ErrorCode::bad_input);
        require(std::string_view(error.what()).size() < 2000);
    }
    return 0;
}
