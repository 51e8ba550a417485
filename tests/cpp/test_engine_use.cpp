// Engines in wrong hands: what does not fit is refused in words, and what fits gives equal answers in any order.
//
// DEPLOYKIT_TEST_BUNDLE names the bundle of a classifier with one float32 image as input, a batch chosen at run time
// that may be above 2, and answers in FP32.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bundle_folder.hpp"
#include "deploykit/deploykit.hpp"
#include "npy.hpp"
#include "refusal.hpp"

using deploykit::Bundle;
using deploykit::Context;
using deploykit::DataType;
using deploykit::Engine;
using deploykit::ErrorCode;
using deploykit::Shape;
using deploykit::TensorView;
namespace fs = std::filesystem;

namespace {

// The folder to test with; null, with a message, where none is given.
const char* given_bundle() {
    const char* folder = std::getenv("DEPLOYKIT_TEST_BUNDLE");
    if (folder == nullptr) {
        MESSAGE("skipped: DEPLOYKIT_TEST_BUNDLE names no bundle");
    }
    return folder;
}

// An emulated processor would spend minutes on threads that wait for each other by spinning.
deploykit::EngineOptions one_thread() {
    deploykit::EngineOptions options;
    options.threads = 1;
    return options;
}

// A loaded engine with images that differ from each other: N×3×H×W.
struct Loaded {
    explicit Loaded(const char* folder) : bundle(folder), engine(bundle, one_thread()), spec(engine.inputs().front()) {
        REQUIRE(engine.inputs().size() == 1);
        REQUIRE(spec.type == DataType::float32);
        REQUIRE(spec.shape.front() == -1);
        REQUIRE(maximum() > 2);
        pixels.resize(static_cast<std::size_t>(shape(maximum() + 1).elements()));
        for (std::size_t index = 0; index < pixels.size(); ++index) {
            pixels[index] = std::sin(static_cast<float>(index % 100'003) * 0.37F);
        }
    }

    std::int64_t maximum() const { return engine.batch().maximum; }

    Shape shape(std::int64_t batch) const {
        Shape found(spec.shape);
        found[0] = batch;
        return found;
    }

    // `batch` images, the first of them number `first`.
    TensorView images(std::int64_t batch, std::int64_t first = 0) const {
        return {pixels.data() + first * shape(1).elements(), shape(batch)};
    }

    Bundle bundle;
    Engine engine;
    deploykit::TensorSpec spec;
    std::vector<float> pixels;
};

std::vector<float> copied(const TensorView& output) {
    return {output.as<float>(), output.as<float>() + output.elements()};
}

std::vector<float> answers(Context& context, const TensorView& images) { return copied(context.run(images)); }

// Kernels may sum in another order for another batch: no more than rounding may differ.
void check_close(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    float largest = 0;
    float difference = 0;
    for (std::size_t index = 0; index < a.size(); ++index) {
        largest = std::max(largest, std::abs(a[index]));
        difference = std::max(difference, std::abs(a[index] - b[index]));
    }
    CHECK(difference <= 1e-5F * largest);
}

// A wrong input is refused as wrong use, with what it is and what is expected; the context works on afterwards.
void check_refused(const Loaded& loaded, const TensorView& input, const std::vector<std::string>& words) {
    Context context = loaded.engine.context();
    const std::vector<float> before = answers(context, loaded.images(1));
    const auto error = refusal([&] { context.run(input); });
    CHECK(error.code() == ErrorCode::usage);
    CHECK(error.where() == "input '" + loaded.spec.name + "'");
    for (const std::string& word : words) {
        CHECK(error.what() == doctest::Contains(word.c_str()));
    }
    CHECK(answers(context, loaded.images(1)) == before);
}

// A copy of a bundle, in which files may be written anew.
struct Copied {
    explicit Copied(const char* from) { fs::copy(from, folder, fs::copy_options::recursive); }

    // The file as `content`, and its digest recorded: what no digest can reveal.
    void forge(const std::string& path, const std::string& content) const {
        write(folder / path, content);
        auto manifest = nlohmann::json::parse(read(folder / "manifest.json"));
        manifest["files"][path]["bytes"] = content.size();
        manifest["files"][path]["sha256"] = deploykit::sha256(folder / path);
        write(folder / "manifest.json", manifest.dump());
    }

    TemporaryFolder parent;
    fs::path folder = parent.path() / "bundle";
};

deploykit::Error failed_self_test(const fs::path& folder) {
    const Bundle bundle(folder);
    const Engine engine(bundle, one_thread());
    auto error = refusal([&] { deploykit::self_test(bundle, engine); });
    CHECK(error.code() == ErrorCode::check_failed);
    return error;
}

}  // namespace

TEST_CASE("inputs that do not fit are refused with the given and the expected") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    const Shape one = loaded.shape(1);
    const std::int64_t most = loaded.maximum();
    SUBCASE("another type") {
        check_refused(loaded, {loaded.pixels.data(), DataType::uint8, one}, {"uint8", "float32"});
        check_refused(loaded, {loaded.pixels.data(), DataType::float16, one}, {"float16", "float32"});
    }
    SUBCASE("another rank") {
        const Shape three{one[1], one[2], one[3]};
        check_refused(loaded, {loaded.pixels.data(), three}, {three.text()});
        const Shape five{1, one[1], one[2], one[3], 1};
        check_refused(loaded, {loaded.pixels.data(), five}, {five.text(), one.text()});
        check_refused(loaded, {loaded.pixels.data(), Shape()}, {Shape().text()});
    }
    SUBCASE("another size") {
        for (std::size_t axis = 1; axis < 4; ++axis) {
            for (const std::int64_t size : {one[axis] - 1, one[axis] + 1, std::int64_t{0}, std::int64_t{-1}}) {
                Shape other = one;
                other[axis] = size;
                check_refused(loaded, {loaded.pixels.data(), other}, {other.text(), one.text()});
            }
        }
    }
    SUBCASE("height and width before the channels") {
        const Shape last{1, one[2], one[3], one[1]};
        check_refused(loaded, {loaded.pixels.data(), last}, {last.text(), one.text()});
    }
    SUBCASE("a batch that is none") {
        check_refused(loaded, loaded.images(0), {loaded.shape(0).text(), "1 to " + std::to_string(most)});
        check_refused(loaded, {loaded.pixels.data(), loaded.shape(-1)}, {loaded.shape(-1).text()});
        check_refused(loaded, {loaded.pixels.data(), loaded.shape(std::numeric_limits<std::int64_t>::min())}, {"1 to"});
    }
    SUBCASE("a batch above the largest") {
        check_refused(loaded, loaded.images(most + 1), {loaded.shape(most + 1).text(), "1 to " + std::to_string(most)});
        check_refused(loaded, {loaded.pixels.data(), loaded.shape(std::numeric_limits<std::int64_t>::max())}, {"1 to"});
    }
    SUBCASE("sizes whose product is beyond 64 bits") {
        constexpr std::int64_t huge = std::int64_t{1} << 62;
        check_refused(loaded, {loaded.pixels.data(), Shape{1, huge, huge, huge}}, {one.text()});
    }
    SUBCASE("no data") {
        check_refused(loaded, {static_cast<const float*>(nullptr), one}, {"no data"});
        check_refused(loaded, {}, {});
    }
}

TEST_CASE("another number of inputs is refused with both numbers") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    Context context = loaded.engine.context();
    for (const std::size_t count : {std::size_t{0}, std::size_t{2}, std::size_t{100}}) {
        const auto error = refusal([&] { context.run(std::vector<TensorView>(count, loaded.images(1))); });
        CHECK(error.code() == ErrorCode::usage);
        CHECK(error.what() == doctest::Contains((std::to_string(count) + " inputs").c_str()));
        CHECK(error.what() == doctest::Contains("has 1"));
    }
    CHECK(refusal([&] { context.run(nullptr, 1); }).code() == ErrorCode::usage);
}

