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

constexpr int deepest = 100;  // our manifests have about ten levels; a parser's stack ends somewhere

constexpr const char* remedy = "Copy the bundle anew, or export it again.";

// What the file says, as a message may show it: one line of ASCII, and not all of it where it is long.
std::string legible(const std::string& text) {
    constexpr std::size_t most = 200;
    const json quoted = text.substr(0, most);
    const std::string shown = quoted.dump(-1, ' ', true, json::error_handler_t::replace);
    return shown.substr(1, shown.size() - 2) + (text.size() > most ? "..." : "");
}

// A value in the document, and the way to it for the error's sake: "manifest.json, batch.minimum".
class Node {
public:
    Node(const json& value, std::string where) : value_(value), where_(std::move(where)) {}

    [[noreturn]] void refuse(const std::string& problem) const {
        throw Error(ErrorCode::bad_input, "the manifest is damaged: " + problem + ".", where_, remedy);
    }

    Node operator[](const char* key) const {
        if (!value_.is_object()) {
            refuse("it is no object");
        }
        const auto found = value_.find(key);
        if (found == value_.end()) {
            refuse(std::string("the field ") + key + " is missing");
        }
        return {*found, inner(key)};
    }

    // What `read` makes of it, or nothing of a null.
    template <class Read>
    auto optional(Read read) const -> std::optional<decltype(read(*this))> {
        if (value_.is_null()) {
            return std::nullopt;
        }
        return read(*this);
    }

    std::string text() const {
        if (!value_.is_string()) {
            refuse("it is no text");
        }
        return value_.get<std::string>();
    }

    std::string one_of(std::initializer_list<const char*> choices) const {
        std::string found = text();
        for (const char* choice : choices) {
            if (found == choice) {
                return found;
            }
        }
        refuse("'" + legible(found) + "' is none of the words that it may be");
    }

    bool flag() const {
        if (!value_.is_boolean()) {
            refuse("it is neither true nor false");
        }
        return value_.get<bool>();
    }

    double number() const {
        if (!value_.is_number()) {
            refuse("it is no number");
        }
        return value_.get<double>();
    }

    double positive() const {
        const double found = number();
        if (!(found > 0)) {
            refuse("it is not above zero");
        }
        return found;
    }

    std::int64_t integer(std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max()) const {
        constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
        if (!value_.is_number_integer() || (value_.is_number_unsigned() && value_.get<std::uint64_t>() > largest)) {
            refuse("it is no integer");
        }
        const auto found = value_.get<std::int64_t>();
        if (found < least || found > most) {
            refuse(std::to_string(found) + " is outside of what it may be");
        }
        return found;
    }

    bool is_text() const { return value_.is_string(); }

    template <class Read>
    auto list(Read read) const -> std::vector<decltype(read(std::declval<Node>()))> {
        if (!value_.is_array()) {
            refuse("it is no list");
        }
        std::vector<decltype(read(*this))> found;
        for (std::size_t index = 0; index < value_.size(); ++index) {
            found.push_back(read(Node(value_[index], inner(std::to_string(index)))));
        }
        return found;
    }

    template <class Read>
    auto map(Read read) const -> std::map<std::string, decltype(read(std::declval<Node>()))> {
        if (!value_.is_object()) {
            refuse("it is no object");
        }
        std::map<std::string, decltype(read(*this))> found;
        for (const auto& [key, value] : value_.items()) {
            found.emplace(key, read(Node(value, inner(key))));
        }
        return found;
    }

    // A path that was recorded, and stays within the bundle.
    std::string path() const {
        std::string found = text();
        if (!stays_inside(found)) {
            refuse("the path '" + legible(found) + "' leaves the bundle");
        }
        return found;
    }

private:
    std::string inner(const std::string& key) const {
        return where_ + (where_.find(", ") == std::string::npos ? ", " : ".") + legible(key);
    }

    const json& value_;
    std::string where_;
};

