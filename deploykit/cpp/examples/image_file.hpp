// Image files decoded by stb_image: JPEG, PNG, BMP and more. A camera application does not need this.
//
// Unlike `deploykit run`, stb ignores the EXIF orientation, and its JPEG decoder differs from Pillow's in the last
// bits.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#define STBI_FAILURE_USERMSG      // readable failure reasons
#define STB_IMAGE_IMPLEMENTATION  // each example is one file, which includes this header once
#include <stb_image.h>

#include <deploykit/deploykit.hpp>

// Pixels of one file: height×width×3, uint8, RGB.
class ImageFile {
public:
    // Error(bad_input) if the file does not exist or stb cannot decode it.
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