TEST_CASE("the same images give the same answers, whatever batch they come in and whatever ran before") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    Context context = loaded.engine.context();
    std::vector<std::vector<float>> first;
    const std::vector<std::int64_t> batches{1, 2, loaded.maximum()};
    for (const std::int64_t batch : batches) {
        first.push_back(answers(context, loaded.images(batch)));
    }
    for (const std::size_t index : {2U, 0U, 1U, 0U, 2U, 2U, 1U}) {
        CHECK(answers(context, loaded.images(batches[index])) == first[index]);
    }
    std::vector<float> singly;
    for (std::int64_t image = 0; image < loaded.maximum(); ++image) {
        const std::vector<float> row = answers(context, loaded.images(1, image));
        singly.insert(singly.end(), row.begin(), row.end());
    }
    check_close(singly, first[2]);
    check_close({singly.begin(), singly.begin() + static_cast<std::ptrdiff_t>(first[1].size())}, first[1]);
    CHECK(std::vector<float>(singly.begin(), singly.begin() + static_cast<std::ptrdiff_t>(first[0].size())) ==
          first[0]);
}

TEST_CASE("outputs have the shape that the engine promises, with the batch that was given") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    Context context = loaded.engine.context();
    for (const std::int64_t batch : {std::int64_t{1}, loaded.maximum(), std::int64_t{2}}) {
        Shape expected(loaded.engine.outputs().front().shape);
        expected[0] = batch;
        const std::vector<TensorView>& outputs = context.run(std::vector<TensorView>{loaded.images(batch)});
        REQUIRE(outputs.size() == loaded.engine.outputs().size());
        CHECK(outputs.front().shape() == expected);
        CHECK(outputs.front().type() == DataType::float32);
    }
}

