#include "npy.hpp"

#include <cstring>
#include <optional>
#include <set>

#include "deploykit/error.hpp"

namespace deploykit {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t longest_word = 16;
constexpr const char* letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_<>=|";
constexpr std::uint64_t largest_size = std::uint64_t{1} << 31U;

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
    throw Error(ErrorCode::check_failed, "it cannot be read as an array: " + problem + ".", where,
                "Export the bundle again.");
}

struct Header {
    std::string descr;
    bool fortran_order = true;
    std::vector<std::int64_t> shape;
};

// The header is a Python dictionary with three entries: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 10), }
class HeaderReader {
public:
    HeaderReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

    Header read() {
        Header header;
        std::set<std::string> seen;
        expect('{');
        while (!accept('}')) {
            const std::string key = quoted();
            if (!seen.insert(key).second) {
                fail();
            }
            expect(':');
            if (key == "descr") {
                header.descr = quoted();
            } else if (key == "fortran_order") {
                header.fortran_order = boolean();
            } else if (key == "shape") {
                header.shape = tuple();
            } else {
                fail();
            }
            if (!accept(',')) {
                expect('}');
                break;
            }
        }
        skip_spaces();
        if (seen.size() != 3 || header.descr.empty() || !text_.empty()) {
            fail();
        }
        return header;
    }

private:
    [[noreturn]] void fail() const { refuse(where_, "its header is not in NumPy's form"); }

    void skip_spaces() {
        while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\n')) {
            text_.remove_prefix(1);
        }
    }

    bool accept(char wanted) {
        skip_spaces();
        if (text_.empty() || text_.front() != wanted) {
            return false;
        }
        text_.remove_prefix(1);
        return true;
    }

    void expect(char wanted) {
        if (!accept(wanted)) {
            fail();
        }
    }

    std::string quoted() {
        expect('\'');
        const std::size_t end = text_.find('\'');
        if (end == std::string_view::npos) {
            fail();
        }
        std::string found(text_.substr(0, end));
        if (found.size() > longest_word || found.find_first_not_of(letters) != std::string::npos) {
            fail();
        }
        text_.remove_prefix(end + 1);
        return found;
    }

    bool boolean() {
        skip_spaces();
        for (const std::string_view word : {std::string_view("True"), std::string_view("False")}) {
            if (text_.substr(0, word.size()) == word) {
                text_.remove_prefix(word.size());
                return word == "True";
            }
        }
        fail();
    }

    std::int64_t size() {
        skip_spaces();
        std::uint64_t found = 0;
        std::size_t digits = 0;
        while (digits < text_.size() && text_[digits] >= '0' && text_[digits] <= '9' && found <= largest_size) {
            found = found * 10 + static_cast<std::uint64_t>(text_[digits] - '0');
            ++digits;
        }
        if (digits == 0 || found > largest_size) {
            fail();
        }
        text_.remove_prefix(digits);
        return static_cast<std::int64_t>(found);
    }

    std::vector<std::int64_t> tuple() {
        std::vector<std::int64_t> sizes;
        expect('(');
        while (!accept(')')) {
            sizes.push_back(size());
            if (!accept(',')) {
                expect(')');
                break;
            }
        }
        return sizes;
    }

    std::string_view text_;
    const std::string& where_;
};

// The header's text, and the data after it.
struct Parts {
    std::string_view header;
    std::string_view data;
};

Parts split(std::string_view content, const std::string& where) {
    if (content.substr(0, magic.size()) != magic || content.size() < magic.size() + 4) {
        refuse(where, "it is not an .npy file");
    }
    const auto byte = [content](std::size_t index) {
        return static_cast<std::size_t>(static_cast<unsigned char>(content[index]));
    };
    const std::size_t version = byte(6);
    if (version < 1 || version > 3) {
        refuse(where, "its format version is " + std::to_string(version));
    }
    const std::size_t width = version == 1 ? 2 : 4;  // of the header's size, little-endian
    const std::size_t begin = magic.size() + 2 + width;
    std::size_t size = 0;
    for (std::size_t index = begin; index > begin - width;) {
        --index;
        size = size << 8U | (index < content.size() ? byte(index) : 0);
    }
    if (content.size() < begin || content.size() - begin < size) {
        refuse(where, "it ends within its header");
    }
    return {content.substr(begin, size), content.substr(begin + size)};
}

std::optional<DataType> data_type(const std::string& descr) {
    if (descr == "<f4") {
        return DataType::float32;
    }
    if (descr == "<f2") {
        return DataType::float16;
    }
    if (descr == "|u1") {
        return DataType::uint8;
    }
    if (descr == "|i1") {
        return DataType::int8;
    }
    if (descr == "<i4") {
        return DataType::int32;
    }
    if (descr == "<i8") {
        return DataType::int64;
    }
    return std::nullopt;
}

}  // namespace

Array parse_npy(std::string_view content, const std::string& where) {
    const Parts parts = split(content, where);
    const Header header = HeaderReader(parts.header, where).read();
    const std::optional<DataType> type = data_type(header.descr);
    if (!type) {
        refuse(where, "its elements have the type '" + header.descr + "'");
    }
    if (header.fortran_order) {
        refuse(where, "it is in column-major order");
    }
    if (header.shape.size() > Shape::max_rank) {
        refuse(where, "it has more than eight axes");
    }
    std::uint64_t bytes = bytes_per_element(*type);
    for (const std::int64_t size : header.shape) {
        if (size != 0 && bytes > parts.data.size() / static_cast<std::uint64_t>(size)) {
            refuse(where, "its data is shorter than its shape");
        }
        bytes *= static_cast<std::uint64_t>(size);
    }
    if (bytes != parts.data.size()) {
        refuse(where, "its data is longer than its shape");
    }
    Array array{*type, Shape(header.shape), std::vector<std::byte>(parts.data.size())};
    if (!parts.data.empty()) {
        std::memcpy(array.bytes.data(), parts.data.data(), parts.data.size());
    }
    return array;
}

}  // namespace deploykit
