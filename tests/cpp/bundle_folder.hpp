// Folders that tests make and damage: empty ones, and bundles of a few bytes.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

#include "files.hpp"

// A folder of its own under the system's temporary one, gone with the object.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "deploykit-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) {
            throw std::runtime_error("no folder can be made as " + name);
        }
        path_ = name;
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    const std::filesystem::path& path() const noexcept { return path_; }

private:
    std::filesystem::path path_;
};

inline void write(const std::filesystem::path& path, const std::string& content) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary);
    file << content;
    if (!file.flush()) {
        throw std::runtime_error(path.string() + " cannot be written");
    }
}

inline std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(path.string() + " cannot be read");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

// One of the fuzzers' seeds: "manifest/fp32.json".
inline std::string seed(const std::string& name) {
    return read(std::filesystem::path(__FILE__).parent_path() / "fuzz" / "corpus" / name);
}

// A real manifest, shortened: one engine, the graph itself, no labels.
inline nlohmann::json plain_manifest() {
    static const nlohmann::json manifest = nlohmann::json::parse(seed("manifest/fp32.json"));
    return manifest;
}

// One with labels, preprocessing in the graph, and a TensorRT engine beside ONNX Runtime's.
inline nlohmann::json rich_manifest() {
    static const nlohmann::json manifest = nlohmann::json::parse(seed("manifest/engines.json"));
    return manifest;
}

// One that takes tensors and no images: two inputs, four outputs, two of them with only a batch axis.
inline nlohmann::json tensors_manifest() {
    static const nlohmann::json manifest = nlohmann::json::parse(seed("manifest/tensors.json"));
    return manifest;
}

inline std::string content_of(const std::string& path) { return "the content of " + path + "\n"; }

// Writes the bundle that `manifest` tells of, with a few bytes in each file and their true digests recorded.
inline void write_bundle(const std::filesystem::path& folder, nlohmann::json manifest) {
    for (auto& [path, record] : manifest["files"].items()) {
        write(folder / path, content_of(path));
        record["bytes"] = content_of(path).size();
        record["sha256"] = deploykit::sha256(folder / path);
    }
    write(folder / "manifest.json", manifest.dump());
}
