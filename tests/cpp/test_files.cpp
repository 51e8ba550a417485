// Files are read whole or refused; a path stays inside or is refused; nothing waits for a pipe.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "bundle_folder.hpp"
#include "files.hpp"
#include "nobody.hpp"
#include "refusal.hpp"

using deploykit::ErrorCode;

TEST_CASE("a file is read whole, with every byte that there may be") {
    const TemporaryFolder folder;
    std::string content;
    for (int value = 0; value < 256; ++value) {
        content += static_cast<char>(value);
    }
    write(folder.path() / "all", content);
    CHECK(deploykit::read_file(folder.path() / "all", 1000) == content);
}

TEST_CASE("an empty file is read as nothing") {
    const TemporaryFolder folder;
    write(folder.path() / "empty", "");
    CHECK(deploykit::read_file(folder.path() / "empty", 0).empty());
}

TEST_CASE("a file of exactly the limit is read, one byte more is refused with both sizes") {
    const TemporaryFolder folder;
    write(folder.path() / "file", "12345");
    CHECK(deploykit::read_file(folder.path() / "file", 5) == "12345");
    const auto error = refusal([&] { deploykit::read_file(folder.path() / "file", 4); });
    CHECK(error.code() == ErrorCode::bad_input);
    CHECK(error.what() == doctest::Contains("5 bytes"));
    CHECK(error.what() == doctest::Contains("4"));
}

TEST_CASE("a file of a terabyte is refused without being read") {
    const TemporaryFolder folder;
    write(folder.path() / "sparse", "");
    std::filesystem::resize_file(folder.path() / "sparse", std::uintmax_t{1} << 40U);
    const auto error = refusal([&] { deploykit::read_file(folder.path() / "sparse", 1 << 20); });
    CHECK(error.code() == ErrorCode::bad_input);
    CHECK(error.what() == doctest::Contains("1099511627776 bytes"));
}

TEST_CASE("what is no readable file is refused, with its path and why") {
    const TemporaryFolder folder;
    std::filesystem::path path = folder.path() / "file";
    std::string why;
    SUBCASE("nothing is there") { why = "No such file"; }
    SUBCASE("a folder") {
        std::filesystem::create_directory(path);
        why = "not a regular file";
    }
    SUBCASE("a pipe that nobody writes to") {
        REQUIRE(mkfifo(path.c_str(), 0600) == 0);
        why = "not a regular file";
    }
    SUBCASE("a device") {
        path = "/dev/zero";
        why = "not a regular file";
    }
    SUBCASE("a link, even to a file beside it") {
        write(folder.path() / "other", "content");
        std::filesystem::create_symlink("other", path);
        why = "link";
    }
    SUBCASE("a link to itself") {
        std::filesystem::create_symlink("file", path);
        why = "link";
    }
    for (const auto& error :
         {refusal([&] { deploykit::read_file(path, 1 << 20); }), refusal([&] { deploykit::sha256(path); })}) {
        CHECK(error.code() == ErrorCode::bad_input);
        CHECK(error.where() == path.string());
        CHECK(error.what() == doctest::Contains(why.c_str()));
    }
}

TEST_CASE("a file without permission to read it is refused with that reason") {
    const TemporaryFolder folder;
    const std::filesystem::path path = folder.path() / "secret";
    write(path, "content");
    std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
    std::filesystem::permissions(path, std::filesystem::perms::none);
    const Nobody nobody;
    for (const auto& error :
         {refusal([&] { deploykit::read_file(path, 1 << 20); }), refusal([&] { deploykit::sha256(path); })}) {
        CHECK(error.code() == ErrorCode::bad_input);
        CHECK(error.what() == doctest::Contains("Permission denied"));
    }
}

TEST_CASE("SHA-256 gives the digests that FIPS 180-4 has as examples") {
    const TemporaryFolder folder;
    write(folder.path() / "empty", "");
    write(folder.path() / "abc", "abc");
    write(folder.path() / "million", std::string(1'000'000, 'a'));
    CHECK(deploykit::sha256(folder.path() / "empty") ==
          "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(deploykit::sha256(folder.path() / "abc") ==
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(deploykit::sha256(folder.path() / "million") ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 reads a file of several buffers to its end") {
    const TemporaryFolder folder;
    std::string content(std::size_t{3} << 20U, 'a');
    write(folder.path() / "a", content);
    content.back() = 'b';
    write(folder.path() / "b", content);
    CHECK(deploykit::sha256(folder.path() / "a") != deploykit::sha256(folder.path() / "b"));
}

TEST_CASE("plain names with slashes between stay inside") {
    for (const char* path : {"model.onnx", "golden/in.input.npy", "engines/tensorrt-sm86/engine.plan", "a/b/c/d", "..a",
                             "a..", "...", ".hidden", "with blank", "a/..b/c", "été"}) {
        CAPTURE(path);
        CHECK(deploykit::stays_inside(path));
    }
}

TEST_CASE("no other path does") {
    using namespace std::string_literals;
    for (const std::string& path :
         {""s, "/"s, "/etc/passwd"s, "//a"s, ".."s, "../x"s, "a/../b"s, "a/.."s, "."s, "./a"s, "a/./b"s, "a//b"s, "a/"s,
          "a\\b"s, "..\\x"s, "C:\\x"s, "a\0"s, "\0"s, "a\0/../b"s}) {
        CAPTURE(path);
        CHECK_FALSE(deploykit::stays_inside(path));
    }
}
