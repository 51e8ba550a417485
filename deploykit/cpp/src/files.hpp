// Files of a bundle, read whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace deploykit {

// The content of a regular file of at most `limit` bytes. Error(bad_input) where it cannot be read or is larger.
std::string read_file(const std::filesystem::path& path, std::uint64_t limit);

// 64 hexadecimal digits, lower case. Error(bad_input) where the file cannot be read.
std::string sha256(const std::filesystem::path& path);

// Whether a recorded path is plain and relative: no "..", no root, no backslash, no empty part.
bool stays_inside(const std::string& path) noexcept;

}  // namespace deploykit
