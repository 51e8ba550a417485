// Any image and any preprocessing give one network input of the right shape, the same each time, or an Error.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "deploykit/error.hpp"
#include "deploykit/image.hpp"

namespace {

// A violated invariant aborts the program, which the fuzzer reports.
void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

// What is left of the fuzzer's bytes, taken piece by piece; zeros behind their end.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    template <class T>
    T take() {
        T value{};
        const std::size_t count = std::min(sizeof value, size_);
        std::memcpy(&value, data_, count);
        data_ += count;
        size_ -= count;
        return value;
    }

    // Mostly from 0 to `most`, now and then anything.
    int size(int most) {
        return take<std::uint8_t>() == 255 ? take<std::int32_t>() : take<std::uint8_t>() % (most + 1);
    }

    double number() { return take<std::uint8_t>() == 255 ? take<double>() : take<std::uint8_t>() / 255.0; }

private:
    const std::uint8_t* data_;
    std::size_t size_;
};

deploykit::Preprocessing preprocessing(Bytes& bytes) {
    deploykit::Preprocessing given;
    given.height = bytes.take<std::uint8_t>() % 40;  // what is made of an image is allocated: no gigabytes here
    given.width = bytes.take<std::uint8_t>() % 40;
    given.resize = bytes.size(80);
    given.scale = bytes.number();
    for (std::size_t channel = 0; channel < 3; ++channel) {
        given.mean[channel] = bytes.number();
        given.std[channel] = bytes.number();
    }
    given.channels = bytes.take<std::uint8_t>() % 2 == 1 ? deploykit::ChannelOrder::bgr : deploykit::ChannelOrder::rgb;
    const auto last = bytes.take<std::uint8_t>();
    given.in_graph = last % 2 == 1;
    given.layout = last % 4 < 2 ? deploykit::ImageLayout::nchw : deploykit::ImageLayout::nhwc;
    return given;
}

// Pixels in a buffer that ends with the last of them; of an image that must be refused, none at all.
struct Pixels {
    explicit Pixels(Bytes& bytes) {
        image.height = bytes.size(60);
        image.width = bytes.size(60);
        image.stride = bytes.size(255);
        if (image.height > 0 && image.width > 0 && image.height <= 60 && image.width <= 60 && image.stride <= 255) {
            const auto row = static_cast<std::size_t>(3 * image.width);
            const auto step = std::max(row, static_cast<std::size_t>(std::max<std::ptrdiff_t>(image.stride, 0)));
            const std::size_t count = step * static_cast<std::size_t>(image.height - 1) + row;
            memory.reset(new std::uint8_t[count]);
            std::generate_n(memory.get(), count, [&bytes] { return bytes.take<std::uint8_t>(); });
            image.pixels = memory.get();
        }
    }

    deploykit::Image image;
    std::unique_ptr<std::uint8_t[]> memory;
};

std::vector<std::uint8_t> copied(const deploykit::TensorView& view) {
    const auto* begin = static_cast<const std::uint8_t*>(view.data());
    return {begin, begin + view.bytes()};
}

void require_sound(const deploykit::Preprocessing& given, deploykit::DataType type, const deploykit::Image& image) {
    deploykit::Preprocessor prepare(given, type);
    const deploykit::TensorView view = prepare(image);
    const bool channels_last = given.in_graph || given.layout == deploykit::ImageLayout::nhwc;
    const deploykit::Shape expected = channels_last ? deploykit::Shape{1, given.height, given.width, 3}
                                                    : deploykit::Shape{1, 3, given.height, given.width};
    require(view.shape() == expected && view.type() == type);
    const std::vector<std::uint8_t> first = copied(view);
    require(copied(prepare(image)) == first);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    const auto type = static_cast<deploykit::DataType>(bytes.take<std::uint8_t>() % 6);
    const deploykit::Preprocessing given = preprocessing(bytes);
    const Pixels pixels(bytes);
    try {
        require_sound(given, type, pixels.image);
    } catch (const deploykit::Error& error) {
        require(error.code() == deploykit::ErrorCode::bad_input || error.code() == deploykit::ErrorCode::usage);
    }
    return 0;
}
