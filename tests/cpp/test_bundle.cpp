// A bundle opens when every file is the one that was written, and says which is not.
#include "deploykit/bundle.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "bundle_folder.hpp"
#include "nobody.hpp"
#include "refusal.hpp"

using deploykit::Bundle;
using deploykit::ErrorCode;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// A bundle to damage, of a few bytes.
struct Written {
    explicit Written(const json& manifest = rich_manifest()) { write_bundle(folder, manifest); }

    TemporaryFolder parent;
    fs::path folder = parent.path() / "bundle";
};

deploykit::Error refused(const fs::path& folder, ErrorCode code) {
    const auto error = refusal([&] { Bundle{folder}; });
    CHECK(error.code() == code);
    return error;
}

const std::vector<std::string> files{"model.onnx",
                                     "labels.txt",
                                     "golden/in.input.npy",
                                     "golden/out.logits.npy",
                                     "engines/onnxruntime/onnxruntime.onnx",
                                     "engines/tensorrt-sm86/engine.plan"};

// The bundle is refused, and this file named with these words.
void check_damaged(const Written& written, const std::string& file, const std::string& words) {
    const auto error = refused(written.folder, ErrorCode::check_failed);
    CHECK(error.where() == written.folder.string());
    CHECK(error.what() == doctest::Contains((file + " " + words).c_str()));
}

void move_away(const fs::path& path, const fs::path& to) { fs::rename(path, to); }

}  // namespace

TEST_CASE("a bundle that is as it was written opens") {
    const Written written;
    const Bundle bundle(written.folder);
    CHECK(bundle.folder() == written.folder);
    CHECK(bundle.manifest().model == "resnet18");
    for (const std::string& file : files) {
        CHECK(read(bundle.path(file)) == content_of(file));
    }
}

TEST_CASE("a bundle opens through a link to its folder, and with a slash behind its name") {
    const Written written;
    fs::create_directory_symlink(written.folder, written.parent.path() / "link");
    CHECK_NOTHROW(Bundle(written.parent.path() / "link"));
    CHECK_NOTHROW(Bundle(written.folder / ""));
}

TEST_CASE("labels come in the order of the file, whatever its line ends are") {
    for (const char* text : {"cat\ndog\n\nbird", "cat\ndog\n\nbird\n", "cat\r\ndog\r\n\r\nbird\r\n"}) {
        Written written;
        write(written.folder / "labels.txt", text);
        json manifest = json::parse(read(written.folder / "manifest.json"));
        manifest["files"]["labels.txt"]["bytes"] = std::string(text).size();
        manifest["files"]["labels.txt"]["sha256"] = deploykit::sha256(written.folder / "labels.txt");
        write(written.folder / "manifest.json", manifest.dump());
        CHECK(Bundle(written.folder).labels() == std::vector<std::string>{"cat", "dog", "", "bird"});
    }
}

TEST_CASE("a bundle without labels has none") {
    const Written written(plain_manifest());
    CHECK(Bundle(written.folder).labels().empty());
}

TEST_CASE("a path that the manifest does not list is wrong use") {
    const Written written;
    const Bundle bundle(written.folder);
    for (const char* path : {"other.bin", "../x", "/etc/passwd", "manifest.json", "", "golden", "./model.onnx"}) {
        CAPTURE(path);
        const auto error = refusal([&] { bundle.path(path); });
        CHECK(error.code() == ErrorCode::usage);
        CHECK(error.what() == doctest::Contains((std::string("'") + path + "'").c_str()));
    }
}

