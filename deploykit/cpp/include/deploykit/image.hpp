// Preprocessing of decoded images to a network's input, bit-identical to deploykit in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit {

// A non-owning view of pixels: height×width×3, uint8, rows `stride` bytes apart.
struct Image {
    const std::uint8_t* pixels = nullptr;
    int height = 0;
    int width = 0;
    ChannelOrder order = ChannelOrder::rgb;  // of the pixels in memory; OpenCV uses bgr
    std::ptrdiff_t stride = 0;               // 0: rows without padding
};

// A bundle's preprocessing with its own buffers. Used by one thread at a time.
//
// calibration/preprocess.py says what is computed: resize as Pillow's BILINEAR does it, cut out the centre, normalise.
// Repeated calls with the same image size allocate nothing.
class Preprocessor {
public:
    // Error(usage) for a bundle without image preprocessing.
    explicit Preprocessor(const Bundle& bundle);
    Preprocessor(const Preprocessing& preprocessing, DataType type);  // uint8 if the graph preprocesses
    Preprocessor(Preprocessor&&) noexcept;
    Preprocessor& operator=(Preprocessor&&) noexcept;
    ~Preprocessor();

    // Returns 1×3×height×width of the network's data type, 1×height×width×3 if its layout is nhwc, or the latter as
    // uint8 if the graph preprocesses. A network that takes grey images has 1 for the 3. Valid until the next call.
    // Error(bad_input) for an image without pixels, with a stride shorter than a row, of more than 2³⁰ pixels, or so
    // elongated that resizing would produce more than 2²⁶ pixels.
    TensorView operator()(const Image& image);

    // Preprocess N images to one batch.
    TensorView operator()(const std::vector<Image>& images);
    TensorView operator()(const Image* images, std::size_t count);

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace deploykit
