#include "deploykit/image.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "deploykit/error.hpp"

namespace deploykit {
namespace {

constexpr std::int64_t max_pixels = std::int64_t{1} << 30U;
constexpr std::int64_t max_resized_pixels = std::int64_t{1} << 26U;  // as in calibration/preprocess.py

std::string size_text(std::int64_t height, std::int64_t width) {
    return std::to_string(height) + "x" + std::to_string(width);
}

[[noreturn]] void refuse_image(const std::string& problem, const char* remedy) {
    throw Error(ErrorCode::bad_input, problem, "an image", remedy);
}

[[noreturn]] void refuse_preprocessing(const std::string& problem) {
    throw Error(ErrorCode::bad_input, problem, "preprocessing", "Use the preprocessing of the training.");
}

void validate(const Preprocessing& preprocessing) {
    if (std::min({preprocessing.resize, preprocessing.height, preprocessing.width}) < 1) {
        refuse_preprocessing("sizes are at least 1 pixel, not " + std::to_string(preprocessing.resize) + ", " +
                             size_text(preprocessing.height, preprocessing.width) + ".");
    }
    if (preprocessing.resize < std::max(preprocessing.height, preprocessing.width)) {
        refuse_preprocessing("a shorter side of " + std::to_string(preprocessing.resize) + " cannot hold a crop of " +
                             size_text(preprocessing.height, preprocessing.width) + ".");
    }
    const auto positive = [](double value) { return std::isfinite(value) && value > 0; };
    if (!positive(preprocessing.scale) || !std::all_of(preprocessing.std.begin(), preprocessing.std.end(), positive)) {
        refuse_preprocessing("scale and std must be finite and positive.");
    }
    if (!std::all_of(preprocessing.mean.begin(), preprocessing.mean.end(),
                     [](double value) { return std::isfinite(value); })) {
        refuse_preprocessing("a mean is not finite.");
    }
    if (preprocessing.grey && preprocessing.in_graph) {
        refuse_preprocessing("a graph that normalizes takes three channels, and this is of one.");
    }
}

void validate(DataType type, bool in_graph) {
    const bool fits = in_graph ? type == DataType::uint8 : type == DataType::float32 || type == DataType::float16;
    if (!fits) {
        throw Error(ErrorCode::usage, std::string("it cannot have the data type ") + name(type) + ".",
                    "a network's input",
                    in_graph ? "This graph contains the preprocessing: use uint8." : "Use float32 or float16.");
    }
}

// Size of an image after resizing, before the center crop.
struct Resized {
    int height;
    int width;
};

Resized check_image(const Image& image, int resize) {
    const std::int64_t height = image.height;
    const std::int64_t width = image.width;
    if (image.pixels == nullptr || height < 1 || width < 1) {
        refuse_image("it has no pixels: its size is " + size_text(height, width) +
                         (image.pixels == nullptr ? ", and its pointer is null." : "."),
                     "Pass rows of 3-byte pixels, and check that the file was decoded.");
    }
    if (image.stride != 0 && image.stride < 3 * width) {
        refuse_image("its rows are " + std::to_string(image.stride) + " bytes apart and have " +
                         std::to_string(3 * width) + " bytes each.",
                     "Pass the stride in bytes, not pixels; flip an image that is stored bottom-up first.");
    }
    if (height * width > max_pixels) {
        refuse_image("it has " + size_text(height, width) + " pixels, more than 2^30.", "Scale it down first.");
    }
    const std::int64_t shorter = std::min(height, width);
    const std::int64_t longer = resize * std::max(height, width) / shorter;
    if (longer > max_resized_pixels / resize) {
        const auto grown = height < width ? size_text(resize, longer) : size_text(longer, resize);
        refuse_image("its " + size_text(height, width) + " pixels would become " + grown + " before the crop.",
                     "Crop an image this elongated first.");
    }
    const int other = static_cast<int>(longer);
    return height < width ? Resized{resize, other} : Resized{other, resize};
}

// Half of `spare`, rounded half to even, as in torchvision's CenterCrop.
int half_even(int spare) { return spare % 4 == 3 ? (spare + 1) / 2 : spare / 2; }

// Resampling of one axis: the input pixels and weights of each output pixel of the crop.
//
// Pillow's arithmetic, operation by operation: weights are computed in double precision, divided by their sum, and
// rounded to multiples of 2^-22. A weighted sum of pixels is then exact in 32 bits: the weights are not negative and
// add up to 1, and their roundings, up to 2^17 of them in the largest accepted image, to about 2^-6.
class Axis {
public:
    void plan(int input, int resized, int crop);

