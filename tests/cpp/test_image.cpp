// Preprocessing: the same values as Python's, on the files that tests/test_cpp_images.py checks Python with.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "image_case.hpp"
#include "refusal.hpp"

using deploykit::Array;
using deploykit::ChannelOrder;
using deploykit::DataType;
using deploykit::ErrorCode;
using deploykit::Image;
using deploykit::Preprocessing;
using deploykit::Preprocessor;
using deploykit::Shape;
using deploykit::TensorView;

namespace {

std::atomic<std::size_t> allocations{0};
std::atomic<std::size_t> allocated_bytes{0};

}  // namespace

// Never inlined: g++ would warn of memory from a new that ends in a free.
[[gnu::noinline]] void* operator new(std::size_t size) {
    ++allocations;
    allocated_bytes += size;
    if (void* memory = std::malloc(size > 0 ? size : 1)) {
        return memory;
    }
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20U;

Preprocessing imagenet() {
    Preprocessing preprocessing;
    preprocessing.resize = 256;
    preprocessing.height = 224;
    preprocessing.width = 224;
    preprocessing.scale = 1.0 / 255;
    preprocessing.mean = {0.485, 0.456, 0.406};
    preprocessing.std = {0.229, 0.224, 0.225};
    return preprocessing;
}

// One colour and no more memory than a page, however large: reading memory that was never written costs none.
class BlackImage {
public:
    BlackImage(int height, int width) : height_(height), width_(width) {
        pixels_ = ::mmap(nullptr, bytes(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        REQUIRE(pixels_ != MAP_FAILED);
    }
    BlackImage(const BlackImage&) = delete;
    BlackImage& operator=(const BlackImage&) = delete;
    ~BlackImage() { ::munmap(pixels_, bytes()); }

    Image view() const { return {static_cast<const std::uint8_t*>(pixels_), height_, width_}; }

private:
    std::size_t bytes() const { return 3 * static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_); }

    int height_;
    int width_;
    void* pixels_;
};

std::vector<std::uint8_t> noise(int height, int width) {
    std::vector<std::uint8_t> pixels(3 * static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
    std::uint32_t state = 1;
    for (std::uint8_t& pixel : pixels) {
        state = state * 1664525U + 1013904223U;
        pixel = static_cast<std::uint8_t>(state >> 24U);
    }
    return pixels;
}

std::vector<float> values(const TensorView& view) {
    const auto* data = view.as<float>();
    return {data, data + view.elements()};
}

const nlohmann::json& cases() {
    static const nlohmann::json read = nlohmann::json::parse(deploykit::read_file("images/cases.json", mebibyte));
    return read;
}

std::string input_path(const nlohmann::json& written) {
    return "images/" + std::to_string(written["image"][0].get<int>()) + "x" +
           std::to_string(written["image"][1].get<int>()) + ".npy";
}

deploykit::Error refused(const Preprocessing& preprocessing, DataType type = DataType::float32) {
    return refusal([&] { const Preprocessor made(preprocessing, type); });
}

deploykit::Error refused(const Image& image) {
    return refusal([&] { Preprocessor(imagenet(), DataType::float32)(image); });
}

bool says(const deploykit::Error& error, const char* words) {
    return std::string(error.what()).find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("every golden image becomes what Python makes of it, bit for bit") {
    REQUIRE(cases().size() > 20);
    for (const nlohmann::json& written : cases()) {
        const auto name = written["name"].get<std::string>();
        CAPTURE(name);
        const ImageCase wanted = image_case(written);
        const Array expected = read_npy("images/" + name + ".npy");
        const LaidOutImage image(read_npy(input_path(written)), wanted);
        Preprocessor preprocessor(wanted.preprocessing, wanted.type);
        const TensorView made = preprocessor(image.view());
        CHECK(made.type() == expected.type);
        CHECK(made.shape() == expected.shape);
        REQUIRE(made.bytes() == expected.bytes.size());
        CHECK(std::memcmp(made.data(), expected.bytes.data(), made.bytes()) == 0);
    }
}

TEST_CASE("a batch of images of several sizes is each of them alone") {
    const auto small = noise(30, 41);
    const auto large = noise(401, 300);
    const std::vector<Image> images{{small.data(), 30, 41}, {large.data(), 401, 300}, {small.data(), 30, 41}};
    Preprocessor together(imagenet(), DataType::float32);
    const TensorView batch = together(images);
    CHECK(batch.shape() == Shape{3, 3, 224, 224});
    const std::vector<float> all = values(batch);
    const std::size_t one = all.size() / 3;
    Preprocessor alone(imagenet(), DataType::float32);
    for (std::size_t index = 0; index < 3; ++index) {
        CHECK(values(alone(images[index])) ==
              std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(index * one),
                                 all.begin() + static_cast<std::ptrdiff_t>((index + 1) * one)));
    }
}

TEST_CASE("a height and a width exchanged are another plan") {
    const auto pixels = noise(30, 41);
    Preprocessor used(imagenet(), DataType::float32);
    used(Image{pixels.data(), 30, 41});
    Preprocessor fresh(imagenet(), DataType::float32);
    const Image turned{pixels.data(), 41, 30};
    CHECK(values(used(turned)) == values(fresh(turned)));
}

TEST_CASE("an image that was refused leaves the preprocessor as good as new") {
    const auto pixels = noise(30, 41);
    const Image image{pixels.data(), 30, 41};
    Preprocessor preprocessor(imagenet(), DataType::float32);
    const std::vector<float> before = values(preprocessor(image));
    refusal([&] { preprocessor(Image{pixels.data(), 0, 41}); });
    CHECK(values(preprocessor(image)) == before);
}

TEST_CASE("a preprocessor can be moved") {
    const auto pixels = noise(30, 41);
    const Image image{pixels.data(), 30, 41};
    Preprocessor first(imagenet(), DataType::float32);
    const std::vector<float> before = values(first(image));
    Preprocessor second(std::move(first));
    CHECK(values(second(image)) == before);
}

TEST_CASE("sizes that were seen are preprocessed without an allocation") {
    const auto pixels = noise(400, 300);
    std::vector<Image> images{{pixels.data(), 400, 300}, {pixels.data(), 37, 53}, {pixels.data(), 300, 400}};
    for (const DataType type : {DataType::float32, DataType::float16, DataType::uint8}) {
        Preprocessing preprocessing = imagenet();
        preprocessing.in_graph = type == DataType::uint8;
        Preprocessor preprocessor(preprocessing, type);
        preprocessor(images);
        const std::size_t before = allocations;
        preprocessor(images);
        for (const Image& image : images) {
            preprocessor(image);
        }
        const std::size_t after = allocations;  // before CHECK, which allocates
        CHECK(after == before);
        CHECK(after > 0);  // they are counted at all
    }
}

TEST_CASE("an image of 1x1 pixels fills the input with its colour") {
    const std::array<std::uint8_t, 3> pixel{10, 20, 30};
    Preprocessor preprocessor(imagenet(), DataType::float32);
    const std::vector<float> made = values(preprocessor(Image{pixel.data(), 1, 1}));
    CHECK(made.front() == static_cast<float>((10 * (1.0 / 255) - 0.485) / 0.229));
    CHECK(made.back() == static_cast<float>((30 * (1.0 / 255) - 0.406) / 0.225));
}

TEST_CASE("an image of 20000x20000 pixels is preprocessed in little memory of its own") {
    const BlackImage image(20000, 20000);
    Preprocessor preprocessor(imagenet(), DataType::float32);
    const std::size_t before = allocated_bytes;
    const TensorView made = preprocessor(image.view());
    const std::size_t taken = allocated_bytes - before;
    CHECK(taken < 32 * mebibyte);
    CHECK(made.value(0) == static_cast<float>(-0.485 / 0.229));
}

TEST_CASE("an image without pixels is refused") {
    const std::array<std::uint8_t, 3> pixel{};
    for (const Image& image : {Image{}, Image{nullptr, 4, 4}, Image{pixel.data(), 0, 1}, Image{pixel.data(), 1, 0},
                               Image{pixel.data(), -1, 1}, Image{pixel.data(), 1, std::numeric_limits<int>::min()}}) {
        const deploykit::Error error = refused(image);
        CHECK(error.code() == ErrorCode::bad_input);
        CHECK(says(error, "no pixels"));
    }
}

TEST_CASE("a stride shorter than a row is refused, a negative one too") {
    const auto pixels = noise(4, 5);
    for (const std::ptrdiff_t stride :
         {std::ptrdiff_t{14}, std::ptrdiff_t{5}, std::ptrdiff_t{-15}, std::numeric_limits<std::ptrdiff_t>::min()}) {
        const deploykit::Error error = refused(Image{pixels.data(), 4, 5, ChannelOrder::rgb, stride});
        CHECK(error.code() == ErrorCode::bad_input);
        CHECK(says(error, "15 bytes each"));
    }
}

// These are looked at and refused before a pixel is read: one byte serves for all of them.
TEST_CASE("an image of more than 2^30 pixels is refused") {
    const std::uint8_t pixel = 0;
    const int most = std::numeric_limits<int>::max();
    for (const Image& image : {Image{&pixel, 1 << 15, (1 << 15) + 1}, Image{&pixel, most, most}, Image{&pixel, 1, most},
                               Image{&pixel, most, 1}}) {
        const deploykit::Error error = refused(image);
        CHECK(error.code() == ErrorCode::bad_input);
        CHECK(says(error, "2^30"));
    }
}

TEST_CASE("an image that would grow above 2^26 pixels is refused with what it would become") {
    const std::uint8_t pixel = 0;
    const deploykit::Error tall = refused(Image{&pixel, 2'000'000, 1});
    CHECK(tall.code() == ErrorCode::bad_input);
    CHECK(says(tall, "2000000x1 pixels would become 512000000x256"));
    CHECK(says(refused(Image{&pixel, 1, 2'000'000}), "1x2000000 pixels would become 256x512000000"));
    CHECK(says(refused(Image{&pixel, 1, 1025}), "would become 256x262400"));
}

TEST_CASE("an image that grows to 2^26 pixels and no more is preprocessed") {
    const auto pixels = noise(1, 1024);
    Preprocessor preprocessor(imagenet(), DataType::float32);
    const std::size_t before = allocated_bytes;
    const TensorView made = preprocessor(Image{pixels.data(), 1, 1024});
    const std::size_t taken = allocated_bytes - before;
    CHECK(made.shape() == Shape{1, 3, 224, 224});
    CHECK(taken < 8 * mebibyte);  // only the crop is made, not 200 MB
}

TEST_CASE("one bad image in a batch refuses the batch") {
    const auto pixels = noise(4, 5);
    const std::vector<Image> images{{pixels.data(), 4, 5}, {pixels.data(), 4, 0}};
    Preprocessor preprocessor(imagenet(), DataType::float32);
    CHECK(refusal([&] { preprocessor(images); }).code() == ErrorCode::bad_input);
}

TEST_CASE("an empty batch is refused") {
    Preprocessor preprocessor(imagenet(), DataType::float32);
    CHECK(refusal([&] { preprocessor(std::vector<Image>{}); }).code() == ErrorCode::usage);
    CHECK(refusal([&] { preprocessor(nullptr, 3); }).code() == ErrorCode::usage);
}

TEST_CASE("sizes that no image can be given are refused") {
    for (int Preprocessing::*size : {&Preprocessing::resize, &Preprocessing::height, &Preprocessing::width}) {
        for (const int value : {0, -1, std::numeric_limits<int>::min()}) {
            Preprocessing nonsense = imagenet();
            nonsense.*size = value;
            CHECK(refused(nonsense).code() == ErrorCode::bad_input);
        }
    }
    for (int Preprocessing::*size : {&Preprocessing::height, &Preprocessing::width}) {
        Preprocessing nonsense = imagenet();
        nonsense.*size = 257;
        CHECK(says(refused(nonsense), "a shorter side of 256 cannot hold"));
    }
}

TEST_CASE("values that no pixel can be normalised with are refused") {
    const double infinity = std::numeric_limits<double>::infinity();
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const double value : {0.0, -1.0, infinity, nan}) {
        Preprocessing scaled = imagenet();
        scaled.scale = value;
        CHECK(says(refused(scaled), "scale and std"));
        Preprocessing divided = imagenet();
        divided.std[2] = value;
        CHECK(says(refused(divided), "scale and std"));
    }
    for (const double value : {infinity, -infinity, nan}) {
        Preprocessing centred = imagenet();
        centred.mean[1] = value;
        CHECK(says(refused(centred), "mean"));
    }
    Preprocessing tiny = imagenet();
    tiny.std[0] = 1e-300;
    CHECK(says(refused(tiny), "float32's range"));
}

TEST_CASE("an input's type is the one that the network takes") {
    Preprocessing in_graph = imagenet();
    in_graph.in_graph = true;
    CHECK(refused(in_graph, DataType::float32).code() == ErrorCode::usage);
    for (const DataType type : {DataType::uint8, DataType::int8, DataType::int32, DataType::int64}) {
        CHECK(refused(imagenet(), type).code() == ErrorCode::usage);
    }
}
