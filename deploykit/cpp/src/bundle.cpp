#include "deploykit/bundle.hpp"

#include <algorithm>
#include <system_error>
#include <utility>

#include "deploykit/error.hpp"
#include "files.hpp"
#include "manifest.hpp"

namespace deploykit {
namespace {

constexpr std::uint64_t largest_manifest = std::uint64_t{1} << 28U;  // receipts list every calibration image
constexpr std::uint64_t largest_labels = std::uint64_t{1} << 24U;

Manifest read_manifest(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "manifest.json";
    std::error_code ignored;
    if (std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::not_found) {
        throw Error(ErrorCode::bad_input, "it is not a bundle: it has no manifest.json.", folder.string(),
                    "Create one with deploykit export.");
    }
    return parse_manifest(read_file(path, largest_manifest), path.string());
}

// Difference between a file and its record, as words that follow its path; none: they match.
std::optional<std::string> find_damage(const std::filesystem::path& folder, const FileRecord& file) {
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
        return "is not a regular file";
    }
    const std::uint64_t bytes = std::filesystem::file_size(path, failure);
    if (failure) {
        return "cannot be read: " + failure.message();
    }
    if (bytes != file.bytes) {
        return "has " + std::to_string(bytes) + " bytes instead of " + std::to_string(file.bytes);
    }
    return sha256(path) == file.sha256 ? std::nullopt : std::optional<std::string>("differs from its recorded SHA-256");
}

void require_undamaged(const std::filesystem::path& folder, const Manifest& manifest) {
    std::string problems;
    for (const auto& [path, file] : manifest.files) {
        if (const auto result = find_damage(folder, file)) {
            problems += (problems.empty() ? "" : "; ") + path + " " + *result;
        }
    }
    if (!problems.empty()) {
        throw Error(ErrorCode::check_failed, "it is damaged: " + problems + ".", folder.string(),
                    "Copy the bundle again, or export it again.");
    }
}

std::vector<std::string> split_lines(const std::string& text) {
    std::vector<std::string> result;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::size_t line_end = end > begin && text[end - 1] == '\r' ? end - 1 : end;
        result.push_back(text.substr(begin, line_end - begin));
        begin = end + 1;
    }
    return result;
}

}  // namespace

Bundle::Bundle(std::filesystem::path folder) : folder_(std::move(folder)), manifest_(read_manifest(folder_)) {
    require_undamaged(folder_, manifest_);
    if (manifest_.labels) {
        labels_ = split_lines(read_file(folder_ / *manifest_.labels, largest_labels));
    }
}

std::filesystem::path Bundle::path(std::string_view relative) const {
    if (manifest_.files.count(std::string(relative)) == 0) {
        throw Error(ErrorCode::usage, "its manifest does not list '" + std::string(relative) + "'.", folder_.string(),
                    "Use a path from manifest().files.");
    }
    return folder_ / std::string(relative);
}

}  // namespace deploykit
