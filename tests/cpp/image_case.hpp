// How an image is to be preprocessed, as tests write it down, and an image laid out in memory for it.
#pragma once

#include <nlohmann/json.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/image.hpp"
#include "files.hpp"
#include "npy.hpp"

// images/cases.json has examples. `preprocessing` is written as deploykit.core.values.Preprocessing is.
struct ImageCase {
    deploykit::Preprocessing preprocessing;
    deploykit::DataType type;
    deploykit::ChannelOrder order;  // of the pixels in memory
    std::ptrdiff_t padding;         // bytes between rows
};

inline deploykit::ChannelOrder channel_order(const nlohmann::json& word) {
    return word == "bgr" ? deploykit::ChannelOrder::bgr : deploykit::ChannelOrder::rgb;
}

// One number per channel; a grey input's one number three times, as the library keeps it.
inline std::array<double, 3> channel_numbers(const nlohmann::json& numbers) {
    return {numbers.front(), numbers[numbers.size() == 1 ? 0 : 1], numbers.back()};
}

inline deploykit::DataType data_type(const std::string& word) {
    using deploykit::DataType;
    for (const DataType type : {DataType::float32, DataType::float16, DataType::uint8}) {
        if (word == deploykit::name(type)) {
            return type;
        }
    }
    throw std::invalid_argument("no input is made as " + word);
}

inline ImageCase image_case(const nlohmann::json& written) {
    const nlohmann::json& fields = written.at("preprocessing");
    deploykit::Preprocessing preprocessing;
    fields.at("resize").get_to(preprocessing.resize);
    fields.at("height").get_to(preprocessing.height);
    fields.at("width").get_to(preprocessing.width);
    fields.at("scale").get_to(preprocessing.scale);
    preprocessing.grey = fields.at("channels") == "grey";
    preprocessing.mean = channel_numbers(fields.at("mean"));
    preprocessing.std = channel_numbers(fields.at("std"));
    preprocessing.channels = channel_order(fields.at("channels"));
    preprocessing.layout = fields.at("layout") == "NHWC" ? deploykit::ImageLayout::nhwc : deploykit::ImageLayout::nchw;
    const deploykit::DataType type = data_type(written.at("type"));
    preprocessing.in_graph = type == deploykit::DataType::uint8;
    return {preprocessing, type, channel_order(written.at("order")), written.at("padding").get<std::ptrdiff_t>()};
}

inline deploykit::Array read_npy(const std::string& path) {
    return deploykit::parse_npy(deploykit::read_file(path, std::uint64_t{1} << 31U), path);
}

// An H×W×3 uint8 RGB array, laid out as the case says. What lies between rows is 255, which would be seen in a result.
class LaidOutImage {
public:
    LaidOutImage(const deploykit::Array& rgb, const ImageCase& wanted)
        : height_(rgb.shape[0]), width_(rgb.shape[1]), wanted_(wanted) {
        const deploykit::TensorView view = rgb.view();
        const auto* from = view.as<std::uint8_t>();
        const std::size_t row = 3 * static_cast<std::size_t>(width_);
        for (std::int64_t y = 0; y < height_; ++y, from += row) {
            bytes_.insert(bytes_.end(), from, from + row);
            if (y + 1 < height_) {
                bytes_.insert(bytes_.end(), static_cast<std::size_t>(wanted.padding), 255);
            }
            if (wanted.order == deploykit::ChannelOrder::bgr) {
                reverse_pixels(bytes_.data() + static_cast<std::size_t>(y) * (row + padding()), row);
            }
        }
    }

    deploykit::Image view() const {
        const std::ptrdiff_t stride = wanted_.padding == 0 ? 0 : 3 * width_ + wanted_.padding;
        return {bytes_.data(), static_cast<int>(height_), static_cast<int>(width_), wanted_.order, stride};
    }

private:
    std::size_t padding() const { return static_cast<std::size_t>(wanted_.padding); }

    static void reverse_pixels(std::uint8_t* row, std::size_t length) {
        for (std::size_t index = 0; index < length; index += 3) {
            std::swap(row[index], row[index + 2]);
        }
    }

    std::int64_t height_;
    std::int64_t width_;
    ImageCase wanted_;
    std::vector<std::uint8_t> bytes_;
};
