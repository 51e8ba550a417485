// The library's exception: what happened, where, and what to do.
#pragma once

#include <exception>
#include <string>

namespace deploykit {

// Error codes, equal to the exit codes of the command line.
enum class ErrorCode {
    check_failed = 1,  // a checksum or the self-test failed
    usage = 2,         // an invalid argument: a wrong type, shape or batch
    bad_input = 3,     // a file, folder or image that cannot be used
    backend = 4,       // a library or device that is missing, fails, or does not match the engine
    internal = 5,      // a violated invariant of this library
};

// "check_failed", "usage", "bad_input", "backend" or "internal".
const char* name(ErrorCode code) noexcept;

// The only exception type that this library throws; std::bad_alloc can also propagate.
class Error : public std::exception {
public:
    // `problem` is a sentence about `where`, which is a path, tensor or library; `remedy` is a sentence.
    Error(ErrorCode code, std::string problem, std::string where, std::string remedy);

    ErrorCode code() const noexcept { return code_; }
    const std::string& problem() const noexcept { return problem_; }
    const std::string& where() const noexcept { return where_; }
    const std::string& remedy() const noexcept { return remedy_; }

    // The full message in one line: "WHERE: PROBLEM REMEDY".
    const char* what() const noexcept override { return whole_.c_str(); }

private:
    ErrorCode code_;
    std::string problem_;
    std::string where_;
    std::string remedy_;
    std::string whole_;
};

}  // namespace deploykit
