#include "manifest.hpp"

#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "deploykit/error.hpp"
#include "files.hpp"

namespace deploykit {
namespace {

using nlohmann::json;

constexpr int deepest = 100;  // manifests have about ten levels; the limit protects the parser's stack

constexpr const char* remedy = "Copy the bundle again, or export it again.";

// Text of the file for an error message: one line of ASCII, truncated if it is long.
std::string printable(const std::string& text) {
    constexpr std::size_t most = 200;
    const json quoted = text.substr(0, most);
    const std::string shown = quoted.dump(-1, ' ', true, json::error_handler_t::replace);
    return shown.substr(1, shown.size() - 2) + (text.size() > most ? "..." : "");
}

// A value in the document, with its position for error messages: "manifest.json, batch.minimum".
class Node {
public:
    Node(const json& value, std::string where) : value_(value), where_(std::move(where)) {}

    [[noreturn]] void refuse(const std::string& problem) const {
        throw Error(ErrorCode::bad_input, "the manifest is damaged: " + problem + ".", where_, remedy);
    }

    Node operator[](const char* key) const {
        if (!value_.is_object()) {
            refuse("it is not an object");
        }
        const auto result = value_.find(key);
        if (result == value_.end()) {
            refuse(std::string("the field ") + key + " is missing");
        }
        return {*result, inner(key)};
    }

    // Result of `read`; none for null.
    template <class Read>
    auto optional(Read read) const -> std::optional<decltype(read(*this))> {
        if (value_.is_null()) {
            return std::nullopt;
        }
        return read(*this);
    }

    std::string text() const {
        if (!value_.is_string()) {
            refuse("it is not a string");
        }
        return value_.get<std::string>();
    }

    std::string one_of(std::initializer_list<const char*> choices) const {
        std::string result = text();
        for (const char* choice : choices) {
            if (result == choice) {
                return result;
            }
        }
        refuse("'" + printable(result) + "' is not one of the allowed values");
    }

    bool flag() const {
        if (!value_.is_boolean()) {
            refuse("it is neither true nor false");
        }
        return value_.get<bool>();
    }

    double number() const {
        if (!value_.is_number()) {
            refuse("it is not a number");
        }
        return value_.get<double>();
    }

    double positive() const {
        const double result = number();
        if (!(result > 0)) {
            refuse("it is not positive");
        }
        return result;
    }

    std::int64_t integer(std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max()) const {
        constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
        if (!value_.is_number_integer() || (value_.is_number_unsigned() && value_.get<std::uint64_t>() > largest)) {
            refuse("it is not an integer");
        }
        const auto result = value_.get<std::int64_t>();
        if (result < least || result > most) {
            refuse(std::to_string(result) + " is out of range");
        }
        return result;
    }

    bool is_text() const { return value_.is_string(); }

    template <class Read>
    auto list(Read read) const -> std::vector<decltype(read(std::declval<Node>()))> {
        if (!value_.is_array()) {
            refuse("it is not an array");
        }
        std::vector<decltype(read(*this))> result;
        for (std::size_t index = 0; index < value_.size(); ++index) {
            result.push_back(read(Node(value_[index], inner(std::to_string(index)))));
        }
        return result;
    }

    template <class Read>
    auto map(Read read) const -> std::map<std::string, decltype(read(std::declval<Node>()))> {
        if (!value_.is_object()) {
            refuse("it is not an object");
        }
        std::map<std::string, decltype(read(*this))> result;
        for (const auto& [key, value] : value_.items()) {
            result.emplace(key, read(Node(value, inner(key))));
        }
        return result;
    }

    // A recorded path inside the bundle.
    std::string path() const {
        std::string result = text();
        if (!stays_inside(result)) {
            refuse("the path '" + printable(result) + "' leaves the bundle");
        }
        return result;
    }

private:
    std::string inner(const std::string& key) const {
        return where_ + (where_.find(", ") == std::string::npos ? ", " : ".") + printable(key);
    }

