// All of deploykit's C++ interface.
#pragma once

#include "deploykit/bundle.hpp"     // IWYU pragma: export
#include "deploykit/engine.hpp"     // IWYU pragma: export
#include "deploykit/error.hpp"      // IWYU pragma: export
#include "deploykit/image.hpp"      // IWYU pragma: export
#include "deploykit/self_test.hpp"  // IWYU pragma: export
#include "deploykit/tensor.hpp"     // IWYU pragma: export
#include "deploykit/top_k.hpp"      // IWYU pragma: export
