// The C interface says what the C++ one says, in codes and words, and nothing that is thrown passes it.
//
// No engine runs here: tests/test_cpp_package.py takes c_api_c99.c and Python's ctypes through a whole bundle.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bundle_folder.hpp"
#include "deploykit/deploykit.h"
#include "deploykit/deploykit.hpp"

namespace {

// How many allocations still succeed on this thread; below 0: all.
thread_local int allocations_left = -1;

struct Free {
    void operator()(deploykit_error* error) const { deploykit_error_free(error); }
    void operator()(deploykit_bundle* bundle) const { deploykit_bundle_free(bundle); }
    void operator()(deploykit_preprocessor* preprocessor) const { deploykit_preprocessor_free(preprocessor); }
};

template <class Handle>
using Owned = std::unique_ptr<Handle, Free>;

// The message of the error that `call` is to report with this code.
template <class Call>
std::string message_of(int code, const Call& call) {
    deploykit_error* error = nullptr;
    CHECK(call(&error) == code);
    const Owned<deploykit_error> owned(error);
    REQUIRE(error != nullptr);
    CHECK(deploykit_error_code(error) == code);
    CHECK(std::string(deploykit_error_message(error)) == std::string(deploykit_error_where(error)) + ": " +
                                                             deploykit_error_problem(error) + " " +
                                                             deploykit_error_remedy(error));
    return deploykit_error_message(error);
}

Owned<deploykit_bundle> opened(const std::filesystem::path& folder) {
    deploykit_bundle* bundle = nullptr;
    CHECK(deploykit_bundle_open(folder.c_str(), &bundle, nullptr) == DEPLOYKIT_OK);
    REQUIRE(bundle != nullptr);
    return Owned<deploykit_bundle>(bundle);
}

template <class T>
deploykit_tensor row_of(const std::vector<T>& values, std::int32_t type) {
    return {values.data(), type, 2, {1, static_cast<std::int64_t>(values.size())}};
}

// Calls with no memory at all, then with some, and always with more, until `enough` says so. How often it was called.
template <class Call, class Enough>
int with_more_and_more_memory(const Call& call, const Enough& enough) {
    for (int calls = 1, allocations = 0;; ++calls, allocations += 1 + allocations / 16) {
        deploykit_error* error = nullptr;
        allocations_left = allocations;
        const int code = call(&error);
        allocations_left = -1;
        const Owned<deploykit_error> owned(error);
        if (enough(code, error)) {
            return calls;
        }
    }
}

}  // namespace

void* operator new(std::size_t bytes, const std::nothrow_t& /*told apart*/) noexcept {
    if (allocations_left == 0) {
        return nullptr;
    }
    allocations_left -= allocations_left > 0 ? 1 : 0;
    return std::malloc(bytes == 0 ? 1 : bytes);
}

void* operator new(std::size_t bytes) {
    if (void* const memory = operator new(bytes, std::nothrow)) {
        return memory;
    }
    throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*bytes*/) noexcept { std::free(memory); }

TEST_CASE("an error has code, problem, place and remedy, those of the C++ exception") {
    const TemporaryFolder folder;
    const std::string place = (folder.path() / "none").string();
    deploykit_bundle* bundle = nullptr;
    const std::string message = message_of(DEPLOYKIT_BAD_INPUT, [&](deploykit_error** error) {
        return deploykit_bundle_open(place.c_str(), &bundle, error);
    });
    CHECK(bundle == nullptr);
    std::string thrown;
    try {
        const deploykit::Bundle none(place);
    } catch (const deploykit::Error& error) {
        thrown = error.what();
    }
    CHECK(message == thrown);
}

TEST_CASE("a caller without interest in words gets the code") {
    deploykit_bundle* bundle = nullptr;
    CHECK(deploykit_bundle_open("/nowhere/at all", &bundle, nullptr) == DEPLOYKIT_BAD_INPUT);
}

