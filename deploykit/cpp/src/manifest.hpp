// manifest.json, as text, understood.
#pragma once

#include <string>
#include <string_view>

#include "deploykit/bundle.hpp"

namespace deploykit {

// Error(bad_input) for text that is no manifest of `schema_version`; `where` is the path that the error names.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace deploykit
