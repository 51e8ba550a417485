// Parse manifest.json.
#pragma once

#include <string>
#include <string_view>

#include "deploykit/bundle.hpp"

namespace deploykit {

// Error(bad_input) for text that is not a manifest of `schema_version`; `where` is the path for the error message.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace deploykit