    const json& value_;
    std::string where_;
};

DataType read_data_type(const Node& node) {
    const std::string result = node.one_of({"float32", "float16", "uint8", "int8", "int32", "int64"});
    for (const DataType type :
         {DataType::float32, DataType::float16, DataType::uint8, DataType::int8, DataType::int32, DataType::int64}) {
        if (result == name(type)) {
            return type;
        }
    }
    node.refuse("it is not a data type");
}

TensorSpec read_tensor_spec(const Node& node) {
    constexpr std::int64_t largest = std::int64_t{1} << 31U;
    TensorSpec spec;
    spec.name = node["name"].text();
    spec.type = read_data_type(node["dtype"]);
    spec.layout = node["layout"].one_of({"NCHW", "NHWC", "NC", "ND"});
    spec.shape = node["shape"].list([](const Node& size) { return size.is_text() ? -1 : size.integer(1, largest); });
    if (spec.shape.empty() || spec.shape.size() > Shape::max_rank) {
        node.refuse("a shape has between one and eight axes");
    }
    auto bytes = static_cast<double>(bytes_per_element(spec.type));
    for (std::size_t axis = 1; axis < spec.shape.size(); ++axis) {
        if (spec.shape[axis] == -1) {
            node.refuse("an axis other than the batch has no size");
        }
        bytes *= static_cast<double>(spec.shape[axis]);
    }
    if (bytes > static_cast<double>(largest)) {
        node.refuse("one sample of it would take more than 2 GiB");
    }
    return spec;
}

std::vector<TensorSpec> read_tensor_specs(const Node& node) {
    auto specs = node.list(read_tensor_spec);
    if (specs.empty()) {
        node.refuse("it is empty");
    }
    return specs;
}

FileRecord read_file_record(const Node& node) {
    FileRecord file{node["path"].path(), node["sha256"].text(), static_cast<std::uint64_t>(node["bytes"].integer(0))};
    if (file.sha256.size() != 64 || file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
        node["sha256"].refuse("it is not a SHA-256");
    }
    return file;
}

BatchRange read_batch_range(const Node& node) {
    constexpr std::int64_t largest = std::int64_t{1} << 20U;
    const BatchRange batch{node["minimum"].integer(1, largest), node["optimum"].integer(1, largest),
                           node["maximum"].integer(1, largest)};
    if (batch.minimum > batch.optimum || batch.optimum > batch.maximum) {
        node.refuse("batch sizes do not satisfy minimum <= optimum <= maximum");
    }
    return batch;
}

std::array<double, 3> read_channels(const Node& node, double (Node::*read)() const, bool grey) {
    const auto result = node.list([read](const Node& one) { return (one.*read)(); });
    if (result.size() != (grey ? 1U : 3U)) {
        node.refuse("it does not have one number per channel");
    }
    return {result.front(), result[grey ? 0 : 1], result.back()};
}

Preprocessing read_preprocessing(const Node& node) {
    constexpr std::int64_t largest = 1 << 16U;
    Preprocessing result;
    result.resize = static_cast<int>(node["resize"].integer(1, largest));
    result.height = static_cast<int>(node["height"].integer(1, largest));
    result.width = static_cast<int>(node["width"].integer(1, largest));
    if (result.resize < std::max(result.height, result.width)) {
        node.refuse("the crop is larger than the resized image");
    }
    result.scale = node["scale"].positive();
    const auto channels = node["channels"].one_of({"rgb", "bgr", "grey"});
    result.grey = channels == "grey";
    result.channels = channels == "bgr" ? ChannelOrder::bgr : ChannelOrder::rgb;
    result.mean = read_channels(node["mean"], &Node::number, result.grey);
    result.std = read_channels(node["std"], &Node::positive, result.grey);
    result.layout = node["layout"].one_of({"NCHW", "NHWC"}) == "NCHW" ? ImageLayout::nchw : ImageLayout::nhwc;
    return result;
}

BuildRecord read_build_record(const Node& node) {
    const Node options = node["options"];
    BuildRecord build;
    build.platform = node["platform"].text();
    build.compute_capabilities =
        node["compute_capabilities"].list([](const Node& one) { return static_cast<int>(one.integer(0, 100'000)); });
    build.open_ended = node["open_ended"].flag();
    build.version_compatible = options["version_compatible"].flag();
    build.hardware_compatible = options["hardware_compatible"].flag();
    build.strip_weights = options["strip_weights"].flag();
    build.dla_core =
        options["dla_core"].optional([](const Node& core) { return static_cast<int>(core.integer(0, 100'000)); });
    return build;
}

EngineRecord read_engine_record(const Node& node) {
    return {node["backend"].text(),
            node["version"].text(),
            read_file_record(node["file"]),
            read_tensor_specs(node["inputs"]),
            read_tensor_specs(node["outputs"]),
            node["build"].optional(read_build_record)};
}

Tolerance read_tolerance(const Node& node) {
    const auto number = [](const Node& bound) { return bound.number(); };
    return {node["max_relative"].optional(number), node["min_cosine"].optional(number), node["min_snr_db"].number(),
            node["min_top1_agreement"].optional(number)};
}

// All golden samples are run in one batch.
Golden read_golden(const Node& node, const BatchRange& batch) {
    const auto path = [](const Node& file) { return file.path(); };
    return {node["inputs"].map(path), node["outputs"].map(path), node["count"].integer(batch.minimum, batch.maximum)};
}

// Every referenced path must be listed in `files`, whose digests are verified.
void require_listed(const Manifest& manifest, const Node& node) {
    std::vector<std::string> referenced{manifest.graph};
    for (const EngineRecord& engine : manifest.engines) {
        referenced.push_back(engine.file.path);
    }
    for (const auto* paths : {&manifest.golden.inputs, &manifest.golden.outputs}) {
        for (const auto& [tensor, path] : *paths) {
            referenced.push_back(path);
        }
    }
    if (manifest.labels) {
        referenced.push_back(*manifest.labels);
    }
    for (const std::string& path : referenced) {
        if (manifest.files.count(path) == 0) {
            node.refuse("it names '" + printable(path) + "', which is not among its files");
        }
    }
}

std::map<std::string, FileRecord> read_files(const Node& node) {
    auto result = node.map(read_file_record);
    for (const auto& [path, file] : result) {
        if (path != file.path) {
            node.refuse("the file '" + printable(path) + "' is recorded as '" + printable(file.path) + "'");
        }
    }
    return result;
}

[[noreturn]] void refuse(const std::string& problem, const std::string& where) {
    throw Error(ErrorCode::bad_input, "the manifest is damaged: " + problem + ".", where, remedy);
}

// Checks a document while it is parsed: limits the nesting depth, and refuses duplicate fields.
class ParseGuard {
public:
    explicit ParseGuard(const std::string& where) : where_(where) {}

    bool operator()(int depth, json::parse_event_t event, const json& value) {
        if (depth > deepest) {
            refuse("it is nested too deeply", where_);
        }
        if (event == json::parse_event_t::object_start) {
            open_.emplace_back();
        } else if (event == json::parse_event_t::object_end) {
            open_.pop_back();
        } else if (event == json::parse_event_t::key && !open_.back().insert(value.get<std::string>()).second) {
            refuse("the field " + printable(value.get<std::string>()) + " occurs twice", where_);
        }
        return true;
    }

private:
    const std::string& where_;
    std::vector<std::set<std::string>> open_;  // field names of each object that is still open
};

json parse(std::string_view text, const std::string& where) {
    // The parser would treat NUL as the end and skip a byte order mark; Python's parser refuses both.
    if (text.find('\0') != std::string_view::npos || text.substr(0, 3) == "\xEF\xBB\xBF") {
        refuse("it contains a NUL or a byte order mark", where);
    }
    try {
        return json::parse(text.begin(), text.end(), ParseGuard(where));
    } catch (const json::exception& error) {
        const std::string message = error.what();
        refuse(printable(message.substr(message.find(' ') + 1)), where);  // without "[json.exception.parse_error.101]"
    }
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& where) {
    const json document = parse(text, where);
    const Node node(document, where);
    if (const std::int64_t version = node["schema_version"].integer(0); version != schema_version) {
        throw Error(ErrorCode::bad_input,
                    "it has schema version " + std::to_string(version) + ", and this library reads version " +
                        std::to_string(schema_version) + ".",
                    where, "Use the deploykit that wrote it, or export the bundle again.");
    }
    const Node model = node["model"];
    Manifest manifest;
    manifest.model = model["name"].text();
    manifest.precision = node["precision"].one_of({"fp32", "fp16", "bf16", "int8", "int8-fp16"});
    manifest.head = model["head"].one_of({"logits", "probabilities", "embedding", "tensors"});
    manifest.oracle = model["oracle"].text();
    manifest.trained = node["weights"]["trained"].flag();
    manifest.inputs = read_tensor_specs(node["inputs"]);
    manifest.outputs = read_tensor_specs(node["outputs"]);
    manifest.batch = read_batch_range(node["batch"]);
    const bool in_graph = model["preprocess_in"].one_of({"host", "graph"}) == "graph";
    if (const auto result = model["preprocessing"].optional(read_preprocessing)) {
        manifest.preprocessing = *result;
        manifest.preprocessing.in_graph = in_graph;
    } else {
        manifest.takes_images = false;
    }
    manifest.graph = node["graph"]["file"].path();
    manifest.labels = node["labels"].optional([](const Node& labels) { return labels.path(); });
    manifest.engines =
        node["extra_engines"].list([](const Node& extra) { return read_engine_record(extra["engine"]); });
    manifest.engines.insert(manifest.engines.begin(), read_engine_record(node["engine"]));
    manifest.golden = read_golden(node["golden"], manifest.batch);
    manifest.tolerance = read_tolerance(node["parity"]["tolerance"]);
    manifest.files = read_files(node["files"]);
    require_listed(manifest, node);
    return manifest;
}

}  // namespace deploykit
