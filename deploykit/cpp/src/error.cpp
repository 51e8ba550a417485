#include "deploykit/error.hpp"

#include <utility>

namespace deploykit {

const char* name(ErrorCode code) noexcept {
    switch (code) {
        case ErrorCode::check_failed:
            return "check_failed";
        case ErrorCode::usage:
            return "usage";
        case ErrorCode::bad_input:
            return "bad_input";
        case ErrorCode::backend:
            return "backend";
        case ErrorCode::internal:
            return "internal";
    }
    return "unknown";
}

Error::Error(ErrorCode code, std::string problem, std::string where, std::string remedy)
    : code_(code), problem_(std::move(problem)), where_(std::move(where)), remedy_(std::move(remedy)) {
    whole_ = where_.empty() ? problem_ : where_ + ": " + problem_;
    if (!remedy_.empty()) {
        whole_ += " " + remedy_;
    }
}

}  // namespace deploykit
