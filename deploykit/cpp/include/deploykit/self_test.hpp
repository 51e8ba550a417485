// The golden vectors: does this machine compute what the network computed as it was brought?
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/engine.hpp"

namespace deploykit {

// How far one output is from the oracle's, over all golden inputs; the definitions are those of `deploykit verify`.
struct OutputParity {
    std::string name;
    double max_abs = 0;
    double max_relative = 0;       // max |Δ| as a share of the reference's largest magnitude
    double cosine = 0;             // of the worst sample
    std::optional<double> snr_db;  // none: the outputs are identical
    std::optional<double> top1_agreement;
};

struct SelfTest {
    std::vector<OutputParity> outputs;
    std::vector<std::string> failures;  // each bound that does not hold, as a sentence

    bool passed() const noexcept { return failures.empty(); }
};

// The figures, whatever they are. Error(check_failed) where the golden files are not what the network takes and gives.
SelfTest compare_golden(const Bundle& bundle, const Engine& engine);

// Nothing, where every bound of the manifest's tolerance holds; else Error(check_failed) with all that do not.
void self_test(const Bundle& bundle, const Engine& engine);

}  // namespace deploykit
