// A bundle: the folder that `deploykit export` wrote, checked and read.
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
inline constexpr int schema_version = 4;

struct FileRecord {
    std::string path;    // relative to the bundle, with '/', and never leaving it
    std::string sha256;  // 64 hexadecimal digits, lower case
    std::uint64_t bytes = 0;
};

struct BatchRange {
    std::int64_t minimum = 1;
    std::int64_t optimum = 1;  // what engines are tuned for
    std::int64_t maximum = 1;
};

enum class ChannelOrder { rgb, bgr };

enum class ImageLayout { nchw, nhwc };  // N×3×height×width or N×height×width×3

// From a decoded image to one network input; `image.hpp` carries it out.
struct Preprocessing {
    int resize = 0;  // of the shorter side, in pixels
    int height = 0;  // of the centre that is cut out
    int width = 0;
    double scale = 0;  // (pixel · scale − mean) / std
    std::array<double, 3> mean{};
    std::array<double, 3> std{};
    ChannelOrder channels = ChannelOrder::rgb;
    bool in_graph = false;  // the graph takes N×height×width×3 uint8, RGB, and does the arithmetic itself
    ImageLayout layout = ImageLayout::nchw;  // of an input that is not made in the graph
};

// How an engine was compiled: what a machine is asked before the engine is loaded.
struct BuildRecord {
    std::string platform;                   // "Linux x86_64"
    std::vector<int> compute_capabilities;  // 86 for 8.6
    bool open_ended = false;                // also those above the last
    bool version_compatible = false;
    bool hardware_compatible = false;
    bool strip_weights = false;
};

struct EngineRecord {
    std::string backend;  // onnxruntime, openvino, tensorrt or tensorrt-rtx
    std::string version;
    FileRecord file;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    std::optional<BuildRecord> build;  // none where the engine is a graph that its library compiles while loading
};

// The bounds that an engine's answers to the golden inputs must keep; the manifest has a reason for each.
struct Tolerance {
    double max_relative = 0;
    double min_cosine = 0;
    double min_snr_db = 0;
    std::optional<double> min_top1_agreement;
};

// A few inputs and the oracle's answers, as .npy files: tensor name to path. Paths follow from no name.
struct Golden {
    std::map<std::string, std::string> inputs;
    std::map<std::string, std::string> outputs;
    std::int64_t count = 0;
};

// What of manifest.json a runtime needs. deploykit/bundle/schema.json describes all of it.
struct Manifest {
    std::string model;
    std::string precision;  // fp32, fp16, bf16, int8 or int8-fp16
    std::string head;       // logits, probabilities, embedding, or tensors: what they mean, only the user knows
    std::string oracle;     // what the bundle was judged beside: "eager PyTorch"
    bool trained = false;   // untrained networks' answers mean nothing
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    BatchRange batch;
    bool takes_images = true;     // else its inputs are tensors, and what they hold, only the user knows
    Preprocessing preprocessing;  // all zero where it takes no images
    std::string graph;            // path of the ONNX file
    std::optional<std::string> labels;
    std::vector<EngineRecord> engines;  // the one that the bundle was judged by comes first
    Golden golden;
    Tolerance tolerance;
    std::map<std::string, FileRecord> files;
};

// A folder whose manifest was understood and whose files are those that were written.
//
// Error(bad_input): no bundle, a damaged manifest, one of another schema version, a path that leaves the folder.
// Error(check_failed): a file that is missing, a link, of another size, or of another digest.
// Every file is read once, to the end, by the constructor.
class Bundle {
public:
    explicit Bundle(std::filesystem::path folder);

    const std::filesystem::path& folder() const noexcept { return folder_; }
    const Manifest& manifest() const noexcept { return manifest_; }

    // Class names in the order of the network's outputs; empty where the bundle has none.
    const std::vector<std::string>& labels() const noexcept { return labels_; }

    // Where a file of the manifest lies. Error(usage) for a path that the manifest does not list.
    std::filesystem::path path(std::string_view relative) const;

private:
    std::filesystem::path folder_;
    Manifest manifest_;
    std::vector<std::string> labels_;
};

}  // namespace deploykit