    int begin() const noexcept { return windows_.front().first; }  // first needed input pixel
    int end() const noexcept { return windows_.back().first + windows_.back().count; }

    template <class Use>
    void for_each_output(Use use) const {
        const std::uint32_t* weights = weights_.data();
        for (std::size_t index = 0; index < windows_.size(); ++index) {
            use(index, windows_[index].first, windows_[index].count, weights);
            weights += windows_[index].count;
        }
    }

    static constexpr std::uint32_t one_half = 1U << 21U;  // initial value of every sum, for rounding

    static std::uint8_t to_pixel(std::uint32_t sum) noexcept {
        return static_cast<std::uint8_t>(std::min(sum >> 22U, 255U));
    }

private:
    struct Window {
        int first;
        int count;
    };

    std::vector<Window> windows_;
    std::vector<std::uint32_t> weights_;  // of all windows, concatenated
    std::vector<double> exact_;           // of one window
};

// Adding one half and truncating is Pillow's rounding, also for negative values.
// NOLINTBEGIN(bugprone-incorrect-roundings)
void Axis::plan(int input, int resized, int crop) {
    // Pillow keeps the size as a float, which shows in images with a side above 2^24.
    const double scale = static_cast<double>(static_cast<float>(input)) / resized;
    const double half_width = std::max(scale, 1.0);
    const double inverse = 1.0 / half_width;
    const int skipped = half_even(resized - crop);
    windows_.clear();
    weights_.clear();
    for (int output = skipped; output < skipped + crop; ++output) {
        const double centre = (output + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - half_width + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + half_width + 0.5), input);
        exact_.clear();
        double sum = 0;
        for (int index = 0; index < last - first; ++index) {
            const double distance = std::abs((index + first - centre + 0.5) * inverse);
            exact_.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
            sum += exact_.back();
        }
        windows_.push_back({first, last - first});
        for (const double weight : exact_) {
            weights_.push_back(static_cast<std::uint32_t>(weight / sum * (1U << 22U) + 0.5));
        }
    }
}
// NOLINTEND(bugprone-incorrect-roundings)

}  // namespace

class Preprocessor::Implementation {
public:
    Implementation(const Preprocessing& preprocessing, DataType type);

    TensorView run(const Image* images, std::size_t count);

private:
    template <class Value>
    using Table = std::array<std::array<Value, 256>, 3>;

    void tabulate();
    void plan(const Image& image);
    void resize_rows(const Image& image);
    void resize_columns();
    void write(std::byte* to, ChannelOrder order) const;
    void write_pixels(std::byte* to, bool reversed) const;
    template <class Value>
    void write_values(const Table<Value>& table, std::byte* to, bool reversed) const;
    template <class Value>
    void write_luminance(const Table<Value>& table, std::byte* to, bool reversed) const;

    std::size_t channels() const noexcept { return preprocessing_.grey ? 1 : 3; }
    std::size_t crop_pixels() const noexcept {
        return static_cast<std::size_t>(preprocessing_.height) * static_cast<std::size_t>(preprocessing_.width);
    }
    std::size_t row_bytes() const noexcept { return 3 * static_cast<std::size_t>(preprocessing_.width); }

    Preprocessing preprocessing_;
    DataType type_;
    Shape shape_;            // of the last batch
    Table<float> floats_{};  // normalized value by channel and pixel value
    Table<Half> halves_{};

    int height_ = 0;  // image size that the axes are planned for
    int width_ = 0;
    Axis rows_;
    Axis columns_;

    std::vector<std::uint8_t> narrowed_;  // rows of the input, resized and cropped horizontally: rows×width×3
    std::vector<std::uint32_t> sums_;     // of one row of the crop
    std::vector<std::uint8_t> crop_;      // height×width×3
    std::vector<std::byte> output_;
};

