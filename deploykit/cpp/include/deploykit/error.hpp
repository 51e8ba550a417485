// What goes wrong, in one type: what happened, where, and what to do about it.
#pragma once

#include <exception>
#include <string>

namespace deploykit {

// The kinds of failure, numbered like the exit codes of the command line.
enum class ErrorCode {
    check_failed = 1,  // a digest or the self-test: the bundle, or what computes it, is not what was exported
    usage = 2,         // the caller's own words: a wrong type, shape or batch
    bad_input = 3,     // a file or folder that cannot be used as it is
    backend = 4,       // a library or device that is missing, refuses the work, or is another than an engine needs
    internal = 5,      // a promise of this library that did not hold
};

// "check_failed", "usage", "bad_input", "backend" or "internal".
const char* name(ErrorCode code) noexcept;

// The only exception that this library throws on purpose; std::bad_alloc may pass through it.
class Error : public std::exception {
public:
    // `problem` is a sentence without its subject's place, `where` a path, tensor or library, `remedy` a sentence.
    Error(ErrorCode code, std::string problem, std::string where, std::string remedy);

    ErrorCode code() const noexcept { return code_; }
    const std::string& problem() const noexcept { return problem_; }
    const std::string& where() const noexcept { return where_; }
    const std::string& remedy() const noexcept { return remedy_; }

    // All of it in one line: "WHERE: PROBLEM REMEDY".
    const char* what() const noexcept override { return whole_.c_str(); }

private:
    ErrorCode code_;
    std::string problem_;
    std::string where_;
    std::string remedy_;
    std::string whole_;
};

}  // namespace deploykit
