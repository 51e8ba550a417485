// The best classes of a classifier's answer.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/tensor.hpp"

namespace deploykit {

struct Prediction {
    std::size_t index = 0;
    std::string label;      // "class 7" where the bundle has no name for it
    float probability = 0;  // softmax of logits; what the network gave where its head gives probabilities
};

// The `k` best classes of row `sample` of N×classes scores, best first, of equals the first; fewer where there are
// fewer classes. N×classes×1×1 is as good. Error(usage) for a bundle whose head is embedding or tensors, for scores
// that are of another shape, and for a sample beyond N.
std::vector<Prediction> top_k(const TensorView& scores, std::size_t k, const Bundle& bundle, std::size_t sample = 0);

}  // namespace deploykit
