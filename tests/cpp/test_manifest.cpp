// manifest.json: what Python writes is understood, and everything else is refused in words.
#include "manifest.hpp"

#include <doctest/doctest.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bundle_folder.hpp"
#include "refusal.hpp"

using deploykit::ChannelOrder;
using deploykit::DataType;
using deploykit::ErrorCode;
using deploykit::ImageLayout;
using deploykit::Manifest;
using nlohmann::json;
using namespace std::string_literals;

namespace {

Manifest parsed(const json& content) { return deploykit::parse_manifest(content.dump(), "manifest.json"); }

deploykit::Error refused(const std::string& text) {
    const auto error = refusal([&] { deploykit::parse_manifest(text, "manifest.json"); });
    CHECK(error.code() == ErrorCode::bad_input);
    CHECK(error.where().rfind("manifest.json", 0) == 0);
    CHECK(std::string(error.what()).size() < 1000);
    return error;
}

deploykit::Error refused(const json& content) { return refused(content.dump()); }

json changed(json content, const std::string& pointer, json value) {
    content[json::json_pointer(pointer)] = std::move(value);
    return content;
}

json without(json content, const std::string& pointer) {
    const json::json_pointer place(pointer);
    content.at(place.parent_pointer()).erase(place.back());
    return content;
}

// Every field that the library reads, as the way to it in rich_manifest().
const std::vector<std::string>& fields() {
    static const std::vector<std::string> all = [] {
        std::vector<std::string> found{"/schema_version",
                                       "/model",
                                       "/model/name",
                                       "/model/head",
                                       "/model/oracle",
                                       "/model/preprocess_in",
                                       "/model/preprocessing",
                                       "/model/preprocessing/resize",
                                       "/model/preprocessing/height",
                                       "/model/preprocessing/width",
                                       "/model/preprocessing/scale",
                                       "/model/preprocessing/mean",
                                       "/model/preprocessing/std",
                                       "/model/preprocessing/channels",
                                       "/model/preprocessing/layout",
                                       "/weights",
                                       "/weights/trained",
                                       "/precision",
                                       "/batch",
                                       "/batch/minimum",
                                       "/batch/optimum",
                                       "/batch/maximum",
                                       "/graph",
                                       "/graph/file",
                                       "/labels",
                                       "/engine",
                                       "/extra_engines",
                                       "/extra_engines/0/engine",
                                       "/extra_engines/0/engine/build/platform",
                                       "/extra_engines/0/engine/build/compute_capabilities",
                                       "/extra_engines/0/engine/build/open_ended",
                                       "/extra_engines/0/engine/build/options",
                                       "/extra_engines/0/engine/build/options/version_compatible",
                                       "/extra_engines/0/engine/build/options/hardware_compatible",
                                       "/extra_engines/0/engine/build/options/strip_weights",
                                       "/extra_engines/0/engine/build/options/dla_core",
                                       "/golden",
                                       "/golden/inputs",
                                       "/golden/outputs",
                                       "/golden/count",
                                       "/parity",
                                       "/parity/tolerance",
                                       "/parity/tolerance/max_relative",
                                       "/parity/tolerance/min_cosine",
                                       "/parity/tolerance/min_snr_db",
                                       "/parity/tolerance/min_top1_agreement",
                                       "/files",
                                       "/files/model.onnx/path",
                                       "/files/model.onnx/sha256",
                                       "/files/model.onnx/bytes"};
        for (const char* engine : {"", "/engine", "/extra_engines/0/engine"}) {
            for (const char* side : {"/inputs", "/outputs"}) {
                found.push_back(std::string(engine) + side);
                for (const char* field : {"/0/name", "/0/dtype", "/0/shape", "/0/layout"}) {
                    found.push_back(std::string(engine) + side + field);
                }
            }
        }
        for (const char* engine : {"/engine", "/extra_engines/0/engine"}) {
            for (const char* field :
                 {"/backend", "/version", "/file", "/file/path", "/file/sha256", "/file/bytes", "/build"}) {
                found.push_back(std::string(engine) + field);
            }
        }
        return found;
    }();
    return all;
}

const std::vector<std::string> paths{"/graph/file",           "/labels",
                                     "/engine/file/path",     "/extra_engines/0/engine/file/path",
                                     "/golden/inputs/input",  "/golden/outputs/logits",
                                     "/files/model.onnx/path"};

}  // namespace