Preprocessor::Implementation::Implementation(const Preprocessing& preprocessing, DataType type)
    : preprocessing_(preprocessing), type_(type) {
    validate(preprocessing);
    validate(type, preprocessing.in_graph);
    const std::int64_t height = preprocessing.height;
    const std::int64_t width = preprocessing.width;
    const bool channels_last = preprocessing.in_graph || preprocessing.layout == ImageLayout::nhwc;
    const auto count = static_cast<std::int64_t>(channels());
    shape_ = channels_last ? Shape{1, height, width, count} : Shape{1, count, height, width};
    tabulate();
}

void Preprocessor::Implementation::tabulate() {
    for (std::size_t channel = 0; channel < 3; ++channel) {
        for (std::size_t pixel = 0; pixel < 256; ++pixel) {
            const double value = (static_cast<double>(pixel) * preprocessing_.scale - preprocessing_.mean[channel]) /
                                 preprocessing_.std[channel];
            if (!(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()))) {
                refuse_preprocessing("a pixel of " + std::to_string(pixel) + " would leave float32's range.");
            }
            floats_[channel][pixel] = static_cast<float>(value);
            halves_[channel][pixel] = to_half(floats_[channel][pixel]);
        }
    }
}

TensorView Preprocessor::Implementation::run(const Image* images, std::size_t count) {
    if (images == nullptr || count == 0) {
        throw Error(ErrorCode::usage, "it has no images.", "a batch", "Pass at least one image.");
    }
    for (std::size_t index = 0; index < count; ++index) {
        check_image(images[index], preprocessing_.resize);  // check all images before allocating
    }
    const std::size_t bytes = channels() * crop_pixels() * bytes_per_element(type_);
    output_.resize(count * bytes);
    for (std::size_t index = 0; index < count; ++index) {
        plan(images[index]);
        resize_rows(images[index]);
        resize_columns();
        write(output_.data() + index * bytes, images[index].order);
    }
    shape_[0] = static_cast<std::int64_t>(count);
    return {output_.data(), type_, shape_};
}

void Preprocessor::Implementation::plan(const Image& image) {
    if (image.height == height_ && image.width == width_) {
        return;
    }
    height_ = 0;  // invalidates the plan in case an allocation fails
    const Resized resized = check_image(image, preprocessing_.resize);
    rows_.plan(image.height, resized.height, preprocessing_.height);
    columns_.plan(image.width, resized.width, preprocessing_.width);
    narrowed_.resize(static_cast<std::size_t>(rows_.end() - rows_.begin()) * row_bytes());
    sums_.resize(row_bytes());
    crop_.resize(3 * crop_pixels());
    height_ = image.height;
    width_ = image.width;
}

// Horizontal pass over the rows that the vertical pass reads. Three sums in registers: a vectorized form with weights
// split for 16-bit products was slower on x86-64 (g++ 12, SSE2), since a window has few pixels.
void Preprocessor::Implementation::resize_rows(const Image& image) {
    const std::ptrdiff_t stride = image.stride != 0 ? image.stride : std::ptrdiff_t{3} * image.width;
    std::uint8_t* to = narrowed_.data();
    for (int y = rows_.begin(); y < rows_.end(); ++y, to += row_bytes()) {
        const std::uint8_t* row = image.pixels + y * stride;
        columns_.for_each_output([row, to](std::size_t x, int first, int count, const std::uint32_t* weights) {
            const std::uint8_t* pixel = row + std::ptrdiff_t{3} * first;
            std::uint32_t sum0 = Axis::one_half;
            std::uint32_t sum1 = Axis::one_half;
            std::uint32_t sum2 = Axis::one_half;
            for (int index = 0; index < count; ++index, pixel += 3) {
                sum0 += pixel[0] * weights[index];
                sum1 += pixel[1] * weights[index];
                sum2 += pixel[2] * weights[index];
            }
            to[3 * x] = Axis::to_pixel(sum0);
            to[3 * x + 1] = Axis::to_pixel(sum1);
            to[3 * x + 2] = Axis::to_pixel(sum2);
        });
    }
}

// Vertical pass: weighted sums of whole rows.
void Preprocessor::Implementation::resize_columns() {
    const std::size_t length = row_bytes();
    std::uint32_t* sums = sums_.data();
    rows_.for_each_output([&](std::size_t y, int first, int count, const std::uint32_t* weights) {
        std::fill(sums, sums + length, Axis::one_half);
        const std::uint8_t* row = narrowed_.data() + static_cast<std::size_t>(first - rows_.begin()) * length;
        for (int index = 0; index < count; ++index, row += length) {
            const std::uint32_t weight = weights[index];
            for (std::size_t x = 0; x < length; ++x) {
                sums[x] += row[x] * weight;
            }
        }
        std::transform(sums, sums + length, crop_.data() + y * length, Axis::to_pixel);
    });
}

