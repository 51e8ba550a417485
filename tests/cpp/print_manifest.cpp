// What the library understands of a manifest, as JSON: for tests that compare it with what Python understands.
//
//   print_manifest BUNDLE     opens the bundle, files and all; exit 0, or the error's code
//   print_manifest            reads manifests from stdin, each as its length on a line and then that many bytes
//
// A line for each: {"manifest": …, "labels": […]}, or {"error": {"code": "bad_input", "what": …}}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/error.hpp"
#include "manifest.hpp"

namespace {

using nlohmann::json;

template <class Value, class Write>
json optional(const std::optional<Value>& value, Write write) {
    return value ? json(write(*value)) : json();
}

template <class Value, class Write>
json list(const std::vector<Value>& values, Write write) {
    json all = json::array();
    for (const Value& value : values) {
        all.push_back(write(value));
    }
    return all;
}

json written(const deploykit::FileRecord& file) {
    return {{"path", file.path}, {"sha256", file.sha256}, {"bytes", file.bytes}};
}

json written(const deploykit::TensorSpec& spec) {
    return {{"name", spec.name}, {"dtype", deploykit::name(spec.type)}, {"shape", spec.shape}, {"layout", spec.layout}};
}

json written(const std::vector<deploykit::TensorSpec>& specs) {
    return list(specs, [](const deploykit::TensorSpec& spec) { return written(spec); });
}

json written(const deploykit::BuildRecord& build) {
    return {{"platform", build.platform},
            {"compute_capabilities", build.compute_capabilities},
            {"open_ended", build.open_ended},
            {"version_compatible", build.version_compatible},
            {"hardware_compatible", build.hardware_compatible},
            {"strip_weights", build.strip_weights},
            {"dla_core", build.dla_core ? json(*build.dla_core) : json()}};
}

json written(const deploykit::EngineRecord& engine) {
    return {{"backend", engine.backend},
            {"version", engine.version},
            {"file", written(engine.file)},
            {"inputs", written(engine.inputs)},
            {"outputs", written(engine.outputs)},
            {"build", optional(engine.build, [](const deploykit::BuildRecord& build) { return written(build); })}};
}

json written(const deploykit::Preprocessing& image) {
    return {{"resize", image.resize},
            {"height", image.height},
            {"width", image.width},
            {"scale", image.scale},
            {"mean", image.mean},
            {"std", image.std},
            {"channels", image.channels == deploykit::ChannelOrder::rgb ? "rgb" : "bgr"},
            {"layout", image.layout == deploykit::ImageLayout::nchw ? "NCHW" : "NHWC"},
            {"in_graph", image.in_graph}};
}

json written(const deploykit::Tolerance& bounds) {
    const auto number = [](double bound) { return bound; };
    return {{"max_relative", optional(bounds.max_relative, number)},
            {"min_cosine", optional(bounds.min_cosine, number)},
            {"min_snr_db", bounds.min_snr_db},
            {"min_top1_agreement", optional(bounds.min_top1_agreement, number)}};
}

json written(const deploykit::Manifest& manifest) {
    json files = json::object();
    for (const auto& [path, file] : manifest.files) {
        files[path] = written(file);
    }
    const auto& batch = manifest.batch;
    const auto& golden = manifest.golden;
    return {{"model", manifest.model},
            {"precision", manifest.precision},
            {"head", manifest.head},
            {"oracle", manifest.oracle},
            {"trained", manifest.trained},
            {"inputs", written(manifest.inputs)},
            {"outputs", written(manifest.outputs)},
            {"batch", {{"minimum", batch.minimum}, {"optimum", batch.optimum}, {"maximum", batch.maximum}}},
            {"preprocessing", manifest.takes_images ? written(manifest.preprocessing) : json()},
            {"graph", manifest.graph},
            {"labels", optional(manifest.labels, [](const std::string& path) { return path; })},
            {"engines", list(manifest.engines, [](const deploykit::EngineRecord& engine) { return written(engine); })},
            {"golden", {{"inputs", golden.inputs}, {"outputs", golden.outputs}, {"count", golden.count}}},
            {"tolerance", written(manifest.tolerance)},
            {"files", files}};
}

// Prints what `read` gives, or the error that it ends with; returns 0 or the error's code.
template <class Read>
int answer(Read read) {
    json line;
    int code = 0;
    try {
        line = read();
    } catch (const deploykit::Error& error) {
        code = static_cast<int>(error.code());
        line = {{"error", {{"code", deploykit::name(error.code())}, {"what", error.what()}}}};
    }
    std::cout << line.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
    return code;
}

int open(const char* folder) {
    return answer([folder] {
        const deploykit::Bundle bundle(folder);
        return json{{"manifest", written(bundle.manifest())}, {"labels", bundle.labels()}};
    });
}

void parse_all() {
    std::string length;
    while (std::getline(std::cin, length)) {
        std::string content(std::stoul(length), '\0');
        std::cin.read(content.data(), static_cast<std::streamsize>(content.size()));
        answer([&content] { return json{{"manifest", written(deploykit::parse_manifest(content, "manifest.json"))}}; });
    }
}

}  // namespace

int main(int count, char** words) {
    if (count == 2) {
        return open(words[1]);
    }
    parse_all();
    return 0;
}