TEST_CASE("a plain manifest is understood") {
    const Manifest manifest = parsed(plain_manifest());
    CHECK(manifest.model == "resnet18");
    CHECK(manifest.precision == "fp32");
    CHECK(manifest.head == "logits");
    CHECK_FALSE(manifest.trained);
    CHECK(manifest.graph == "model.onnx");
    CHECK_FALSE(manifest.labels.has_value());
    REQUIRE(manifest.inputs.size() == 1);
    CHECK(manifest.inputs[0].name == "input");
    CHECK(manifest.inputs[0].type == DataType::float32);
    CHECK(manifest.inputs[0].shape == std::vector<std::int64_t>{-1, 3, 64, 64});
    CHECK(manifest.inputs[0].layout == "NCHW");
    REQUIRE(manifest.outputs.size() == 1);
    CHECK(manifest.outputs[0].shape == std::vector<std::int64_t>{-1, 10});
    CHECK(manifest.batch.minimum == 1);
    CHECK(manifest.batch.optimum == 8);
    CHECK(manifest.batch.maximum == 32);
    CHECK(manifest.golden.count == 2);
    CHECK(manifest.golden.inputs.at("input") == "golden/in.input.npy");
    CHECK(manifest.golden.outputs.at("logits") == "golden/out.logits.npy");
    CHECK(manifest.files.size() == 3);
    CHECK(manifest.files.at("model.onnx").bytes == 44'719'628);
}

TEST_CASE("a manifest without preprocessing is that of a bundle that takes no images") {
    const Manifest manifest = parsed(tensors_manifest());
    CHECK_FALSE(manifest.takes_images);
    CHECK(manifest.preprocessing.height == 0);
    CHECK(manifest.head == "tensors");
    CHECK(manifest.oracle == "the original file in ONNX Runtime 1.31.1");
    CHECK(parsed(plain_manifest()).takes_images);
    CHECK(parsed(plain_manifest()).oracle == "eager PyTorch");
}

TEST_CASE("several inputs and outputs are understood, of any name, type and rank") {
    const Manifest manifest = parsed(tensors_manifest());
    REQUIRE(manifest.inputs.size() == 2);
    CHECK(manifest.inputs[0].name == "data/x:0");
    CHECK(manifest.inputs[0].type == DataType::float16);
    CHECK(manifest.inputs[1].name == "token ids");
    CHECK(manifest.inputs[1].type == DataType::int64);
    REQUIRE(manifest.outputs.size() == 4);
    CHECK(manifest.outputs[1].shape == std::vector<std::int64_t>{-1, 4, 3});
    CHECK(manifest.outputs[1].layout == "ND");
    CHECK(manifest.outputs[2].shape == std::vector<std::int64_t>{-1});
    CHECK(manifest.golden.inputs.at("data/x:0") == "golden/in.data%2Fx%3A0.npy");
    CHECK(manifest.golden.outputs.at("out/score of it") == "golden/out.out%2Fscore of it.npy");
}

TEST_CASE("a network of one channel has one number as mean and std") {
    auto grey = changed(plain_manifest(), "/model/preprocessing/channels", "grey");
    CHECK(refused(grey).what() == doctest::Contains("one number per channel"));
    grey = changed(grey, "/model/preprocessing/mean", nlohmann::json::array({0.25}));
    const auto read = parsed(changed(grey, "/model/preprocessing/std", nlohmann::json::array({2.0}))).preprocessing;
    CHECK(read.grey);
    CHECK(read.mean == std::array<double, 3>{0.25, 0.25, 0.25});
    CHECK(read.std == std::array<double, 3>{2.0, 2.0, 2.0});
    CHECK_FALSE(parsed(plain_manifest()).preprocessing.grey);
}