void Preprocessor::Implementation::write(std::byte* to, ChannelOrder order) const {
    if (preprocessing_.in_graph) {
        write_pixels(to, order != ChannelOrder::rgb);
    } else if (type_ == DataType::float16) {
        write_values(halves_, to, order != preprocessing_.channels);
    } else {
        write_values(floats_, to, order != preprocessing_.channels);
    }
}

void Preprocessor::Implementation::write_pixels(std::byte* to, bool reversed) const {
    if (!reversed) {
        std::memcpy(to, crop_.data(), crop_.size());
        return;
    }
    for (std::size_t index = 0; index < crop_.size(); index += 3) {
        to[index] = std::byte{crop_[index + 2]};
        to[index + 1] = std::byte{crop_[index + 1]};
        to[index + 2] = std::byte{crop_[index]};
    }
}

// Write the one channel of a grey input, rounded as in calibration/preprocess.py.
template <class Value>
void Preprocessor::Implementation::write_luminance(const Table<Value>& table, std::byte* to, bool reversed) const {
    const std::size_t red = reversed ? 2 : 0;
    auto* value = reinterpret_cast<Value*>(to);
    for (std::size_t index = 0; index < crop_pixels(); ++index) {
        const std::uint8_t* pixel = crop_.data() + 3 * index;
        const std::uint32_t sum = 19595U * pixel[red] + 38470U * pixel[1] + 7471U * pixel[2 - red] + 32768U;
        value[index] = table[0][sum >> 16U];
    }
}

// Write each channel as a plane (NCHW), or as every third value (NHWC).
template <class Value>
void Preprocessor::Implementation::write_values(const Table<Value>& table, std::byte* to, bool reversed) const {
    if (preprocessing_.grey) {
        write_luminance(table, to, reversed);
        return;
    }
    const std::size_t pixels = crop_pixels();
    const bool planes = preprocessing_.layout == ImageLayout::nchw;
    const std::size_t step = planes ? 1 : 3;
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const std::uint8_t* from = crop_.data() + (reversed ? 2 - channel : channel);
        auto* value = reinterpret_cast<Value*>(to) + channel * (planes ? pixels : 1);
        for (std::size_t index = 0; index < pixels; ++index) {
            value[step * index] = table[channel][from[3 * index]];
        }
    }
}

namespace {

DataType input_type(const Bundle& bundle) {
    const std::vector<TensorSpec>& inputs = bundle.manifest().inputs;
    if (!bundle.manifest().takes_images) {
        throw Error(ErrorCode::usage, "this bundle takes no images: its manifest has no preprocessing.",
                    bundle.folder().string(),
                    "Fill tensors as Engine::inputs() describes them, or export it with --mean and --std.");
    }
    if (inputs.size() != 1) {
        throw Error(ErrorCode::bad_input,
                    "it has " + std::to_string(inputs.size()) + " inputs, and image preprocessing needs a single one.",
                    bundle.folder().string(), "Export a network with one input, or fill its inputs yourself.");
    }
    return inputs.front().type;
}

}  // namespace

Preprocessor::Preprocessor(const Bundle& bundle) : Preprocessor(bundle.manifest().preprocessing, input_type(bundle)) {}

Preprocessor::Preprocessor(const Preprocessing& preprocessing, DataType type)
    : implementation_(std::make_unique<Implementation>(preprocessing, type)) {}

Preprocessor::Preprocessor(Preprocessor&&) noexcept = default;
Preprocessor& Preprocessor::operator=(Preprocessor&&) noexcept = default;
Preprocessor::~Preprocessor() = default;

TensorView Preprocessor::operator()(const Image& image) { return implementation_->run(&image, 1); }

TensorView Preprocessor::operator()(const std::vector<Image>& images) {
    return implementation_->run(images.data(), images.size());
}

TensorView Preprocessor::operator()(const Image* images, std::size_t count) {
    return implementation_->run(images, count);
}

}  // namespace deploykit
