// Classify image files: open a bundle, load its engine, preprocess, run, and print the five best classes.
#include <cstdio>
#include <deploykit/deploykit.hpp>
#include <exception>
#include <string>
#include <vector>

#include "../image_file.hpp"

namespace {

constexpr const char* usage =
    "usage: classify BUNDLE IMAGE...\n"
    "\n"
    "Prints the five best classes of each image, using the bundle's preprocessing and engine.\n"
    "BUNDLE is a folder that `deploykit export` wrote; images are JPEG, PNG, BMP, …\n"
    "\n"
    "Exit 1: the bundle is damaged or the self-test failed. 2: wrong usage. 3: an image or file that\n"
    "cannot be used. 4: no runtime for the engine. 5: an internal fault.\n";

void classify(const std::string& folder, const std::vector<std::string>& images) {
    const deploykit::Bundle bundle(folder);
    const deploykit::Engine engine(bundle);
    deploykit::self_test(bundle, engine);  // throws if this machine computes different outputs

    deploykit::Preprocessor preprocess(bundle);
    deploykit::Context context = engine.context();
    for (const std::string& path : images) {
        const ImageFile file(path);
        const deploykit::TensorView& scores = context.run(preprocess(file.image()));
        const std::vector<deploykit::Prediction> five =
            deploykit::top_k(scores, 5, bundle);  // throws if the outputs are not class scores
        std::printf("%s\n", path.c_str());
        for (const deploykit::Prediction& best : five) {
            std::printf("  %6.2f %%  %s\n", 100.0 * static_cast<double>(best.probability), best.label.c_str());
        }
    }
    if (!bundle.manifest().trained) {
        std::fprintf(stderr, "note: the weights are random, predictions are meaningless\n");
    }
}

}  // namespace

int main(int count, char** words) {
    const std::vector<std::string> arguments(words + 1, words + count);
    if (arguments == std::vector<std::string>{"--help"}) {
        std::fputs(usage, stdout);
        return 0;
    }
    if (arguments.size() < 2) {
        std::fputs(usage, stderr);
        return static_cast<int>(deploykit::ErrorCode::usage);
    }
    try {
        classify(arguments.front(), {arguments.begin() + 1, arguments.end()});
        return 0;
    } catch (const deploykit::Error& error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return static_cast<int>(deploykit::ErrorCode::internal);
    }
}
