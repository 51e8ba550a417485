#include "deploykit/top_k.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "deploykit/error.hpp"

namespace deploykit {
namespace {

void require_scores(const TensorView& scores, const Bundle& bundle, std::size_t sample) {
    if (const std::string& head = bundle.manifest().head; head == "embedding") {
        throw Error(ErrorCode::usage, "it outputs embeddings, not class scores.", bundle.folder().string(),
                    "Export it with --head logits.");
    } else if (head != "logits" && head != "probabilities") {
        throw Error(ErrorCode::usage, "it outputs tensors that are not declared as class scores.",
                    bundle.folder().string(),
                    "Read them directly, or export it with --head logits if they are class scores.");
    }
    if (scores.data() == nullptr) {
        throw Error(ErrorCode::usage, "there are no scores: their pointer is null.", "top_k",
                    "Pass the output of a classifier.");
    }
    const Shape& shape = scores.shape();
    const bool flat = shape.rank() == 2 || (shape.rank() == 4 && shape[2] == 1 && shape[3] == 1);
    if (!flat || shape[0] < 1 || shape[1] < 1) {
        throw Error(ErrorCode::usage, "scores must be N×classes, and these are " + scores.shape().text() + ".", "top_k",
                    "Pass the output of a classifier.");
    }
    if (sample >= static_cast<std::size_t>(scores.shape()[0])) {
        throw Error(ErrorCode::usage,
                    "there is no sample " + std::to_string(sample) + " in scores of " + scores.shape().text() + ".",
                    "top_k", "Samples count from 0.");
    }
}

// Row `sample`; NaN ranks below all numbers.
std::vector<double> row(const TensorView& scores, std::size_t sample) {
    const auto classes = static_cast<std::size_t>(scores.shape()[1]);
    std::vector<double> found(classes);
    for (std::size_t index = 0; index < classes; ++index) {
        const double score = scores.value(sample * classes + index);
        found[index] = std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
    }
    return found;
}

std::vector<double> softmax(std::vector<double> scores) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) {
        score = std::exp(score - largest);  // the largest becomes e⁰, so that nothing overflows
    }
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& score : scores) {
        score /= sum;
    }
    return scores;
}

}  // namespace

std::vector<Prediction> top_k(const TensorView& scores, std::size_t k, const Bundle& bundle, std::size_t sample) {
    require_scores(scores, bundle, sample);
    const std::vector<double> ranked = row(scores, sample);
    const std::vector<double> given = bundle.manifest().head == "logits" ? softmax(ranked) : ranked;
    std::vector<std::size_t> order(ranked.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return ranked[a] > ranked[b]; });
    order.resize(std::min(k, order.size()));
    std::vector<Prediction> best;
    for (const std::size_t index : order) {
        const std::string label =
            index < bundle.labels().size() ? bundle.labels()[index] : "class " + std::to_string(index);
        best.push_back({index, label, static_cast<float>(given[index])});
    }
    return best;
}

}  // namespace deploykit
