#include "deploykit/self_test.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "deploykit/error.hpp"
#include "golden.hpp"

namespace deploykit {
namespace {

// Elements of a sample from which on a cosine is informative, as in Python: of a single number it is only the sign.
constexpr std::size_t enough_for_cosine = 8;

// One output of reference and candidate: samples × elements.
struct Pair {
    const TensorView& reference;
    const TensorView& candidate;

    std::size_t samples() const { return static_cast<std::size_t>(reference.shape()[0]); }
    std::size_t elements() const { return reference.elements() / samples(); }
    double r(std::size_t index) const { return reference.value(index); }
    double c(std::size_t index) const { return candidate.value(index); }
};

bool all_finite(const TensorView& tensor) {
    for (std::size_t index = 0; index < tensor.elements(); ++index) {
        if (!std::isfinite(tensor.value(index))) {
            return false;
        }
    }
    return true;
}

// Smallest ⟨r, c⟩ / (‖r‖·‖c‖) over samples; 1 for two zero vectors, 0 for one.
double worst_cosine(const Pair& pair) {
    double worst = 1;
    for (std::size_t sample = 0; sample < pair.samples(); ++sample) {
        double product = 0;
        double reference = 0;
        double candidate = 0;
        for (std::size_t index = sample * pair.elements(); index < (sample + 1) * pair.elements(); ++index) {
            product += pair.r(index) * pair.c(index);
            reference += pair.r(index) * pair.r(index);
            candidate += pair.c(index) * pair.c(index);
        }
        const double norms = std::sqrt(reference) * std::sqrt(candidate);
        const bool both_zero = reference == 0 && candidate == 0;
        worst = std::min(worst, norms > 0 ? product / norms : static_cast<double>(both_zero));
    }
    return worst;
}

double top1_agreement(const Pair& pair) {
    std::size_t agreeing = 0;
    for (std::size_t sample = 0; sample < pair.samples(); ++sample) {
        const std::size_t begin = sample * pair.elements();
        std::size_t reference = begin;
        std::size_t candidate = begin;
        for (std::size_t index = begin; index < begin + pair.elements(); ++index) {
            reference = pair.r(index) > pair.r(reference) ? index : reference;
            candidate = pair.c(index) > pair.c(candidate) ? index : candidate;
        }
        agreeing += static_cast<std::size_t>(reference == candidate);
    }
    return static_cast<double>(agreeing) / static_cast<double>(pair.samples());
}

OutputParity measure(const std::string& output, const Pair& pair, bool classes) {
    OutputParity parity{output, 0, 0, worst_cosine(pair), std::nullopt, std::nullopt};
    double scale = 0;
    double signal = 0;
    double noise = 0;
    for (std::size_t index = 0; index < pair.reference.elements(); ++index) {
        const double difference = std::abs(pair.c(index) - pair.r(index));
        parity.max_abs = std::max(parity.max_abs, difference);
        scale = std::max(scale, std::abs(pair.r(index)));
        signal += pair.r(index) * pair.r(index);
        noise += difference * difference;
    }
    constexpr double infinity = std::numeric_limits<double>::infinity();
    parity.max_relative = scale > 0 ? parity.max_abs / scale : (parity.max_abs > 0 ? infinity : 0);
    if (noise > 0) {
        parity.snr_db = signal > 0 ? 10 * std::log10(signal / noise) : -infinity;
    }
    if (classes) {
        parity.top1_agreement = top1_agreement(pair);
    }
    return parity;
}

std::string format_number(const char* format, double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

// One sentence per exceeded bound; NaN exceeds every bound.
std::vector<std::string> check_bounds(const OutputParity& measured, const Pair& pair, const Tolerance& bounds) {
    const std::string where = "output '" + measured.name + "': ";
    std::vector<std::string> failures;
    if (bounds.max_relative && !(measured.max_relative <= *bounds.max_relative)) {
        failures.push_back(where + "the largest difference is " + format_number("%.2e", measured.max_relative) +
                           " of full scale, above the bound of " + format_number("%.2e", *bounds.max_relative));
    }
    if (bounds.min_cosine && pair.elements() >= enough_for_cosine && !(measured.cosine >= *bounds.min_cosine)) {
        failures.push_back(where + "the worst sample's cosine is " + format_number("%.6f", measured.cosine) +
                           ", below the bound of " + format_number("%.6f", *bounds.min_cosine));
    }
    if (measured.snr_db && !(*measured.snr_db >= bounds.min_snr_db)) {
        failures.push_back(where + "the signal-to-noise ratio is " + format_number("%.1f", *measured.snr_db) +
                           " dB, below the bound of " + format_number("%.1f", bounds.min_snr_db) + " dB");
    }
    if (measured.top1_agreement && bounds.min_top1_agreement) {
        // With few samples, one near-tie is a large share: a single sample may always differ.
        const auto count = static_cast<double>(pair.samples());
        const double different = std::round((1 - *measured.top1_agreement) * count);
        if (different > std::max(1.0, std::floor((1 - *bounds.min_top1_agreement) * count))) {
            failures.push_back(where + "the best class is the same for " +
                               format_number("%.2f", *measured.top1_agreement * 100) + " % of the samples only");
        }
    }
    return failures;
}

// Whether an output holds class scores, as in Python: N×classes, optionally followed by axes of size 1.
bool has_class_scores(const Manifest& manifest, const Shape& shape) {
    const bool ones = std::all_of(shape.begin() + std::min<std::size_t>(2, shape.rank()), shape.end(),
                                  [](std::int64_t size) { return size == 1; });
    return ones && (manifest.head == "logits" || manifest.head == "probabilities");
}

}  // namespace

SelfTest compare_golden(const Bundle& bundle, const Engine& engine) {
    const Manifest& manifest = bundle.manifest();
    std::vector<Array> inputs;
    std::vector<TensorView> views;
    inputs.reserve(engine.inputs().size());
    for (const TensorSpec& spec : engine.inputs()) {
        inputs.push_back(golden_input(bundle, spec));
        views.push_back(inputs.back().view());
    }
    Context context = engine.context();
    const std::vector<TensorView>& outputs = context.run(views);
    SelfTest result;
    for (std::size_t index = 0; index < outputs.size(); ++index) {
        const TensorSpec& spec = engine.outputs()[index];
        const Array expected = golden_output(bundle, spec);
        const TensorView reference = expected.view();
        if (!all_finite(outputs[index])) {
            result.outputs.push_back({spec.name, std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::infinity(), -1, std::nullopt, std::nullopt});
            result.failures.push_back("output '" + spec.name + "': it holds NaN or infinity");
            continue;
        }
        const bool classes = has_class_scores(manifest, reference.shape());
        const Pair pair{reference, outputs[index]};
        result.outputs.push_back(measure(spec.name, pair, classes));
        const auto failures = check_bounds(result.outputs.back(), pair, manifest.tolerance);
        result.failures.insert(result.failures.end(), failures.begin(), failures.end());
    }
    return result;
}

void self_test(const Bundle& bundle, const Engine& engine) {
    const SelfTest result = compare_golden(bundle, engine);
    if (result.passed()) {
        return;
    }
    std::string failures;
    for (const std::string& failure : result.failures) {
        failures += (failures.empty() ? "" : "; ") + failure;
    }
    throw Error(ErrorCode::check_failed,
                "the outputs of " + engine.runtime() + " for the golden inputs differ from those of " +
                    bundle.manifest().oracle + ": " + failures + ".",
                bundle.path(engine.file()).string(), "Do not serve it: export the bundle again, or another precision.");
}

}  // namespace deploykit
