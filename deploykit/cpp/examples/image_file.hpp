// Image files, decoded by stb_image: JPEG, PNG, BMP and some more. A camera application needs none of this.
//
// Unlike `deploykit run`, stb leaves a photograph lying on its side that says so in its EXIF data, and its JPEG decoder
// differs from Pillow's in the last bits.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#define STBI_FAILURE_USERMSG      // reasons in words
#define STB_IMAGE_IMPLEMENTATION  // each example is one file, which includes this header once
#include <stb_image.h>

#include <deploykit/deploykit.hpp>

// The pixels of one file: height×width×3, uint8, RGB.
class ImageFile {
public:
    // Error(bad_input) where there is no file, or none that stb can decode.
    explicit ImageFile(const std::string& path) : pixels_(nullptr, stbi_image_free) {
        if (!std::filesystem::is_regular_file(path)) {
            throw deploykit::Error(deploykit::ErrorCode::bad_input, "there is no such file.", path,
                                   "Give the path of an image.");
        }
        pixels_.reset(stbi_load(path.c_str(), &width_, &height_, nullptr, 3));
        if (pixels_ == nullptr) {
            throw deploykit::Error(deploykit::ErrorCode::bad_input,
                                   std::string("it cannot be decoded: ") + stbi_failure_reason() + ".", path,
                                   "Replace it by a JPEG or PNG.");
        }
    }

    deploykit::Image image() const { return {pixels_.get(), height_, width_}; }

private:
    int width_ = 0;
    int height_ = 0;
    std::unique_ptr<stbi_uc, void (*)(void*)> pixels_;
};