TEST_CASE("a context outlives its engine and its bundle") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    auto loaded = std::make_unique<Loaded>(folder);
    Context context = loaded->engine.context();
    const std::vector<float> before = answers(context, loaded->images(2));
    const std::vector<float> pixels = loaded->pixels;
    const Shape shape = loaded->shape(2);
    loaded.reset();
    CHECK(answers(context, {pixels.data(), shape}) == before);
    Context moved = std::move(context);
    CHECK(answers(moved, {pixels.data(), shape}) == before);
}

TEST_CASE("contexts of one engine do not disturb each other") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    Context alone = loaded.engine.context();
    const std::vector<float> one = answers(alone, loaded.images(1));
    const std::vector<float> other = answers(alone, loaded.images(2, 1));
    Context a = loaded.engine.context();
    Context b = loaded.engine.context();
    for (int round = 0; round < 3; ++round) {
        const TensorView& from_a = a.run(loaded.images(1));
        const TensorView& from_b = b.run(loaded.images(2, 1));
        CHECK(copied(from_a) == one);  // a's answer still stands after b's call
        CHECK(copied(from_b) == other);
    }
}

TEST_CASE("top_k gives the best classes, and refuses what are no scores") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    const std::vector<float> values{1, 3, 2, -std::numeric_limits<float>::infinity(), 5, 5};
    const TensorView scores(values.data(), Shape{2, 3});
    const auto best = deploykit::top_k(scores, 2, loaded.bundle);
    REQUIRE(best.size() == 2);
    CHECK(best[0].index == 1);
    CHECK(best[1].index == 2);
    CHECK(best[0].probability == doctest::Approx(1 / (1 + std::exp(-1.0) + std::exp(-2.0))));
    CHECK(deploykit::top_k(scores, 0, loaded.bundle).empty());
    CHECK(deploykit::top_k(scores, 1000, loaded.bundle).size() == 3);
    const auto tied = deploykit::top_k(scores, 3, loaded.bundle, 1);
    CHECK(tied[0].index == 1);
    CHECK(tied[1].index == 2);
    CHECK(tied[2].probability == 0.0F);
    for (const std::size_t sample : {std::size_t{2}, std::numeric_limits<std::size_t>::max()}) {
        const auto error = refusal([&] { deploykit::top_k(scores, 1, loaded.bundle, sample); });
        CHECK(error.code() == ErrorCode::usage);
        CHECK(error.what() == doctest::Contains("2×3"));
    }
    CHECK(deploykit::top_k({values.data(), Shape{2, 3, 1, 1}}, 1, loaded.bundle)[0].index == 1);
    for (const Shape& shape : {Shape{6}, Shape{1, 2, 3}, Shape{6, 0}, Shape{}, Shape{-1, 3}, Shape{2, -3},
                               Shape{1, 3, 2, 1}, Shape{1, 3, 1, 2}}) {
        CAPTURE(shape.text());
        CHECK(refusal([&] { deploykit::top_k({values.data(), shape}, 1, loaded.bundle); }).code() == ErrorCode::usage);
    }
    const TensorView nothing(static_cast<const float*>(nullptr), Shape{2, 3});
    CHECK(refusal([&] { deploykit::top_k(nothing, 1, loaded.bundle); }).code() == ErrorCode::usage);
}

