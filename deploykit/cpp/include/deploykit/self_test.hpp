// Self-test: compare an engine's outputs for the golden inputs with those of the original network.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deploykit/bundle.hpp"
#include "deploykit/engine.hpp"

namespace deploykit {

// Difference between one output and the reference over all golden inputs, as defined by `deploykit verify`.
struct OutputParity {
    std::string name;
    double max_abs = 0;
    double max_relative = 0;       // max |Δ| as a share of the reference's largest magnitude
    double cosine = 0;             // of the worst sample
    std::optional<double> snr_db;  // none: identical outputs
    std::optional<double> top1_agreement;
};

struct SelfTest {
    std::vector<OutputParity> outputs;
    std::vector<std::string> failures;  // exceeded bounds, each as a sentence

    bool passed() const noexcept { return failures.empty(); }
};

// Measure the differences. Error(check_failed) if the golden files do not match the network's inputs and outputs.
SelfTest compare_golden(const Bundle& bundle, const Engine& engine);

// Check the differences against the manifest's tolerance. Error(check_failed) with every exceeded bound.
void self_test(const Bundle& bundle, const Engine& engine);

}  // namespace deploykit