TEST_CASE("what is no bundle is refused by its name") {
    const TemporaryFolder folder;
    write(folder.path() / "file", "content");
    for (const char* name : {"", "nothing", "file", "nothing/at/all"}) {
        CAPTURE(name);
        const auto error = refused(folder.path() / name, ErrorCode::bad_input);
        CHECK(error.where() == (folder.path() / name).string());
        CHECK(error.what() == doctest::Contains("no manifest.json"));
    }
    refused(std::string(10'000, 'x'), ErrorCode::bad_input);
}

TEST_CASE("a manifest that is no file is refused, and a pipe is not waited for") {
    const Written written;
    const fs::path path = written.folder / "manifest.json";
    SUBCASE("a folder") {
        fs::remove(path);
        fs::create_directory(path);
        CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("not a regular file"));
    }
    SUBCASE("a pipe") {
        fs::remove(path);
        REQUIRE(mkfifo(path.c_str(), 0600) == 0);
        CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("not a regular file"));
    }
    SUBCASE("a link") {
        move_away(path, written.parent.path() / "manifest.json");
        fs::create_symlink("../manifest.json", path);
        CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("link"));
    }
    SUBCASE("a link that leads nowhere") {
        fs::remove(path);
        fs::create_symlink("nowhere", path);
        CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("link"));
    }
}

TEST_CASE("a manifest of a gigabyte is refused without being read") {
    const Written written;
    fs::resize_file(written.folder / "manifest.json", std::uintmax_t{1} << 30U);
    CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("1073741824 bytes"));
}

TEST_CASE("an empty manifest, and one of a future version, are refused by the path of the manifest") {
    const Written written;
    write(written.folder / "manifest.json", "");
    CHECK(refused(written.folder, ErrorCode::bad_input).where() == (written.folder / "manifest.json").string());
    write(written.folder / "manifest.json", seed("manifest/version7.json"));
    CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("schema version 7"));
}

TEST_CASE("a manifest with any bit flipped opens the same bundle, or is refused") {
    const Written written(plain_manifest());
    const std::string whole = read(written.folder / "manifest.json");
    for (std::size_t index = 0; index < whole.size(); index += 11) {
        std::string flipped = whole;
        flipped[index] = static_cast<char>(flipped[index] ^ (1 << (index % 8)));
        write(written.folder / "manifest.json", flipped);
        try {
            const Bundle bundle(written.folder);
            for (const auto& [path, file] : bundle.manifest().files) {
                REQUIRE(read(written.folder / path) == content_of(path));
            }
        } catch (const deploykit::Error& error) {
            REQUIRE((error.code() == ErrorCode::bad_input || error.code() == ErrorCode::check_failed));
        }
    }
}

TEST_CASE("each file that is missing is named") {
    for (const std::string& file : files) {
        const Written written;
        fs::remove(written.folder / file);
        check_damaged(written, file, "is missing");
    }
}

TEST_CASE("each file that is shorter or longer is named, with both sizes") {
    for (const std::string& file : files) {
        const Written written;
        const std::string whole = content_of(file);
        for (const std::string& other : {std::string(), whole.substr(1), whole + "x"}) {
            write(written.folder / file, other);
            check_damaged(written, file,
                          "has " + std::to_string(other.size()) + " bytes instead of " + std::to_string(whole.size()));
        }
    }
}

TEST_CASE("each file with a bit flipped is named") {
    for (const std::string& file : files) {
        const Written written;
        std::string flipped = content_of(file);
        flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
        write(written.folder / file, flipped);
        check_damaged(written, file, "differs from its recorded SHA-256");
    }
}

TEST_CASE("a folder in a file's place is refused") {
    const Written written;
    fs::remove(written.folder / "model.onnx");
    fs::create_directory(written.folder / "model.onnx");
    check_damaged(written, "model.onnx", "is not a regular file");
}

TEST_CASE("a pipe in a file's place is refused, and not waited for") {
    const Written written;
    fs::remove(written.folder / "labels.txt");
    REQUIRE(mkfifo((written.folder / "labels.txt").c_str(), 0600) == 0);
    check_damaged(written, "labels.txt", "is not a regular file");
}

TEST_CASE("a file in a folder's place is refused") {
    const Written written;
    fs::remove_all(written.folder / "golden");
    write(written.folder / "golden", "no folder");
    check_damaged(written, "golden/in.input.npy", "is missing");
}

