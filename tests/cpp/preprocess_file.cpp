// Preprocesses images in .npy files: what tests/test_cpp_images.py compares with Python.
//
//   preprocess_file CASE OUTPUT IMAGE.npy…
//
// CASE is JSON, as in images/cases.json; OUTPUT gets the batch's elements, row-major, without a header.
#include <cstdio>
#include <exception>
#include <fstream>
#include <vector>

#include "deploykit/deploykit.hpp"
#include "image_case.hpp"

namespace {

void preprocess(const char* written, const char* output, const std::vector<const char*>& paths) {
    const ImageCase wanted = image_case(nlohmann::json::parse(written));
    std::vector<LaidOutImage> images;
    for (const char* path : paths) {
        images.emplace_back(read_npy(path), wanted);
    }
    std::vector<deploykit::Image> views;
    for (const LaidOutImage& image : images) {
        views.push_back(image.view());
    }
    deploykit::Preprocessor preprocessor(wanted.preprocessing, wanted.type);
    const deploykit::TensorView batch = preprocessor(views);
    std::ofstream stream(output, std::ios::binary);
    stream.exceptions(std::ios::failbit | std::ios::badbit);
    stream.write(static_cast<const char*>(batch.data()), static_cast<std::streamsize>(batch.bytes()));
}

}  // namespace

int main(int count, char** words) {
    if (count < 4) {
        std::fprintf(stderr, "usage: preprocess_file CASE OUTPUT IMAGE.npy…\n");
        return 2;
    }
    try {
        preprocess(words[1], words[2], {words + 3, words + count});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
