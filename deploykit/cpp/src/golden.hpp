// Read the golden vectors of a bundle.
#pragma once

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"
#include "npy.hpp"

namespace deploykit {

// The golden input for `spec`, in its data type, with one row per golden sample.
// Error(check_failed) if the bundle has none, or one of another type or shape.
Array golden_input(const Bundle& bundle, const TensorSpec& spec);

// The reference's output, with the same errors; float32 also if the network's output is float16.
Array golden_output(const Bundle& bundle, const TensorSpec& spec);

}  // namespace deploykit
