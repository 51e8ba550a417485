// Read files of a bundle.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace deploykit {

// Read a regular file of at most `limit` bytes. Error(bad_input) if it cannot be read or is larger.
std::string read_file(const std::filesystem::path& path, std::uint64_t limit);

// SHA-256 of a file as 64 lower-case hexadecimal digits. Error(bad_input) if it cannot be read.
std::string sha256(const std::filesystem::path& path);

// Whether a recorded path stays inside the bundle: relative, without "..", backslashes or empty parts.
bool stays_inside(const std::string& path) noexcept;

}  // namespace deploykit