TEST_CASE("no error has no words, and frees like one") {
    CHECK(deploykit_error_code(nullptr) == DEPLOYKIT_OK);
    CHECK(std::string(deploykit_error_problem(nullptr)).empty());
    CHECK(std::string(deploykit_error_where(nullptr)).empty());
    CHECK(std::string(deploykit_error_remedy(nullptr)).empty());
    CHECK(std::string(deploykit_error_message(nullptr)).empty());
    deploykit_error_free(nullptr);
    deploykit_bundle_free(nullptr);
    deploykit_engine_free(nullptr);
    deploykit_context_free(nullptr);
    deploykit_preprocessor_free(nullptr);
}

TEST_CASE("success leaves no error behind") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    deploykit_bundle* bundle = nullptr;
    int nothing = 0;
    auto* error = reinterpret_cast<deploykit_error*>(&nothing);  // what a variable holds that was never set
    CHECK(deploykit_bundle_open(folder.path().c_str(), &bundle, &error) == DEPLOYKIT_OK);
    CHECK(error == nullptr);
    deploykit_bundle_free(bundle);
}

// Opening a bundle is left out: nlohmann_json's destructor allocates, and ends the program where it cannot.
TEST_CASE("memory that runs out is a code of its own, wherever that happens, and the next call finds all in order") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    const auto until_enough = [](int code, const deploykit_error* error) {
        CHECK((code == DEPLOYKIT_OK || code == DEPLOYKIT_OUT_OF_MEMORY));
        CHECK(error == nullptr);
        return code == DEPLOYKIT_OK;
    };
    deploykit_preprocessor* made = nullptr;
    CHECK(with_more_and_more_memory(
              [&](deploykit_error** error) { return deploykit_preprocessor_create(bundle.get(), &made, error); },
              until_enough) > 1);
    const Owned<deploykit_preprocessor> preprocessor(made);
    const std::vector<std::uint8_t> pixels(std::size_t{3} * 70 * 90, 128);
    const deploykit_image image{pixels.data(), 70, 90, DEPLOYKIT_RGB, 0};
    deploykit_tensor input;
    CHECK(with_more_and_more_memory(
              [&](deploykit_error** error) { return deploykit_preprocessor_run(made, &image, 1, &input, error); },
              until_enough) > 1);
    const std::vector<float> values{1, 3, 2};
    const deploykit_tensor scores = row_of(values, DEPLOYKIT_FLOAT32);
    std::array<deploykit_prediction, 3> best{};
    std::size_t count = 0;
    CHECK(with_more_and_more_memory(
              [&](deploykit_error** error) {
                  return deploykit_top_k(bundle.get(), &scores, 0, best.size(), best.data(), &count, error);
              },
              until_enough) > 1);
    CHECK(best[0].index == 1);
}

TEST_CASE("memory that runs out while a failure is told leaves its code, or is the failure") {
    deploykit_bundle* bundle = nullptr;
    const int calls = with_more_and_more_memory(
        [&](deploykit_error** error) { return deploykit_bundle_open("/nowhere/at all", &bundle, error); },
        [&](int code, const deploykit_error* error) {
            CHECK((code == DEPLOYKIT_BAD_INPUT || (code == DEPLOYKIT_OUT_OF_MEMORY && error == nullptr)));
            CHECK(bundle == nullptr);
            return error != nullptr;
        });
    CHECK(calls > 1);
}