DataType data_type(const Node& node) {
    const std::string found = node.one_of({"float32", "float16", "uint8", "int8", "int32", "int64"});
    for (const DataType type :
         {DataType::float32, DataType::float16, DataType::uint8, DataType::int8, DataType::int32, DataType::int64}) {
        if (found == name(type)) {
            return type;
        }
    }
    node.refuse("it is no type");
}

TensorSpec tensor_spec(const Node& node) {
    constexpr std::int64_t largest = std::int64_t{1} << 31U;
    TensorSpec spec;
    spec.name = node["name"].text();
    spec.type = data_type(node["dtype"]);
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

std::vector<TensorSpec> tensor_specs(const Node& node) {
    auto specs = node.list(tensor_spec);
    if (specs.empty()) {
        node.refuse("it is empty");
    }
    return specs;
}

FileRecord file_record(const Node& node) {
    FileRecord file{node["path"].path(), node["sha256"].text(), static_cast<std::uint64_t>(node["bytes"].integer(0))};
    if (file.sha256.size() != 64 || file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
        node["sha256"].refuse("it is no SHA-256");
    }
    return file;
}

BatchRange batch_range(const Node& node) {
    constexpr std::int64_t largest = std::int64_t{1} << 20U;
    const BatchRange batch{node["minimum"].integer(1, largest), node["optimum"].integer(1, largest),
                           node["maximum"].integer(1, largest)};
    if (batch.minimum > batch.optimum || batch.optimum > batch.maximum) {
        node.refuse("batch sizes do not go up");
    }
    return batch;
}

std::array<double, 3> three(const Node& node, double (Node::*read)() const) {
    const auto found = node.list([read](const Node& one) { return (one.*read)(); });
    if (found.size() != 3) {
        node.refuse("it does not have one number per channel");
    }
    return {found[0], found[1], found[2]};
}

Preprocessing preprocessing(const Node& node) {
    constexpr std::int64_t largest = 1 << 16U;
    Preprocessing found;
    found.resize = static_cast<int>(node["resize"].integer(1, largest));
    found.height = static_cast<int>(node["height"].integer(1, largest));
    found.width = static_cast<int>(node["width"].integer(1, largest));
    if (found.resize < std::max(found.height, found.width)) {
        node.refuse("the crop is larger than what it is cut from");
    }
    found.scale = node["scale"].positive();
    found.mean = three(node["mean"], &Node::number);
    found.std = three(node["std"], &Node::positive);
    found.channels = node["channels"].one_of({"rgb", "bgr"}) == "rgb" ? ChannelOrder::rgb : ChannelOrder::bgr;
    found.layout = node["layout"].one_of({"NCHW", "NHWC"}) == "NCHW" ? ImageLayout::nchw : ImageLayout::nhwc;
    return found;
}

BuildRecord build_record(const Node& node) {
    const Node options = node["options"];
    BuildRecord build;
    build.platform = node["platform"].text();
    build.compute_capabilities =
        node["compute_capabilities"].list([](const Node& one) { return static_cast<int>(one.integer(0, 100'000)); });
    build.open_ended = node["open_ended"].flag();
    build.version_compatible = options["version_compatible"].flag();
    build.hardware_compatible = options["hardware_compatible"].flag();
    build.strip_weights = options["strip_weights"].flag();
    return build;
}

EngineRecord engine_record(const Node& node) {
    return {node["backend"].text(),       node["version"].text(),        file_record(node["file"]),
            tensor_specs(node["inputs"]), tensor_specs(node["outputs"]), node["build"].optional(build_record)};
}

Tolerance tolerance(const Node& node) {
    return {node["max_relative"].number(), node["min_cosine"].number(), node["min_snr_db"].number(),
            node["min_top1_agreement"].optional([](const Node& bound) { return bound.number(); })};
}

// All of its samples are run at once.
Golden golden(const Node& node, const BatchRange& batch) {
    const auto path = [](const Node& file) { return file.path(); };
    return {node["inputs"].map(path), node["outputs"].map(path), node["count"].integer(batch.minimum, batch.maximum)};
}

// Every path that is spoken of must be one of the files, whose digests are checked.
void require_listed(const Manifest& manifest, const Node& node) {
    std::vector<std::string> named{manifest.graph};
    for (const EngineRecord& engine : manifest.engines) {
        named.push_back(engine.file.path);
    }
    for (const auto* paths : {&manifest.golden.inputs, &manifest.golden.outputs}) {
        for (const auto& [tensor, path] : *paths) {
            named.push_back(path);
        }
    }
    if (manifest.labels) {
        named.push_back(*manifest.labels);
    }
    for (const std::string& path : named) {
        if (manifest.files.count(path) == 0) {
            node.refuse("it names '" + legible(path) + "', which is not among its files");
        }
    }
}

std::map<std::string, FileRecord> files(const Node& node) {
    auto found = node.map(file_record);
    for (const auto& [path, file] : found) {
        if (path != file.path) {
            node.refuse("the file '" + legible(path) + "' is recorded as '" + legible(file.path) + "'");
        }
    }
    return found;
}

[[noreturn]] void refuse(const std::string& problem, const std::string& where) {
    throw Error(ErrorCode::bad_input, "the manifest is damaged: " + problem + ".", where, remedy);
}

// Looks at a document while it is parsed: not nested deeper than makes sense, and no value hidden by a second one.
class Watch {
public:
    explicit Watch(const std::string& where) : where_(where) {}

    bool operator()(int depth, json::parse_event_t event, const json& value) {
        if (depth > deepest) {
            refuse("it is nested too deeply", where_);
        }
        if (event == json::parse_event_t::object_start) {
            open_.emplace_back();
        } else if (event == json::parse_event_t::object_end) {
            open_.pop_back();
        } else if (event == json::parse_event_t::key && !open_.back().insert(value.get<std::string>()).second) {
            refuse("the field " + legible(value.get<std::string>()) + " stands there twice", where_);
        }
        return true;
    }

private:
    const std::string& where_;
    std::vector<std::set<std::string>> open_;  // names in each object that has not ended
};

json parse(std::string_view text, const std::string& where) {
    // The parser would take the first for the end, and pass over the second; Python's refuses both.
    if (text.find('\0') != std::string_view::npos || text.substr(0, 3) == "\xEF\xBB\xBF") {
        refuse("it has bytes that no JSON has", where);
    }
    try {
        return json::parse(text.begin(), text.end(), Watch(where));
    } catch (const json::exception& error) {
        const std::string said = error.what();
        refuse(legible(said.substr(said.find(' ') + 1)), where);  // without "[json.exception.parse_error.101]"
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
    manifest.inputs = tensor_specs(node["inputs"]);
    manifest.outputs = tensor_specs(node["outputs"]);
    manifest.batch = batch_range(node["batch"]);
    const bool in_graph = model["preprocess"].one_of({"host", "graph"}) == "graph";
    if (const auto found = model["preprocessing"].optional(preprocessing)) {
        manifest.preprocessing = *found;
        manifest.preprocessing.in_graph = in_graph;
    } else {
        manifest.takes_images = false;
    }
    manifest.graph = node["graph"]["file"].path();
    manifest.labels = node["labels"].optional([](const Node& labels) { return labels.path(); });
    manifest.engines = node["beside"].list([](const Node& beside) { return engine_record(beside["engine"]); });
    manifest.engines.insert(manifest.engines.begin(), engine_record(node["engine"]));
    manifest.golden = golden(node["golden"], manifest.batch);
    manifest.tolerance = tolerance(node["parity"]["tolerance"]);
    manifest.files = files(node["files"]);
    require_listed(manifest, node);
    return manifest;
}

}  // namespace deploykit
