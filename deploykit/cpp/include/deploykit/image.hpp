// From a decoded image to a network's input: the same pixels as deploykit's Python side, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit {

// Somebody else's pixels: height×width×3, uint8, rows `stride` bytes apart. It owns nothing.
struct Image {
    const std::uint8_t* pixels = nullptr;
    int height = 0;
    int width = 0;
    ChannelOrder order = ChannelOrder::rgb;  // of the pixels in memory; OpenCV's are bgr
    std::ptrdiff_t stride = 0;               // 0: rows follow each other without a gap
};

// A bundle's preprocessing, with the memory that it works in. One thread uses it at a time.
//
// deploykit/preprocess.py says what is computed: resize as Pillow's BILINEAR does it, cut out the centre, normalise.
// Once an image size was seen, the next image of that size allocates nothing.
class Preprocessor {
public:
    // Error(usage) for a bundle that takes no images: its manifest does not say how they would become inputs.
    explicit Preprocessor(const Bundle& bundle);
    Preprocessor(const Preprocessing& preprocessing, DataType type);  // uint8 where the graph normalises by itself
    Preprocessor(Preprocessor&&) noexcept;
    Preprocessor& operator=(Preprocessor&&) noexcept;
    ~Preprocessor();

    // 1×3×height×width of the network's type, 1×height×width×3 where its layout is nhwc, or the latter as uint8 where
    // the graph normalises by itself. Valid until the next call.
    // Error(bad_input) for an image without pixels, with a stride shorter than a row, of more than 2³⁰ pixels, or so
    // elongated that it would grow to more than 2²⁶ pixels before it is cut.
    TensorView operator()(const Image& image);

    // N of them in one batch.
    TensorView operator()(const std::vector<Image>& images);
    TensorView operator()(const Image* images, std::size_t count);

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace deploykit