TEST_CASE("an argument that is NULL is named") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    const std::vector<float> scores(10);
    const deploykit_tensor tensor = row_of(scores, DEPLOYKIT_FLOAT32);
    deploykit_bundle* no_bundle = nullptr;
    deploykit_engine* no_engine = nullptr;
    deploykit_context* no_context = nullptr;
    deploykit_preprocessor* preprocessor = nullptr;
    REQUIRE(deploykit_preprocessor_create(bundle.get(), &preprocessor, nullptr) == DEPLOYKIT_OK);
    const Owned<deploykit_preprocessor> owned(preprocessor);
    deploykit_bundle_description description;
    deploykit_batch_range batch;
    deploykit_prediction prediction;
    deploykit_tensor input;
    const deploykit_tensor_spec* specs = nullptr;
    const deploykit_tensor* outputs = nullptr;
    const deploykit_image image{};
    const char* text = nullptr;
    const char* const* texts = nullptr;
    int takes_images = 0;
    float value = 0;
    std::size_t count = 0;
    const auto named = [](const char* argument, const auto& call) {
        CAPTURE(argument);
        CHECK(message_of(DEPLOYKIT_USAGE, call) ==
              std::string("argument ") + argument + ": it is NULL. Pass a valid pointer.");
    };
    using Error = deploykit_error**;
    named("folder", [&](Error error) { return deploykit_bundle_open(nullptr, &no_bundle, error); });
    named("bundle", [&](Error error) { return deploykit_bundle_open("folder", nullptr, error); });
    named("bundle", [&](Error error) { return deploykit_bundle_describe(nullptr, &description, error); });
    named("description", [&](Error error) { return deploykit_bundle_describe(bundle.get(), nullptr, error); });
    named("bundle", [&](Error error) { return deploykit_bundle_takes_images(nullptr, &takes_images, error); });
    named("takes_images", [&](Error error) { return deploykit_bundle_takes_images(bundle.get(), nullptr, error); });
    named("bundle", [&](Error error) { return deploykit_bundle_labels(nullptr, &texts, &count, error); });
    named("labels", [&](Error error) { return deploykit_bundle_labels(bundle.get(), nullptr, &count, error); });
    named("count", [&](Error error) { return deploykit_bundle_labels(bundle.get(), &texts, nullptr, error); });
    named("bundle", [&](Error error) { return deploykit_engine_load(nullptr, nullptr, &no_engine, error); });
    named("engine", [&](Error error) { return deploykit_engine_load(bundle.get(), nullptr, nullptr, error); });
    named("engine", [&](Error error) { return deploykit_engine_inputs(nullptr, &specs, &count, error); });
    named("engine", [&](Error error) { return deploykit_engine_outputs(nullptr, &specs, &count, error); });
    named("engine", [&](Error error) { return deploykit_engine_batch(nullptr, &batch, error); });
    named("engine", [&](Error error) { return deploykit_engine_runtime(nullptr, &text, error); });
    named("engine", [&](Error error) { return deploykit_engine_file(nullptr, &text, error); });
    named("engine", [&](Error error) { return deploykit_engine_skipped_engines(nullptr, &texts, &count, error); });
    named("engine", [&](Error error) { return deploykit_context_create(nullptr, &no_context, error); });
    named("context", [&](Error error) { return deploykit_context_run(nullptr, &tensor, 1, &outputs, &count, error); });
    named("engine", [&](Error error) { return deploykit_self_test(bundle.get(), nullptr, error); });
    named("bundle", [&](Error error) { return deploykit_preprocessor_create(nullptr, &preprocessor, error); });
    named("preprocessor", [&](Error error) { return deploykit_preprocessor_create(bundle.get(), nullptr, error); });
    named("preprocessor", [&](Error error) { return deploykit_preprocessor_run(nullptr, &image, 1, &input, error); });
    named("images", [&](Error error) { return deploykit_preprocessor_run(owned.get(), nullptr, 1, &input, error); });
    named("input", [&](Error error) { return deploykit_preprocessor_run(owned.get(), &image, 1, nullptr, error); });
    named("scores",
          [&](Error error) { return deploykit_top_k(bundle.get(), nullptr, 0, 1, &prediction, &count, error); });
    named("predictions",
          [&](Error error) { return deploykit_top_k(bundle.get(), &tensor, 0, 1, nullptr, &count, error); });
    named("tensor", [&](Error error) { return deploykit_tensor_floats(nullptr, &value, 1, error); });
    named("values", [&](Error error) { return deploykit_tensor_floats(&tensor, nullptr, 10, error); });
}

TEST_CASE("a bundle tells what it is and the names of its classes") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), rich_manifest());
    const auto bundle = opened(folder.path());
    const deploykit::Bundle expected(folder.path());
    deploykit_bundle_description description;
    REQUIRE(deploykit_bundle_describe(bundle.get(), &description, nullptr) == DEPLOYKIT_OK);
    CHECK(description.model == expected.manifest().model);
    CHECK(description.precision == expected.manifest().precision);
    CHECK(description.head == expected.manifest().head);
    CHECK((description.trained != 0) == expected.manifest().trained);
    int takes_images = 0;
    REQUIRE(deploykit_bundle_takes_images(bundle.get(), &takes_images, nullptr) == DEPLOYKIT_OK);
    CHECK(takes_images == 1);
    const char* const* labels = nullptr;
    std::size_t count = 0;
    REQUIRE(deploykit_bundle_labels(bundle.get(), &labels, &count, nullptr) == DEPLOYKIT_OK);
    CHECK(std::vector<std::string>(labels, labels + count) == expected.labels());
    CHECK(count > 0);
}

