// Bundles: open the folder that `deploykit export` wrote, verify its files and read its manifest.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deploykit/tensor.hpp"

namespace deploykit {

// The only version of manifest.json that this library reads.
inline constexpr int schema_version = 6;

struct FileRecord {
    std::string path;    // relative to the bundle, with '/', and always inside it
    std::string sha256;  // 64 hexadecimal digits, lower case
    std::uint64_t bytes = 0;
};

struct BatchRange {
    std::int64_t minimum = 1;
    std::int64_t optimum = 1;  // the batch size that engines are tuned for
    std::int64_t maximum = 1;
};

enum class ChannelOrder { rgb, bgr };

enum class ImageLayout { nchw, nhwc };  // N×channels×height×width or N×height×width×channels

// Preprocessing of a decoded image to a network input; `image.hpp` implements it.
struct Preprocessing {
    int resize = 0;  // the shorter side, in pixels
    int height = 0;  // of the center crop
    int width = 0;
    double scale = 0;  // (pixel · scale − mean) / std
    std::array<double, 3> mean{};
    std::array<double, 3> std{};
    ChannelOrder channels = ChannelOrder::rgb;
    bool in_graph = false;  // the graph's input is N×height×width×3 uint8, RGB, and its nodes normalize it
    ImageLayout layout = ImageLayout::nchw;  // of the input, unless `in_graph`
    bool grey = false;  // the input has one channel, the luminance; `mean` and `std` hold its number three times
};

// How an engine was built: the requirements that are checked before it is loaded.
struct BuildRecord {
    std::string platform;                   // "Linux x86_64"
    std::vector<int> compute_capabilities;  // 86 for 8.6
    bool open_ended = false;                // also later ones
    bool version_compatible = false;
    bool hardware_compatible = false;
    bool strip_weights = false;
    std::optional<int> dla_core;  // of a Jetson's deep-learning accelerator, for the layers that it supports
};

struct EngineRecord {
    std::string backend;  // onnxruntime, openvino, tensorrt or tensorrt-rtx
    std::string version;
    FileRecord file;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    std::optional<BuildRecord> build;  // none: the engine is a graph that its library compiles while loading it
};

// Bounds on an engine's outputs for the golden inputs; the manifest states a reason for each.
struct Tolerance {
    std::optional<double> max_relative;
    std::optional<double> min_cosine;
    double min_snr_db = 0;
    std::optional<double> min_top1_agreement;
};

// Golden vectors: a few inputs and the reference's outputs as .npy files, by tensor name. Use these paths; they cannot
// be derived from the names.
struct Golden {
    std::map<std::string, std::string> inputs;
    std::map<std::string, std::string> outputs;
    std::int64_t count = 0;
};

// The part of manifest.json that a runtime needs. deploykit/bundle/schema.json describes the whole file.
struct Manifest {
    std::string model;
    std::string precision;  // fp32, fp16, bf16, int8 or int8-fp16
    std::string head;       // logits, probabilities, embedding, or tensors: outputs of unknown meaning
    std::string oracle;     // the reference of the parity check: "eager PyTorch"
    bool trained = false;   // false: random weights, predictions are meaningless
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    BatchRange batch;
    bool takes_images = true;     // false: the inputs are tensors without image preprocessing
    Preprocessing preprocessing;  // all zero unless `takes_images`
    std::string graph;            // path of the ONNX file
    std::optional<std::string> labels;
    std::vector<EngineRecord> engines;  // the primary engine first
    Golden golden;
    Tolerance tolerance;
    std::map<std::string, FileRecord> files;
};

// An open bundle with a valid manifest and undamaged files.
//
// The constructor reads every file once, completely.
// Error(bad_input): not a bundle, a damaged manifest, another schema version, a path outside the folder.
// Error(check_failed): a file that is missing, is a link, or differs in size or digest.
class Bundle {
public:
    explicit Bundle(std::filesystem::path folder);

    const std::filesystem::path& folder() const noexcept { return folder_; }
    const Manifest& manifest() const noexcept { return manifest_; }

    // Class names in the order of the network's outputs; empty if the bundle has none.
    const std::vector<std::string>& labels() const noexcept { return labels_; }

    // The absolute or relative path of a file in the manifest. Error(usage) for a path that the manifest does not list.
    std::filesystem::path path(std::string_view relative) const;

private:
    std::filesystem::path folder_;
    Manifest manifest_;
    std::vector<std::string> labels_;
};

}  // namespace deploykit
