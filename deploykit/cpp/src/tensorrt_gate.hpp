// Which TensorRT engine of a bundle this machine may load, told from records alone: no plan is read for it, and no
// header of TensorRT is needed. The rules are those of deploykit/backends/tensorrt/gate.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"

namespace deploykit::backends::tensorrt {

// What an engine is held against.
struct Machine {
    std::string platform;        // "Linux x86_64"
    std::string version;         // of the TensorRT library that is loaded, "10.3.0.26"; "10.3.0" where it tells no more
    std::string gpu;             // "NVIDIA H200"
    int compute_capability = 0;  // 90 for 9.0
};

// This machine's, in Python's words: "Linux aarch64".
std::string platform();

// `encoded` is what TensorRT's getInferLibVersion tells: 8601 is 8.6.1, 101401 is 10.14.1. A `build` of 0 is unknown.
std::string version(std::int32_t encoded, std::int32_t build);

// Those that TensorRT built, not TensorRT-RTX. Error(backend) where the bundle has none; `where` is the path it names.
std::vector<const EngineRecord*> engines(const Manifest& manifest, const std::string& where);

// Why the engine does not run on that machine, as half a sentence that names both sides; none: it does.
std::optional<std::string> refusal(const EngineRecord& engine, const Machine& machine);

// The first that runs there. Error(backend) with every refusal where none does; `where` as above.
const EngineRecord& fitting(const std::vector<const EngineRecord*>& engines, const Machine& machine,
                            const std::string& where);

}  // namespace deploykit::backends::tensorrt