TEST_CASE("top_k orders by scores, also where probabilities are too small to differ") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    const std::vector<float> far{-900, -800, 1000};
    const auto best = deploykit::top_k({far.data(), Shape{1, 3}}, 3, loaded.bundle);
    CHECK(best[1].index == 1);
    const std::vector<float> infinite{1, std::numeric_limits<float>::infinity(), 2};
    CHECK(deploykit::top_k({infinite.data(), Shape{1, 3}}, 1, loaded.bundle)[0].index == 1);
    const std::vector<float> unknown{std::numeric_limits<float>::quiet_NaN(), 1, 2};
    CHECK(deploykit::top_k({unknown.data(), Shape{1, 3}}, 1, loaded.bundle)[0].index == 2);
}

TEST_CASE("top_k refuses what tells no classes apart") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
    for (const char* head : {"embedding", "tensors"}) {
        manifest["model"]["head"] = head;
        write(copy.folder / "manifest.json", manifest.dump());
        const std::vector<float> values{1, 2};
        const Bundle bundle(copy.folder);
        const auto error = refusal([&] { deploykit::top_k({values.data(), Shape{1, 2}}, 1, bundle); });
        CHECK(error.code() == ErrorCode::usage);
        CHECK(error.what() == doctest::Contains(head));
    }
}

TEST_CASE("the self-test passes what was exported, with figures") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Loaded loaded(folder);
    CHECK_NOTHROW(deploykit::self_test(loaded.bundle, loaded.engine));
    const deploykit::SelfTest result = deploykit::compare_golden(loaded.bundle, loaded.engine);
    CHECK(result.passed());
    REQUIRE(result.outputs.size() == 1);
    CHECK(result.outputs[0].cosine >= loaded.bundle.manifest().tolerance.min_cosine);
}

TEST_CASE("the self-test fails an answer that was changed together with its digest, naming each bound") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    const std::string output = Bundle(folder).manifest().golden.outputs.begin()->second;
    std::string content = read(copy.folder / output);
    content[content.size() - 1] = '\x41';  // the last float becomes about ten, far from what any network gives here
    copy.forge(output, content);
    const auto error = failed_self_test(copy.folder);
    CHECK(error.what() == doctest::Contains("differ from those of eager PyTorch"));
    CHECK(error.what() == doctest::Contains("the largest difference is"));
    CHECK(error.what() == doctest::Contains("cosine"));
    CHECK(error.what() == doctest::Contains("signal-to-noise ratio"));
    CHECK(error.what() == doctest::Contains("above the bound of"));
}

TEST_CASE("the self-test fails an answer that is NaN") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    const std::string output = Bundle(folder).manifest().golden.outputs.begin()->second;
    std::string content = read(copy.folder / output);
    content.replace(content.size() - 4, 4, std::string("\x00\x00\xC0\x7F", 4));
    copy.forge(output, content);
    CHECK(failed_self_test(copy.folder).what() == doctest::Contains("bound"));
}

