#include "tensorrt_gate.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <string_view>

#include "deploykit/error.hpp"

namespace deploykit::backends::tensorrt {

namespace {

const char* const remedy = "Build it here: deploykit compile BUNDLE --target tensorrt.";

constexpr int ampere = 80;  // NVIDIA's hardware-compatible engines run from here on

// "10.3.0.26" as 10, 3, 0, 26. What is no digit only separates; a number too long to be one is as large as can be.
std::vector<std::int64_t> numbers(std::string_view text) {
    constexpr std::int64_t largest = 1'000'000'000;
    std::vector<std::int64_t> found;
    bool within = false;
    for (const char c : text) {
        const bool digit = c >= '0' && c <= '9';
        if (digit && !within) {
            found.push_back(0);
        }
        if (digit) {
            found.back() = std::min(largest, 10 * found.back() + (c - '0'));
        }
        within = digit;
    }
    return found;
}

// Not every record and not every library tells the fourth number: where one of them does not, the others decide, and
// TensorRT itself says the rest when it deserializes.
bool same(const std::vector<std::int64_t>& built, const std::vector<std::int64_t>& running) {
    const auto known = static_cast<std::ptrdiff_t>(std::min(built.size(), running.size()));
    return known >= 3 && std::equal(built.begin(), built.begin() + known, running.begin());
}

// By the support matrix of 11.4: a version-compatible plan runs forward within its major, and from 8 on 10, from 10 on
// 11. All others run on the very version that built them.
bool takes(const std::string& built_text, const std::string& running_text, bool version_compatible) {
    const auto built = numbers(built_text);
    const auto running = numbers(running_text);
    if (same(built, running)) {
        return true;
    }
    if (!version_compatible || built.empty() || running.empty()) {
        return false;
    }
    const auto from = built.front();
    const auto to = running.front();
    return (from == to && running >= built) || (from == 8 && to == 10) || (from == 10 && to == 11);
}

bool runs_on(const BuildRecord& build, int capability) {
    const auto& named = build.compute_capabilities;
    if (std::find(named.begin(), named.end(), capability) != named.end()) {
        return true;
    }
    if (build.open_ended && !named.empty() && capability > *std::max_element(named.begin(), named.end())) {
        return true;
    }
    return build.hardware_compatible && capability >= ampere;
}

std::string dotted(int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); }

// "compute capability 8.0, 8.6 or above"
std::string capabilities(const BuildRecord& build) {
    auto sorted = build.compute_capabilities;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::string> ends;
    std::transform(sorted.begin(), sorted.end(), std::back_inserter(ends), dotted);
    if (build.open_ended) {
        ends.emplace_back("above");
    } else if (build.hardware_compatible) {
        ends.emplace_back(dotted(ampere) + " and above");
    } else if (ends.empty()) {
        ends.emplace_back("none that is recorded");
    }
    std::string text = "compute capability ";
    for (std::size_t i = 0; i < ends.size(); ++i) {
        text += (i == 0 ? "" : i + 1 == ends.size() ? " or " : ", ") + ends[i];
    }
    return text;
}

std::string foreign(const std::string& made, const std::string& here) {
    return "it was built for " + made + "; " + here;
}

}  // namespace

std::string platform() {
    utsname system{};
    if (uname(&system) != 0) {
        return "an unknown platform";
    }
    return std::string(system.sysname) + " " + system.machine;
}

std::string version(std::int32_t encoded, std::int32_t build) {
    const std::int32_t major = encoded < 10000 ? encoded / 1000 : encoded / 10000;
    const std::int32_t minor = encoded < 10000 ? encoded % 1000 / 100 : encoded % 10000 / 100;
    const std::int32_t patch = encoded % 100;
    const auto text = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
    return build > 0 ? text + "." + std::to_string(build) : text;
}

std::vector<const EngineRecord*> engines(const Manifest& manifest, const std::string& where) {
    std::vector<const EngineRecord*> found;
    for (const auto& engine : manifest.engines) {
        if (engine.backend == "tensorrt") {
            found.push_back(&engine);
        }
    }
    if (found.empty()) {
        throw Error(ErrorCode::backend, "it has no TensorRT engine.", where, remedy);
    }
    return found;
}

std::optional<std::string> refusal(const EngineRecord& engine, const Machine& machine) {
    if (!engine.build) {
        return "the manifest does not say what it was built for";
    }
    const BuildRecord& build = *engine.build;
    if (build.platform != machine.platform) {
        return foreign(build.platform, "this machine is " + machine.platform);
    }
    if (!takes(engine.version, machine.version, build.version_compatible)) {
        const char* const kind =
            " (version-compatible engines run within a major version and on the next, never on an earlier one)";
        return foreign("TensorRT " + engine.version,
                       "here is " + machine.version + (build.version_compatible ? kind : ""));
    }
    if (!runs_on(build, machine.compute_capability)) {
        return foreign(capabilities(build),
                       "the GPU here, " + machine.gpu + ", is of " + dotted(machine.compute_capability));
    }
    if (build.strip_weights) {
        return "it was built without weights, which deploykit gives back in Python only";
    }
    return std::nullopt;
}

const EngineRecord& fitting(const std::vector<const EngineRecord*>& engines, const Machine& machine,
                            const std::string& where) {
    std::string refusals;
    for (const auto* engine : engines) {
        const auto reason = refusal(*engine, machine);
        if (!reason) {
            return *engine;
        }
        if (engines.size() == 1) {
            throw Error(ErrorCode::backend, *reason + ".", engine->file.path, remedy);
        }
        refusals += (refusals.empty() ? "" : "; ") + engine->file.path + ": " + *reason;
    }
    throw Error(ErrorCode::backend, "none of its TensorRT engines runs here. " + refusals + ".", where, remedy);
}

}  // namespace deploykit::backends::tensorrt
