// Select the TensorRT engine of a bundle that this machine can load, from records only: no plan is read, and no header
// of TensorRT is needed. The rules are those of deploykit/backends/tensorrt/gate.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"

namespace deploykit::backends::tensorrt {

// The properties of a machine that an engine must match.
struct Machine {
    std::string platform;        // "Linux x86_64"
    std::string version;         // of the loaded TensorRT library, "10.3.0.26", or "10.3.0" if it reports no more
    std::string gpu;             // "NVIDIA H200"
    int compute_capability = 0;  // 90 for 9.0
};

// Operating system and architecture of this machine, as in Python: "Linux aarch64".
std::string read_platform();

// `encoded` is the result of TensorRT's getInferLibVersion: 8601 is 8.6.1, 101401 is 10.14.1. A `build` of 0 is
// unknown.
std::string format_version(std::int32_t encoded, std::int32_t build);

// Engines of TensorRT, without those of TensorRT-RTX. Error(backend) if there are none; `where` is the path for the
// error message.
std::vector<const EngineRecord*> find_engines(const Manifest& manifest, const std::string& where);

// Reason why the engine does not run on that machine, without a final period, naming both sides; none: it runs.
std::optional<std::string> find_mismatch(const EngineRecord& engine, const Machine& machine);

// The first engine that runs there. Error(backend) with every reason if none does; `where` as above.
const EngineRecord& select_engine(const std::vector<const EngineRecord*>& engines, const Machine& machine,
                                  const std::string& where);

}  // namespace deploykit::backends::tensorrt
