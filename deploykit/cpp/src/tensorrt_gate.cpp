#include "tensorrt_gate.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <string_view>

#include "deploykit/error.hpp"

namespace deploykit::backends::tensorrt {

namespace {

const char* const remedy = "Build it here: deploykit compile BUNDLE --target tensorrt.";

constexpr int ampere = 80;  // hardware-compatible engines run on GPUs from here on

// Parse "10.3.0.26" to 10, 3, 0, 26. Non-digits separate numbers; numbers saturate.
std::vector<std::int64_t> parse_version(std::string_view text) {
    constexpr std::int64_t largest = 1'000'000'000;
    std::vector<std::int64_t> result;
    bool within = false;
    for (const char c : text) {
        const bool digit = c >= '0' && c <= '9';
        if (digit && !within) {
            result.push_back(0);
        }
        if (digit) {
            result.back() = std::min(largest, 10 * result.back() + (c - '0'));
        }
        within = digit;
    }
    return result;
}

// A record or a library may lack the fourth number: then only the first three are compared, and TensorRT itself checks
// the rest when it deserializes.
bool is_same_version(const std::vector<std::int64_t>& built, const std::vector<std::int64_t>& running) {
    const auto known = static_cast<std::ptrdiff_t>(std::min(built.size(), running.size()));
    return known >= 3 && std::equal(built.begin(), built.begin() + known, running.begin());
}

// The support matrix of 11.4: a version-compatible plan runs on later versions of its major version, from 8 also on 10,
// from 10 also on 11. All others run only on the version that built them.
bool can_run_version(const std::string& built_text, const std::string& running_text, bool version_compatible) {
    const auto built = parse_version(built_text);
    const auto running = parse_version(running_text);
    if (is_same_version(built, running)) {
        return true;
    }
    if (!version_compatible || built.empty() || running.empty()) {
        return false;
    }
    const auto from = built.front();
    const auto to = running.front();
    return (from == to && running >= built) || (from == 8 && to == 10) || (from == 10 && to == 11);
}

bool supports_gpu(const BuildRecord& build, int capability) {
    const auto& named = build.compute_capabilities;
    if (std::find(named.begin(), named.end(), capability) != named.end()) {
        return true;
    }
    if (build.open_ended && !named.empty() && capability > *std::max_element(named.begin(), named.end())) {
        return true;
    }
    return build.hardware_compatible && capability >= ampere;
}

std::string format_capability(int capability) {
    return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

// "compute capability 8.0, 8.6 or above"
std::string format_capabilities(const BuildRecord& build) {
    auto sorted = build.compute_capabilities;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::string> ends;
    std::transform(sorted.begin(), sorted.end(), std::back_inserter(ends), format_capability);
    if (build.open_ended) {
        ends.emplace_back("above");
    } else if (build.hardware_compatible) {
        ends.emplace_back(format_capability(ampere) + " and above");
    } else if (ends.empty()) {
        ends.emplace_back("none that is recorded");
    }
    std::string text = "compute capability ";
    for (std::size_t i = 0; i < ends.size(); ++i) {
        text += (i == 0 ? "" : i + 1 == ends.size() ? " or " : ", ") + ends[i];
    }
    return text;
}

std::string format_mismatch(const std::string& made, const std::string& here) {
    return "it was built for " + made + "; " + here;
}

}  // namespace

std::string read_platform() {
    utsname system{};
    if (uname(&system) != 0) {
        return "an unknown platform";
    }
    return std::string(system.sysname) + " " + system.machine;
}

std::string format_version(std::int32_t encoded, std::int32_t build) {
    const std::int32_t major = encoded < 10000 ? encoded / 1000 : encoded / 10000;
    const std::int32_t minor = encoded < 10000 ? encoded % 1000 / 100 : encoded % 10000 / 100;
    const std::int32_t patch = encoded % 100;
    const auto text = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
    return build > 0 ? text + "." + std::to_string(build) : text;
}

std::vector<const EngineRecord*> find_engines(const Manifest& manifest, const std::string& where) {
    std::vector<const EngineRecord*> result;
    for (const auto& engine : manifest.engines) {
        if (engine.backend == "tensorrt") {
            result.push_back(&engine);
        }
    }
    if (result.empty()) {
        throw Error(ErrorCode::backend, "it has no TensorRT engine.", where, remedy);
    }
    return result;
}

std::optional<std::string> find_mismatch(const EngineRecord& engine, const Machine& machine) {
    if (!engine.build) {
        return "the manifest has no build record for it";
    }
    const BuildRecord& build = *engine.build;
    if (build.platform != machine.platform) {
        return format_mismatch(build.platform, "this machine is " + machine.platform);
    }
    if (!can_run_version(engine.version, machine.version, build.version_compatible)) {
        const char* const kind =
            " (version-compatible engines run on the same major version and the next one, never on an earlier version)";
        return format_mismatch("TensorRT " + engine.version,
                               "this machine has " + machine.version + (build.version_compatible ? kind : ""));
    }
    if (!supports_gpu(build, machine.compute_capability)) {
        return format_mismatch(format_capabilities(build), "this machine's " + machine.gpu + " has " +
                                                               format_capability(machine.compute_capability));
    }
    if (build.strip_weights) {
        return "it was built without weights, which only deploykit in Python can restore";
    }
    return std::nullopt;
}

const EngineRecord& select_engine(const std::vector<const EngineRecord*>& engines, const Machine& machine,
                                  const std::string& where) {
    std::string refusals;
    for (const auto* engine : engines) {
        const auto reason = find_mismatch(*engine, machine);
        if (!reason) {
            return *engine;
        }
        if (engines.size() == 1) {
            throw Error(ErrorCode::backend, *reason + ".", engine->file.path, remedy);
        }
        refusals += (refusals.empty() ? "" : "; ") + engine->file.path + ": " + *reason;
    }
    throw Error(ErrorCode::backend, "none of its TensorRT engines runs on this machine. " + refusals + ".", where,
                remedy);
}

}  // namespace deploykit::backends::tensorrt
