// The gate before a plan: which engine of a bundle a machine takes, told from records alone. The cases are those of
// tests/backends/gpu/test_foreign_engines.py, where the rules are the same.
#include <doctest/doctest.h>
#include <sys/utsname.h>

#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "refusal.hpp"
#include "tensorrt_gate.hpp"

using deploykit::EngineRecord;
using deploykit::ErrorCode;
using deploykit::Manifest;
namespace gate = deploykit::backends::tensorrt;

namespace {

const gate::Machine orin{"Linux aarch64", "10.3.0.26", "NVIDIA Fake", 87};

EngineRecord engine() {
    EngineRecord made;
    made.backend = "tensorrt";
    made.version = "10.3.0.26";
    made.file.path = "engines/tensorrt/engine.plan";
    made.build.emplace();
    made.build->platform = "Linux aarch64";
    made.build->compute_capabilities = {87};
    return made;
}

gate::Machine with_version(const std::string& version) {
    auto machine = orin;
    machine.version = version;
    return machine;
}

gate::Machine with_capability(int capability) {
    auto machine = orin;
    machine.compute_capability = capability;
    return machine;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("an engine of this machine passes") { CHECK(gate::find_mismatch(engine(), orin) == std::nullopt); }

TEST_CASE("another platform is refused with both named") {
    auto machine = orin;
    machine.platform = "Linux x86_64";
    CHECK(gate::find_mismatch(engine(), machine) == "it was built for Linux aarch64; this machine is Linux x86_64");
}

TEST_CASE("another version is refused with both named") {
    for (const std::string running : {"10.3.1.26", "10.3.0.27", "10.2.0.26", "11.4.0.106", "8.6.2"}) {
        CHECK(gate::find_mismatch(engine(), with_version(running)) ==
              "it was built for TensorRT 10.3.0.26; this machine has " + running);
    }
}

TEST_CASE("a fourth number that one side does not tell is left to TensorRT itself") {
    CHECK(gate::find_mismatch(engine(), with_version("10.3.0")) == std::nullopt);
    auto jetpack = engine();
    jetpack.version = "8.6.2";
    CHECK(gate::find_mismatch(jetpack, with_version("8.6.2.3")) == std::nullopt);
    CHECK(gate::find_mismatch(jetpack, with_version("8.6.1.6")).has_value());
}

TEST_CASE("a version that says nothing passes nowhere") {
    for (const std::string built : {"", "10", "10.3", "unknown"}) {
        auto made = engine();
        made.version = built;
        CHECK(gate::find_mismatch(made, orin).has_value());
    }
    auto endless = engine();
    endless.version = "10.3.0." + std::string(100, '9');
    CHECK(gate::find_mismatch(endless, orin).has_value());
}

TEST_CASE("a version-compatible engine runs forward, and as far as NVIDIA says") {
    struct Case {
        std::string built, running;
        bool passes;
    };
    const std::vector<Case> cases{
        {"10.3.0.26", "10.3.0.26", true},    {"10.3.0.26", "10.16.2.10", true}, {"10.3.0.26", "10.2.9.99", false},
        {"10.3.0.26", "11.0.0.114", true},   {"8.6.2", "10.3.0.26", true},      {"8.6.2", "11.0.0.114", false},
        {"11.0.0.114", "10.16.2.10", false}, {"11.4.0.106", "12.0.0.1", false},
    };
    for (const Case& one : cases) {
        CAPTURE(one.built);
        CAPTURE(one.running);
        auto made = engine();
        made.version = one.built;
        made.build->version_compatible = true;
        const auto reason = gate::find_mismatch(made, with_version(one.running));
        CHECK(reason.has_value() != one.passes);
        CHECK(
            (one.passes || contains(reason.value_or(""), "version-compatible engines run on the same major version")));
    }
}

TEST_CASE("another GPU is refused with both named") {
    CHECK(gate::find_mismatch(engine(), with_capability(90)) ==
          "it was built for compute capability 8.7; this machine's NVIDIA Fake has 9.0");
}

TEST_CASE("a hardware-compatible engine runs from Ampere on") {
    auto made = engine();
    made.build->compute_capabilities = {86};
    made.build->hardware_compatible = true;
    CHECK(gate::find_mismatch(made, with_capability(75)) ==
          "it was built for compute capability 8.6 or 8.0 and above; this machine's NVIDIA Fake has 7.5");
    for (const int capability : {80, 90, 120}) {
        CHECK(gate::find_mismatch(made, with_capability(capability)) == std::nullopt);
    }
}

TEST_CASE("an open-ended engine runs where it names and above its last") {
    auto made = engine();
    made.build->compute_capabilities = {120, 80, 89, 86};
    made.build->open_ended = true;
    for (const int capability : {80, 86, 89, 120, 130}) {
        CHECK(gate::find_mismatch(made, with_capability(capability)) == std::nullopt);
    }
    for (const int capability : {75, 87, 90}) {
        CHECK(contains(gate::find_mismatch(made, with_capability(capability)).value_or(""),
                       "for compute capability 8.0, 8.6, 8.9, 12.0 or above; "));
    }
}

TEST_CASE("an engine that names no GPU runs on none, even where it is open-ended") {
    auto made = engine();
    made.build->compute_capabilities.clear();
    CHECK(contains(gate::find_mismatch(made, orin).value_or(""), "compute capability none that is recorded"));
    made.build->open_ended = true;
    CHECK(gate::find_mismatch(made, orin).has_value());
}

TEST_CASE("an engine whose build is not recorded is refused") {
    auto made = engine();
    made.build.reset();
    CHECK(gate::find_mismatch(made, orin) == "the manifest has no build record for it");
}

TEST_CASE("an engine without weights is refused: they are given back in Python only") {
    auto made = engine();
    made.build->strip_weights = true;
    CHECK(contains(gate::find_mismatch(made, orin).value_or(""), "without weights"));
}

TEST_CASE("a bundle without a TensorRT engine is refused, TensorRT-RTX's not counting as one") {
    Manifest manifest;
    manifest.engines = {engine(), engine()};
    manifest.engines[0].backend = "onnxruntime";
    manifest.engines[1].backend = "tensorrt-rtx";
    const auto error = refusal([&] { gate::find_engines(manifest, "build/bundle"); });
    CHECK(error.code() == ErrorCode::backend);
    CHECK(error.where() == "build/bundle");
    CHECK(error.problem() == "it has no TensorRT engine.");
    CHECK(contains(error.remedy(), "deploykit compile BUNDLE --target tensorrt"));
}

TEST_CASE("of several engines the first that fits is taken") {
    Manifest manifest;
    manifest.engines = {engine(), engine(), engine()};
    manifest.engines[0].backend = "onnxruntime";
    manifest.engines[1].build->compute_capabilities = {72};
    manifest.engines[2].file.path = "engines/orin/engine.plan";
    const auto& taken = gate::select_engine(gate::find_engines(manifest, "build/bundle"), orin, "build/bundle");
    CHECK(taken.file.path == "engines/orin/engine.plan");
}

TEST_CASE("where the only engine does not fit, the refusal is about that file") {
    Manifest manifest;
    manifest.engines = {engine()};
    const auto engines = gate::find_engines(manifest, "build/bundle");
    const auto error = refusal([&] { gate::select_engine(engines, with_capability(90), "build/bundle"); });
    CHECK(error.code() == ErrorCode::backend);
    CHECK(error.where() == "engines/tensorrt/engine.plan");
    CHECK(error.problem() == "it was built for compute capability 8.7; this machine's NVIDIA Fake has 9.0.");
    CHECK(error.remedy() == "Build it here: deploykit compile BUNDLE --target tensorrt.");
}

TEST_CASE("where none of several fits, each is told with its reason") {
    Manifest manifest;
    manifest.engines = {engine(), engine()};
    manifest.engines[0].version = "8.6.2";
    manifest.engines[1].file.path = "engines/other/engine.plan";
    manifest.engines[1].build->platform = "Linux x86_64";
    const auto engines = gate::find_engines(manifest, "build/bundle");
    const auto error = refusal([&] { gate::select_engine(engines, orin, "build/bundle"); });
    CHECK(error.where() == "build/bundle");
    CHECK(contains(error.problem(),
                   "engines/tensorrt/engine.plan: it was built for TensorRT 8.6.2; this machine has 10.3.0.26"));
    CHECK(contains(error.problem(), "engines/other/engine.plan: it was built for Linux x86_64; this machine is"));
}

TEST_CASE("the library's version is read in both of its encodings") {
    CHECK(gate::format_version(8601, 0) == "8.6.1");
    CHECK(gate::format_version(9300, 0) == "9.3.0");
    CHECK(gate::format_version(100300, 26) == "10.3.0.26");
    CHECK(gate::format_version(101501, 29) == "10.15.1.29");
    CHECK(gate::format_version(110401, 0) == "11.4.1");
}

TEST_CASE("the platform is told in Python's words") {
    utsname system{};
    REQUIRE(uname(&system) == 0);
    CHECK(gate::read_platform() == std::string(system.sysname) + " " + system.machine);
}