TEST_CASE("an engine that no runtime can read is refused, and there is no handle") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    deploykit_engine* engine = nullptr;
    const deploykit_engine_options options{DEPLOYKIT_RUNTIME_ONNXRUNTIME, 1, 0, 0};
    message_of(DEPLOYKIT_BACKEND,
               [&](deploykit_error** error) { return deploykit_engine_load(bundle.get(), &options, &engine, error); });
    CHECK(engine == nullptr);
}

TEST_CASE("a number that is none of an enumeration's is refused") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    deploykit_engine* engine = nullptr;
    for (const std::int32_t number : {-1, 3, 1 << 30}) {
        const deploykit_engine_options options{number, 0, 0, 0};
        const std::string message = message_of(DEPLOYKIT_USAGE, [&](deploykit_error** error) {
            return deploykit_engine_load(bundle.get(), &options, &engine, error);
        });
        CHECK(message.find(std::to_string(number)) != std::string::npos);
    }
    const float value = 0;
    float read = 0;
    for (const std::int32_t number : {-1, 6, std::numeric_limits<std::int32_t>::max()}) {
        const deploykit_tensor tensor{&value, number, 1, {1}};
        CHECK(deploykit_tensor_floats(&tensor, &read, 1, nullptr) == DEPLOYKIT_USAGE);
    }
}

TEST_CASE("elements of every type are read as floats") {
    const auto read = [](const auto& values, std::int32_t type) {
        const deploykit_tensor tensor = row_of(values, type);
        std::vector<float> floats(values.size());
        CHECK(deploykit_tensor_floats(&tensor, floats.data(), floats.size(), nullptr) == DEPLOYKIT_OK);
        return floats;
    };
    CHECK(read(std::vector<float>{1.5F, -2}, DEPLOYKIT_FLOAT32) == std::vector<float>{1.5F, -2});
    CHECK(read(std::vector<std::uint16_t>{0x3E00, 0xC000}, DEPLOYKIT_FLOAT16) == std::vector<float>{1.5F, -2});
    CHECK(read(std::vector<std::uint8_t>{0, 255}, DEPLOYKIT_UINT8) == std::vector<float>{0, 255});
    CHECK(read(std::vector<std::int8_t>{-128, 127}, DEPLOYKIT_INT8) == std::vector<float>{-128, 127});
    CHECK(read(std::vector<std::int32_t>{-70000, 70000}, DEPLOYKIT_INT32) == std::vector<float>{-70000, 70000});
    CHECK(read(std::vector<std::int64_t>{-7, 1 << 20}, DEPLOYKIT_INT64) == std::vector<float>{-7, 1048576});
}

TEST_CASE("a tensor that cannot be is refused before it is read") {
    const float value = 0;
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    deploykit_tensor tensor{&value, DEPLOYKIT_FLOAT32, 1, {1}};
    std::size_t count = 1;
    SUBCASE("more axes than there are") { tensor.rank = 9; }
    SUBCASE("a negative size") { tensor.shape[0] = -1; }
    SUBCASE("more elements than there are addresses") {
        tensor.rank = 3;
        tensor.shape[0] = tensor.shape[1] = tensor.shape[2] = most;
    }
    SUBCASE("more bytes than there are addresses") { tensor.shape[0] = most; }
    SUBCASE("no data") { tensor.data = nullptr; }
    SUBCASE("another number of elements") { count = 2; }
    std::array<float, 2> read{};
    message_of(DEPLOYKIT_USAGE,
               [&](deploykit_error** error) { return deploykit_tensor_floats(&tensor, read.data(), count, error); });
}