TEST_CASE("preprocessing is understood: sizes, arithmetic, order of channels and axes, and where it happens") {
    const auto host = parsed(plain_manifest()).preprocessing;
    CHECK(host.resize == 64);
    CHECK(host.height == 64);
    CHECK(host.width == 64);
    CHECK(host.scale == 1.0 / 255);
    CHECK(host.mean == std::array<double, 3>{0.485, 0.456, 0.406});
    CHECK(host.std == std::array<double, 3>{0.229, 0.224, 0.225});
    CHECK(host.channels == ChannelOrder::rgb);
    CHECK_FALSE(host.in_graph);
    const auto graph = parsed(rich_manifest()).preprocessing;
    CHECK(graph.channels == ChannelOrder::bgr);
    CHECK(graph.in_graph);
    CHECK(host.layout == ImageLayout::nchw);
    const auto last = parsed(changed(plain_manifest(), "/model/preprocessing/layout", "NHWC")).preprocessing;
    CHECK(last.layout == ImageLayout::nhwc);
}

TEST_CASE("engines are understood: the judged one first, then those beside it, with how they were built") {
    const auto engines = parsed(rich_manifest()).engines;
    REQUIRE(engines.size() == 2);
    CHECK(engines[0].backend == "onnxruntime");
    CHECK(engines[0].file.path == "engines/onnxruntime/onnxruntime.onnx");
    CHECK_FALSE(engines[0].build.has_value());
    CHECK(engines[1].backend == "tensorrt");
    CHECK(engines[1].version == "10.15.1");
    CHECK(engines[1].file.bytes == 123'456'789);
    CHECK(engines[1].inputs[0].type == DataType::uint8);
    REQUIRE(engines[1].build.has_value());
    CHECK(engines[1].build->platform == "Linux x86_64");
    CHECK(engines[1].build->compute_capabilities == std::vector<int>{86});
    CHECK_FALSE(engines[1].build->open_ended);
    CHECK(engines[1].build->version_compatible);
    CHECK_FALSE(engines[1].build->hardware_compatible);
    CHECK_FALSE(engines[1].build->strip_weights);
    CHECK_FALSE(engines[1].build->dla_core.has_value());
    const auto on_core = parsed(changed(rich_manifest(), "/extra_engines/0/engine/build/options/dla_core", 1)).engines;
    CHECK(on_core[1].build->dla_core == 1);
}

TEST_CASE("bounds are understood, and one that is not judged is none") {
    const auto derived = parsed(changed(changed(plain_manifest(), "/parity/tolerance/max_relative", nullptr),
                                        "/parity/tolerance/min_cosine", nullptr))
                             .tolerance;
    CHECK_FALSE(derived.max_relative.has_value());
    CHECK_FALSE(derived.min_cosine.has_value());
    const auto plain = parsed(plain_manifest()).tolerance;
    CHECK(plain.max_relative == 0.0005);
    CHECK(plain.min_cosine == 0.9999998);
    CHECK(plain.min_snr_db == 80.0);
    CHECK_FALSE(plain.min_top1_agreement.has_value());
    CHECK(parsed(rich_manifest()).tolerance.min_top1_agreement == 0.99);
}

TEST_CASE("text in any language comes through, escaped or not") {
    const std::string name = "réseau-🙂";
    const json content = changed(plain_manifest(), "/model/name", name);
    CHECK(deploykit::parse_manifest(content.dump(-1, ' ', true), "").model == name);
    CHECK(deploykit::parse_manifest(content.dump(4), "").model == name);
}

