// Opens bundles, loads their engines and asks their golden vectors: a line for each, with the figures.
//
//   bundle_self_test BUNDLE…
//
// Exit 0: every bound of every bundle holds. 1: one does not, or a bundle or an engine was refused.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include "deploykit/deploykit.hpp"

namespace {

bool passes(const std::filesystem::path& folder) {
    const deploykit::Bundle bundle(folder);
    deploykit::EngineOptions options;
    options.threads = 1;  // an emulated processor would spend minutes on threads that wait for each other by spinning
    const deploykit::Engine engine(bundle, options);
    const deploykit::SelfTest result = deploykit::compare_golden(bundle, engine);
    std::printf("%s: %s, %s", folder.filename().c_str(), result.passed() ? "passed" : "FAILED",
                engine.runtime().c_str());
    for (const deploykit::OutputParity& output : result.outputs) {
        const std::string snr = output.snr_db ? std::to_string(*output.snr_db) + " dB" : "identical";
        std::printf(", %s: max relative %.2e, cosine %.6f, SNR %s", output.name.c_str(), output.max_relative,
                    output.cosine, snr.c_str());
    }
    std::printf("\n");
    for (const std::string& failure : result.failures) {
        std::printf("  %s\n", failure.c_str());
    }
    return result.passed();
}

}  // namespace

int main(int count, char** words) {
    bool good = count > 1;
    for (int index = 1; index < count; ++index) {
        try {
            good = passes(words[index]) && good;
        } catch (const std::exception& error) {
            std::printf("%s: REFUSED, %s\n", words[index], error.what());
            good = false;
        }
        std::fflush(stdout);
    }
    return good ? 0 : 1;
}
