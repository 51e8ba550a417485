// The golden vectors of a bundle, as the network takes and gives them.
#pragma once

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"
#include "npy.hpp"

namespace deploykit {

// The input that `spec` describes, in its type: as many rows as there are golden samples.
// Error(check_failed) where the bundle has none, or one of another type or shape.
Array golden_input(const Bundle& bundle, const TensorSpec& spec);

// What the oracle answered, with the same errors; float32 also where the network gives float16.
Array golden_output(const Bundle& bundle, const TensorSpec& spec);

}  // namespace deploykit