TEST_CASE("another schema version is refused by both numbers, before anything else is looked at") {
    for (const int version : {0, 1, 2, 3, 4, 5, 7, 1'000'000'000}) {
        const auto error = refused(json{{"schema_version", version}, {"unlike", "anything"}});
        CHECK(error.what() == doctest::Contains(("schema version " + std::to_string(version)).c_str()));
        CHECK(error.what() == doctest::Contains("reads version 6"));
    }
    CHECK(refused(seed("manifest/version7.json")).what() == doctest::Contains("schema version 7"));
}

TEST_CASE("a version that is no number, or no version, is refused") {
    for (const json& version : {json("6"), json(nullptr), json(true), json::array({6}), json(6.5), json(-6)}) {
        refused(changed(plain_manifest(), "/schema_version", version));
    }
    refused(changed(plain_manifest(), "/schema_version", 18'446'744'073'709'551'615U));
}

TEST_CASE("each field that is missing is refused by its name") {
    for (const std::string& field : fields()) {
        CAPTURE(field);
        const auto error = refused(without(rich_manifest(), field));
        CHECK(error.what() == doctest::Contains(json::json_pointer(field).back().c_str()));
    }
}

TEST_CASE("each field of a wrong type is refused by its name") {
    const std::vector<json> kinds{nullptr, true, -1, 1.5, "words", json::array(), json::object()};
    for (const std::string& field : fields()) {
        CAPTURE(field);
        const json::json_pointer place(field);
        const json good = rich_manifest().at(place);
        for (const json& kind : kinds) {
            const bool nullable = field == "/labels" || place.back() == "build" || place.back() == "preprocessing" ||
                                  place.back() == "max_relative" || place.back() == "min_cosine" ||
                                  place.back() == "min_top1_agreement";
            const bool same_type = kind.type() == good.type() || (kind.is_number() && good.is_number());
            const bool good_word = kind.is_string() && good.is_string();
            if ((kind.is_null() && nullable) || same_type || good_word) {
                continue;
            }
            CAPTURE(kind.dump());
            const auto error = refused(changed(rich_manifest(), field, kind));
            CHECK(error.what() == doctest::Contains(place.back().c_str()));
        }
    }
}

TEST_CASE("a number where only integers make sense must be one, and within its bounds") {
    for (const char* field : {"/batch/minimum", "/batch/maximum", "/golden/count", "/model/preprocessing/resize",
                              "/model/preprocessing/width", "/inputs/0/shape/1", "/engine/outputs/0/shape/1"}) {
        CAPTURE(field);
        for (const json& value : {json(0), json(-1), json(1.5), json(1e18), json(std::int64_t{1} << 62),
                                  json(std::uint64_t{1} << 63U), json(-(std::int64_t{1} << 62))}) {
            CAPTURE(value.dump());
            refused(changed(plain_manifest(), field, value));
        }
    }
}

TEST_CASE("sizes of files are not negative and fit in 63 bits") {
    for (const json& value : {json(-1), json(1.5), json(std::uint64_t{1} << 63U)}) {
        refused(changed(plain_manifest(), "/files/model.onnx/bytes", value));
        refused(changed(plain_manifest(), "/engine/file/bytes", value));
    }
    CHECK(parsed(changed(plain_manifest(), "/files/model.onnx/bytes", 0)).files.at("model.onnx").bytes == 0);
}

TEST_CASE("numbers that no double holds are refused") {
    const std::string text = changed(plain_manifest(), "/parity/tolerance/max_relative", "NUMBER").dump();
    for (const char* number :
         {"1e999", "-1e999", "NaN", "Infinity", "-Infinity", "nan", "0x10", "1.", ".5", "+1", "01"}) {
        CAPTURE(number);
        std::string replaced = text;
        refused(replaced.replace(replaced.find("\"NUMBER\""), 8, number));
    }
    std::string digits = text;
    refused(digits.replace(digits.find("\"NUMBER\""), 8, std::string(100'000, '9')));
}

TEST_CASE("scale and deviations are above zero, and there is one number per channel") {
    for (const char* field : {"/model/preprocessing/scale", "/model/preprocessing/std/1"}) {
        refused(changed(plain_manifest(), field, 0));
        refused(changed(plain_manifest(), field, -0.5));
    }
    for (const char* field : {"/model/preprocessing/mean", "/model/preprocessing/std"}) {
        refused(changed(plain_manifest(), field, json::array({0.5, 0.5})));
        refused(changed(plain_manifest(), field, json::array({0.5, 0.5, 0.5, 0.5})));
    }
}

TEST_CASE("a crop that is larger than what it is cut from is refused") {
    CHECK(refused(changed(plain_manifest(), "/model/preprocessing/height", 65)).what() == doctest::Contains("crop"));
    refused(changed(plain_manifest(), "/model/preprocessing/resize", 63));
}

TEST_CASE("batch sizes that do not go up are refused") {
    CHECK(refused(changed(plain_manifest(), "/batch/optimum", 33)).what() == doctest::Contains("batch"));
    refused(changed(plain_manifest(), "/batch/minimum", 9));
}

TEST_CASE("golden vectors that no batch holds are refused: all of their samples are run at once") {
    CHECK(refused(changed(plain_manifest(), "/golden/count", 33)).what() == doctest::Contains("golden.count"));
    CHECK(parsed(changed(plain_manifest(), "/golden/count", 32)).golden.count == 32);
    refused(changed(plain_manifest(), "/batch/minimum", 3));
}

TEST_CASE("words that are none of the choices are refused, and quoted") {
    for (const char* field : {"/precision", "/model/head", "/model/preprocess_in", "/model/preprocessing/channels",
                              "/inputs/0/dtype", "/inputs/0/layout"}) {
        CAPTURE(field);
        CHECK(refused(changed(plain_manifest(), field, "sideways")).what() == doctest::Contains("'sideways'"));
    }
    CHECK(refused(changed(plain_manifest(), "/inputs/0/dtype", "float64")).what() == doctest::Contains("'float64'"));
}

TEST_CASE("shapes have one to eight axes, of which only the first may be the batch") {
    for (const json& shape :
         {json::array(), json::array({"batch", 3, 64, "batch"}), json::array({1, 1, 1, 1, 1, 1, 1, 1, 1})}) {
        refused(changed(plain_manifest(), "/inputs/0/shape", shape));
    }
    CHECK(parsed(changed(plain_manifest(), "/inputs/0/shape", json::array({4, 3, 64, 64}))).inputs[0].shape[0] == 4);
}

TEST_CASE("tensors that no memory holds are refused") {
    const json huge = json::array({"batch", 2'000'000'000, 2'000'000'000, 2'000'000'000});
    refused(changed(plain_manifest(), "/inputs/0/shape", huge));
    refused(changed(plain_manifest(), "/engine/outputs/0/shape", huge));
}

TEST_CASE("a digest is 64 hexadecimal digits in lower case") {
    for (const std::string& digest :
         {""s, std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'A'), std::string(63, 'a') + "g"}) {
        CHECK(refused(changed(plain_manifest(), "/files/model.onnx/sha256", digest)).what() ==
              doctest::Contains("SHA-256"));
    }
}

TEST_CASE("a path that leaves the bundle is refused wherever it stands") {
    for (const std::string& field : paths) {
        for (const std::string& path : {"../model.onnx"s, "/etc/passwd"s, "a/../../b"s, ".."s, "."s, ""s, "a//b"s,
                                        "a\\b"s, "C:\\x"s, "./a"s, "a/"s, "a\0b"s}) {
            CAPTURE(field);
            CAPTURE(path);
            const auto error = refused(changed(rich_manifest(), field, path));
            CHECK(error.what() == doctest::Contains("leaves the bundle"));
        }
    }
}

TEST_CASE("a file whose name leaves the bundle is refused, though nothing speaks of it") {
    json content = plain_manifest();
    content["files"]["../x"] = {{"path", "../x"}, {"sha256", std::string(64, '0')}, {"bytes", 1}};
    CHECK(refused(content).what() == doctest::Contains("leaves the bundle"));
}

TEST_CASE("a file that is recorded under another name is refused") {
    json content = plain_manifest();
    content["files"]["other"] = {{"path", "another"}, {"sha256", std::string(64, '0')}, {"bytes", 1}};
    CHECK(refused(content).what() == doctest::Contains("'another'"));
}

TEST_CASE("a path that is spoken of but not among the files is refused") {
    for (const std::string& field : paths) {
        if (field.rfind("/files", 0) == 0) {
            continue;
        }
        CAPTURE(field);
        const auto error = refused(changed(rich_manifest(), field, "unlisted.bin"));
        CHECK(error.what() == doctest::Contains("'unlisted.bin', which is not among its files"));
    }
}

TEST_CASE("a network without inputs or outputs is refused") {
    for (const char* field : {"/inputs", "/outputs", "/engine/inputs", "/engine/outputs"}) {
        CHECK(refused(changed(plain_manifest(), field, json::array())).what() == doctest::Contains("empty"));
    }
}

TEST_CASE("a field that stands there twice is refused: one of its values would be hidden") {
    const std::string text = plain_manifest().dump();
    CHECK(refused("{\"precision\":\"int8\"," + text.substr(1)).what() == doctest::Contains("twice"));
    std::string inner = text;
    inner.insert(inner.find("\"minimum\""), "\"minimum\":1,");
    CHECK(refused(inner).what() == doctest::Contains("twice"));
}

TEST_CASE("equal names in different objects are no repetition") {
    CHECK_NOTHROW(
        deploykit::parse_manifest(R"({"a":{"x":[{"y":1},{"y":2}]},)" + plain_manifest().dump().substr(1), ""));
}

TEST_CASE("what is no JSON object is refused") {
    for (const std::string& text :
         {""s, " "s, "\n"s, "null"s, "4"s, "[]"s, "\"manifest\""s, "{"s, "}"s, "{]"s, "{\"schema_version\":6"s,
          "{'schema_version':6}"s, "<html></html>"s, "\0"s, "{\"schema_version\":6,}"s, "// comment\n{}"s}) {
        CAPTURE(text);
        refused(text);
    }
}

TEST_CASE("an empty object lacks its version") { CHECK(refused("{}"s).what() == doctest::Contains("schema_version")); }

TEST_CASE("a manifest that is cut off anywhere is refused") {
    const std::string whole = seed("manifest/fp32.json");
    for (std::size_t size = 0; size + 2 < whole.size(); size += 13) {
        const auto error = refusal([&] { deploykit::parse_manifest(whole.substr(0, size), "manifest.json"); });
        REQUIRE(error.code() == ErrorCode::bad_input);
    }
}

TEST_CASE("anything behind the document is refused") {
    const std::string whole = plain_manifest().dump();
    CHECK_NOTHROW(deploykit::parse_manifest(whole + " \r\n\t", "manifest.json"));
    for (const std::string& more : {"x"s, "{}"s, "]"s, ","s, "\0"s, whole}) {
        refused(whole + more);
    }
}

TEST_CASE("bytes that are no UTF-8 are refused, in names and in values") {
    for (const std::string& bytes : {"\xFF"s, "\xC0\xAF"s, "\xED\xA0\x80"s, "\xF5\x80\x80\x80"s, "\xC3"s}) {
        refused("{\"" + bytes + "\":1," + plain_manifest().dump().substr(1));
        std::string text = changed(plain_manifest(), "/model/name", "NAME").dump();
        refused(text.replace(text.find("NAME"), 4, bytes));
    }
    refused("{\"\\ud800\":1," + plain_manifest().dump().substr(1));
}

TEST_CASE("a byte order mark is refused, as Python refuses it") { refused("\xEF\xBB\xBF" + plain_manifest().dump()); }

TEST_CASE("UTF-16 is refused") {
    std::string wide = "\xFF\xFE";
    for (const char letter : plain_manifest().dump()) {
        wide += letter;
        wide += '\0';
    }
    refused(wide);
}

TEST_CASE("a hundred thousand brackets are refused, and no stack ends") {
    for (const char* bracket : {"[", "{\"a\":", "[{\"a\":"}) {
        std::string nested;
        for (int count = 0; count < 100'000; ++count) {
            nested += bracket;
        }
        refused(nested);
        CHECK(refused("{\"unknown\":" + nested + ",").what() == doctest::Contains("nested"));
    }
}

TEST_CASE("a hundred thousand values where one is expected are refused at once") {
    json many = json::array();
    for (int count = 0; count < 100'000; ++count) {
        many.push_back(0);
    }
    refused(changed(plain_manifest(), "/inputs", many));
    refused(changed(plain_manifest(), "/model/preprocessing/mean", many));
}

TEST_CASE("a message that quotes a manifest stays one readable line") {
    const std::string word = "\x1B[31m\n\r\t\x7F"s + "\0"s + std::string(100'000, 'x');
    for (const auto& error :
         {refused(changed(plain_manifest(), "/precision", word)), refused(changed(plain_manifest(), "/labels", word)),
          refused(changed(plain_manifest(), "/files", {{word, 1}})), refused("{\"" + std::string(100'000, 'x')),
          refused("{\"schema_version\":\xFF\xFE\x1B"s)}) {
        const std::string said = error.what();
        CHECK(said == error.where() + ": " + error.problem() + " " + error.remedy());
        CHECK(said.find_first_of("\x1B\n\r\t\x7F\xFF") == std::string::npos);
    }
}