TEST_CASE("a link in a file's place is refused, though it leads to the right content") {
    const Written written;
    const fs::path path = written.folder / "model.onnx";
    SUBCASE("outside of the bundle") {
        move_away(path, written.parent.path() / "model.onnx");
        fs::create_symlink("../model.onnx", path);
    }
    SUBCASE("outside, by an absolute path") {
        move_away(path, written.parent.path() / "model.onnx");
        fs::create_symlink(written.parent.path() / "model.onnx", path);
    }
    SUBCASE("inside of the bundle") {
        move_away(path, written.folder / "other.onnx");
        fs::create_symlink("other.onnx", path);
    }
    SUBCASE("nowhere") {
        fs::remove(path);
        fs::create_symlink("nowhere", path);
    }
    SUBCASE("to itself") {
        fs::remove(path);
        fs::create_symlink("model.onnx", path);
    }
    check_damaged(written, "model.onnx", "is a link");
}

TEST_CASE("a link in a folder's place is refused, though it leads to the right content") {
    const Written written;
    SUBCASE("the file's own folder, outside of the bundle") {
        move_away(written.folder / "golden", written.parent.path() / "golden");
        fs::create_directory_symlink("../golden", written.folder / "golden");
        check_damaged(written, "golden/in.input.npy", "is a link");
    }
    SUBCASE("the file's own folder, inside of the bundle") {
        move_away(written.folder / "golden", written.folder / "other");
        fs::create_directory_symlink("other", written.folder / "golden");
        check_damaged(written, "golden/out.logits.npy", "is a link");
    }
    SUBCASE("a folder above it") {
        move_away(written.folder / "engines", written.parent.path() / "engines");
        fs::create_directory_symlink("../engines", written.folder / "engines");
        check_damaged(written, "engines/tensorrt-sm86/engine.plan", "is a link");
    }
}

TEST_CASE("all damaged files are named at once") {
    const Written written;
    fs::remove(written.folder / "model.onnx");
    write(written.folder / "labels.txt", "");
    check_damaged(written, "model.onnx", "is missing");
    check_damaged(written, "labels.txt", "has 0 bytes");
}

TEST_CASE("a bundle without permission to read it is refused with that reason, and nothing is called missing") {
    const Written written;
    fs::permissions(written.parent.path(), fs::perms::all);
    fs::permissions(written.folder, fs::perms::none);
    {
        const Nobody nobody;
        CHECK(refused(written.folder, ErrorCode::bad_input).what() == doctest::Contains("Permission denied"));
    }
    fs::permissions(written.folder, fs::perms::all);
    fs::permissions(written.folder / "golden", fs::perms::none);
    {
        const Nobody nobody;
        check_damaged(written, "golden/in.input.npy", "cannot be read: Permission denied");
    }
    fs::permissions(written.folder / "golden", fs::perms::all);
}

TEST_CASE("a file whose name is longer than file systems take is refused, and not called missing") {
    const Written written;
    json manifest = json::parse(read(written.folder / "manifest.json"));
    const std::string name(300, 'x');
    manifest["files"][name] = {{"path", name}, {"sha256", std::string(64, '0')}, {"bytes", 1}};
    write(written.folder / "manifest.json", manifest.dump());
    check_damaged(written, name, "cannot be read: File name too long");
}

TEST_CASE("a recorded size of exabytes is compared, not allocated") {
    Written written;
    json manifest = json::parse(read(written.folder / "manifest.json"));
    manifest["files"]["labels.txt"]["bytes"] = std::int64_t{1} << 62;
    write(written.folder / "manifest.json", manifest.dump());
    check_damaged(written, "labels.txt",
                  "has " + std::to_string(content_of("labels.txt").size()) + " bytes instead of");
}

TEST_CASE("files that the manifest does not list are never read") {
    const Written written;
    fs::create_symlink("/nowhere", written.folder / "more");
    CHECK_NOTHROW(Bundle{written.folder});
}
