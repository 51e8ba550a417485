#include "deploykit/bundle.hpp"

#include <algorithm>
#include <system_error>
#include <utility>

#include "deploykit/error.hpp"
#include "files.hpp"
#include "manifest.hpp"

namespace deploykit {
namespace {

constexpr std::uint64_t largest_manifest = std::uint64_t{1} << 28U;  // receipts name each calibration image
constexpr std::uint64_t largest_labels = std::uint64_t{1} << 24U;

Manifest read_manifest(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "manifest.json";
    std::error_code ignored;
    if (std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::not_found) {
        throw Error(ErrorCode::bad_input, "it is not a bundle: it has no manifest.json.", folder.string(),
                    "Make one with deploykit export.");
    }
    return parse_manifest(read_file(path, largest_manifest), path.string());
}

// Why the file is not the one that was written, as words behind its path; none: it is.
std::optional<std::string> damage(const std::filesystem::path& folder, const FileRecord& file) {
    std::filesystem::path path = folder;
    std::filesystem::file_status status;
    std::error_code failure;
    for (const std::filesystem::path& part : std::filesystem::path(file.path)) {
        path /= part;
        status = std::filesystem::symlink_status(path, failure);
        if (std::filesystem::is_symlink(status)) {
            return "is a link";
        }
        if (status.type() == std::filesystem::file_type::none) {
            return "cannot be read: " + failure.message();
        }
    }
    if (!std::filesystem::exists(status)) {
        return "is missing";
    }
    if (!std::filesystem::is_regular_file(status)) {
        return "is no file";
    }
    const std::uint64_t bytes = std::filesystem::file_size(path, failure);
    if (failure) {
        return "cannot be read: " + failure.message();
    }
    if (bytes != file.bytes) {
        return "has " + std::to_string(bytes) + " bytes instead of " + std::to_string(file.bytes);
    }
    return sha256(path) == file.sha256 ? std::nullopt : std::optional<std::string>("has another SHA-256");
}

void require_undamaged(const std::filesystem::path& folder, const Manifest& manifest) {
    std::string wrong;
    for (const auto& [path, file] : manifest.files) {
        if (const auto found = damage(folder, file)) {
            wrong += (wrong.empty() ? "" : "; ") + path + " " + *found;
        }
    }
    if (!wrong.empty()) {
        throw Error(ErrorCode::check_failed, "it is not as it was written: " + wrong + ".", folder.string(),
                    "Export it again, or copy it anew.");
    }
}

std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> found;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::size_t kept = end > begin && text[end - 1] == '\r' ? end - 1 : end;
        found.push_back(text.substr(begin, kept - begin));
        begin = end + 1;
    }
    return found;
}

}  // namespace

Bundle::Bundle(std::filesystem::path folder) : folder_(std::move(folder)), manifest_(read_manifest(folder_)) {
    require_undamaged(folder_, manifest_);
    if (manifest_.labels) {
        labels_ = lines(read_file(folder_ / *manifest_.labels, largest_labels));
    }
}

std::filesystem::path Bundle::path(std::string_view relative) const {
    if (manifest_.files.count(std::string(relative)) == 0) {
        throw Error(ErrorCode::usage, "its manifest lists no '" + std::string(relative) + "'.", folder_.string(),
                    "Ask for one of manifest().files.");
    }
    return folder_ / std::string(relative);
}

}  // namespace deploykit
