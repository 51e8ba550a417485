// The most probable classes of a classifier's output.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit {

struct Prediction {
    std::size_t index = 0;
    std::string label;      // "class 7" if the bundle has no name for it
    float probability = 0;  // softmax of logits, or the output itself if the head is probabilities
};

// Find the `k` most probable classes of row `sample` of N×classes or N×classes×1×1 scores, best first, ties by index;
// fewer if there are fewer classes. Error(usage) for a bundle whose head is embedding or tensors, for scores of another
// shape, and for a sample outside N.
std::vector<Prediction> top_k(const TensorView& scores, std::size_t k, const Bundle& bundle, std::size_t sample = 0);

}  // namespace deploykit