TEST_CASE("the self-test refuses golden files that are not what the network takes and gives") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    const auto golden = Bundle(folder).manifest().golden;
    const std::string& input = golden.inputs.begin()->second;
    const std::string& output = golden.outputs.begin()->second;
    SUBCASE("no array at all") {
        copy.forge(input, "no array");
        CHECK(failed_self_test(copy.folder).what() == doctest::Contains("not an .npy file"));
    }
    SUBCASE("the answers in the questions' place") {
        copy.forge(input, read(copy.folder / output));
        CHECK(failed_self_test(copy.folder).what() == doctest::Contains("not float32"));
    }
    SUBCASE("an array of another type") {
        copy.forge(output, seed("npy/uint8_v2.npy"));
        CHECK(failed_self_test(copy.folder).what() == doctest::Contains("uint8 1×2×2×3"));
    }
    SUBCASE("an array cut off, though its digest is right") {
        const std::string whole = read(copy.folder / output);
        copy.forge(output, whole.substr(0, whole.size() - 4));
        CHECK(failed_self_test(copy.folder).what() == doctest::Contains("shorter than its shape"));
    }
    SUBCASE("no array for an output") {
        auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
        manifest["golden"]["outputs"] = nlohmann::json::object();
        write(copy.folder / "manifest.json", manifest.dump());
        CHECK(failed_self_test(copy.folder).what() == doctest::Contains("no golden vector"));
    }
    SUBCASE("more rows than the manifest says") {
        auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
        manifest["golden"]["count"] = golden.count + 1;
        write(copy.folder / "manifest.json", manifest.dump());
        failed_self_test(copy.folder);
    }
}

TEST_CASE("an engine whose file is no graph is refused as such") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    const std::string file = Bundle(folder).manifest().engines.front().file.path;
    for (const std::string& content :
         {std::string(), std::string("no graph"), read(fs::path(folder) / file).substr(0, 5000)}) {
        copy.forge(file, content);
        auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
        manifest["engine"]["file"] = manifest["files"][file];
        write(copy.folder / "manifest.json", manifest.dump());
        const Bundle bundle(copy.folder);
        const auto error = refusal([&] { Engine{bundle}; });
        CHECK((error.code() == ErrorCode::backend || error.code() == ErrorCode::bad_input));
        CHECK(error.what() == doctest::Contains(file.c_str()));
    }
}

TEST_CASE("a graph that takes or gives differ from the manifest is refused before it runs") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
    for (const char* side : {"inputs", "outputs"}) {
        for (const auto& [field, value] : {std::pair{"name", "elsewhere"}, std::pair{"dtype", "int32"}}) {
            auto changed = manifest;
            changed[side][0][field] = value;
            write(copy.folder / "manifest.json", changed.dump());
            const Bundle bundle(copy.folder);
            const auto error = refusal([&] { Engine{bundle}; });
            CHECK(error.code() == ErrorCode::bad_input);
            CHECK(error.what() == doctest::Contains("differ from the manifest"));
        }
    }
}

TEST_CASE("a graph with other sizes than the manifest says ends in an error, and nothing is written beyond its place") {
    const char* folder = given_bundle();
    if (folder == nullptr) {
        return;
    }
    const Copied copy(folder);
    const Loaded loaded(folder);
    auto manifest = nlohmann::json::parse(read(copy.folder / "manifest.json"));
    Shape images = loaded.shape(2);
    SUBCASE("the graph gives more than the manifest says") { manifest["outputs"][0]["shape"][1] = 1; }
    SUBCASE("the graph gives less than the manifest says") { manifest["outputs"][0]["shape"][1] = 100'000; }
    SUBCASE("the graph gives another rank than the manifest says") {
        manifest["outputs"][0]["shape"] = nlohmann::json::array({"batch", 1, 1});
    }
    SUBCASE("the graph takes more than the manifest says") {
        manifest["inputs"][0]["shape"][2] = images[2] - 1;
        --images[2];
    }
    write(copy.folder / "manifest.json", manifest.dump());
    const Bundle bundle(copy.folder);
    const auto error = refusal([&] { Engine(bundle).context().run(TensorView(loaded.pixels.data(), images)); });
    CHECK((error.code() == ErrorCode::bad_input || error.code() == ErrorCode::backend));
}