TEST_CASE("images become the batch that the C++ preprocessor makes") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    std::vector<std::uint8_t> pixels(std::size_t{3} * 70 * 90);
    for (std::size_t index = 0; index < pixels.size(); ++index) {
        pixels[index] = static_cast<std::uint8_t>(index * 37 % 251);
    }
    const deploykit_image rgb{pixels.data(), 70, 90, DEPLOYKIT_RGB, 0};
    const deploykit_image bgr{pixels.data(), 70, 80, DEPLOYKIT_BGR, 270};
    const std::array<deploykit_image, 2> images{rgb, bgr};
    deploykit_preprocessor* made = nullptr;
    REQUIRE(deploykit_preprocessor_create(bundle.get(), &made, nullptr) == DEPLOYKIT_OK);
    const Owned<deploykit_preprocessor> preprocessor(made);
    deploykit_tensor input;
    REQUIRE(deploykit_preprocessor_run(made, images.data(), images.size(), &input, nullptr) == DEPLOYKIT_OK);

    deploykit::Preprocessor preprocess{deploykit::Bundle(folder.path())};
    const deploykit::TensorView expected =
        preprocess({{pixels.data(), 70, 90}, {pixels.data(), 70, 80, deploykit::ChannelOrder::bgr, 270}});
    CHECK(input.type == static_cast<std::int32_t>(expected.type()));
    REQUIRE(std::vector<std::int64_t>(input.shape, input.shape + input.rank) ==
            std::vector<std::int64_t>(expected.shape().begin(), expected.shape().end()));
    const auto* got = static_cast<const float*>(input.data);
    const auto* wanted = expected.as<float>();
    CHECK(std::vector<float>(got, got + expected.elements()) ==
          std::vector<float>(wanted, wanted + expected.elements()));
}

TEST_CASE("a bundle that takes no images says so, and no preprocessor is made from it") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), tensors_manifest());
    const auto bundle = opened(folder.path());
    int takes_images = 1;
    REQUIRE(deploykit_bundle_takes_images(bundle.get(), &takes_images, nullptr) == DEPLOYKIT_OK);
    CHECK(takes_images == 0);
    deploykit_preprocessor* made = nullptr;
    const std::string message = message_of(DEPLOYKIT_USAGE, [&](deploykit_error** error) {
        return deploykit_preprocessor_create(bundle.get(), &made, error);
    });
    CHECK(made == nullptr);
    CHECK(message.find("this bundle takes no images") != std::string::npos);
}

TEST_CASE("an image without pixels is bad input, and no image at all wrong usage") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), plain_manifest());
    const auto bundle = opened(folder.path());
    deploykit_preprocessor* made = nullptr;
    REQUIRE(deploykit_preprocessor_create(bundle.get(), &made, nullptr) == DEPLOYKIT_OK);
    const Owned<deploykit_preprocessor> preprocessor(made);
    const deploykit_image image{nullptr, 10, 10, DEPLOYKIT_RGB, 0};
    deploykit_tensor input;
    message_of(DEPLOYKIT_BAD_INPUT,
               [&](deploykit_error** error) { return deploykit_preprocessor_run(made, &image, 1, &input, error); });
    message_of(DEPLOYKIT_USAGE,
               [&](deploykit_error** error) { return deploykit_preprocessor_run(made, &image, 0, &input, error); });
}

TEST_CASE("the best classes come with the bundle's labels, and without one where it has none") {
    const TemporaryFolder folder;
    write_bundle(folder.path(), rich_manifest());
    const auto bundle = opened(folder.path());
    const deploykit::Bundle expected(folder.path());
    const std::size_t named = expected.labels().size();
    std::vector<float> values(named + 1);
    values[0] = 1;
    values[named] = 2;  // a class that no label is for
    const deploykit_tensor scores = row_of(values, DEPLOYKIT_FLOAT32);
    std::vector<deploykit_prediction> best(values.size() + 5);
    std::size_t count = 0;
    REQUIRE(deploykit_top_k(bundle.get(), &scores, 0, best.size(), best.data(), &count, nullptr) == DEPLOYKIT_OK);
    CHECK(count == values.size());
    CHECK(best[0].index == named);
    CHECK(best[0].label == nullptr);
    CHECK(best[1].index == 0);
    CHECK(std::string(best[1].label) == expected.labels()[0]);
    CHECK(best[0].probability > best[1].probability);
    message_of(DEPLOYKIT_USAGE, [&](deploykit_error** error) {
        return deploykit_top_k(bundle.get(), &scores, 1, 1, best.data(), &count, error);
    });
}
