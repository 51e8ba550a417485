#include "files.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

#include "deploykit/error.hpp"

namespace deploykit {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& problem) {
    throw Error(ErrorCode::bad_input, problem, path.string(), "Copy the bundle again, or export it again.");
}

std::string read_failure(int reason) { return "it cannot be read: " + std::generic_category().message(reason) + "."; }

// A regular file opened for reading. Links are not followed, and opening a pipe does not block.
class File {
public:
    explicit File(const std::filesystem::path& path)
        : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {
        if (descriptor_ < 0) {
            refuse(path, errno == ELOOP ? "it is a link." : read_failure(errno));
        }
        struct stat status {};
        if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
            ::close(descriptor_);
            refuse(path, "it is not a regular file.");
        }
        bytes_ = static_cast<std::uint64_t>(status.st_size);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() { ::close(descriptor_); }

    std::uint64_t bytes() const noexcept { return bytes_; }

    // Number of bytes read, 0 at the end of the file.
    std::size_t read(char* into, std::size_t size) const {
        for (;;) {
            const ssize_t count = ::read(descriptor_, into, size);
            if (count >= 0) {
                return static_cast<std::size_t>(count);
            }
            if (errno != EINTR) {
                refuse(path_, read_failure(errno));
            }
        }
    }

private:
    std::filesystem::path path_;
    int descriptor_;
    std::uint64_t bytes_ = 0;
};

std::string to_hexadecimal(const unsigned char* bytes, std::size_t count) {
    constexpr const char* digits = "0123456789abcdef";
    std::string text;
    for (std::size_t index = 0; index < count; ++index) {
        text += digits[bytes[index] >> 4U];
        text += digits[bytes[index] & 0xFU];
    }
    return text;
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t limit) {
    const File file(path);
    if (file.bytes() > limit) {
        refuse(path,
               "it has " + std::to_string(file.bytes()) + " bytes, and the limit is " + std::to_string(limit) + ".");
    }
    std::string content(file.bytes(), '\0');
    std::size_t filled = 0;
    while (filled < content.size()) {
        const std::size_t count = file.read(content.data() + filled, content.size() - filled);
        if (count == 0) {
            refuse(path, "it became shorter while it was read.");
        }
        filled += count;
    }
    return content;
}

std::string sha256(const std::filesystem::path& path) {
    const File file(path);
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    std::array<unsigned char, EVP_MAX_MD_SIZE> result{};
    unsigned int size = 0;
    bool good = digest != nullptr && EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) == 1;
    std::vector<char> buffer(std::size_t{1} << 20U);
    while (const std::size_t count = good ? file.read(buffer.data(), buffer.size()) : 0) {
        good = EVP_DigestUpdate(digest.get(), buffer.data(), count) == 1;
    }
    if (!good || EVP_DigestFinal_ex(digest.get(), result.data(), &size) != 1) {
        throw Error(ErrorCode::internal, "OpenSSL does not provide SHA-256.", path.string(),
                    "Check the system's libcrypto.");
    }
    return to_hexadecimal(result.data(), size);
}

bool stays_inside(const std::string& path) noexcept {
    if (path.find('\\') != std::string::npos || path.find('\0') != std::string::npos) {
        return false;
    }
    for (std::size_t begin = 0;;) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const auto is = [&](const char* part) { return path.compare(begin, end - begin, part) == 0; };
        if (is("") || is(".") || is("..")) {
            return false;
        }
        if (end == path.size()) {
            return true;
        }
        begin = end + 1;
    }
}

}  // namespace deploykit
