// Inputs of a measurement: the golden inputs, with rows repeated to fill the batch.
#pragma once

#include <cstring>
#include <vector>

#include "../src/golden.hpp"
#include "deploykit/deploykit.hpp"

namespace deploykit::bench {

class Workload {
public:
    // Error(check_failed) if the golden inputs do not match the network.
    Workload(const Bundle& bundle, const std::vector<TensorSpec>& specs, std::int64_t batch) {
        for (const TensorSpec& spec : specs) {
            arrays_.push_back(rows(golden_input(bundle, spec), batch));
        }
        for (const Array& array : arrays_) {
            inputs_.push_back(array.view());
        }
    }

    // In the order of the specs.
    const std::vector<TensorView>& inputs() const { return inputs_; }

private:
    static Array rows(const Array& golden, std::int64_t batch) {
        Array made{golden.type, golden.shape, {}};
        made.shape[0] = batch;
        made.bytes.resize(made.view().bytes());
        const std::size_t row = made.bytes.size() / static_cast<std::size_t>(batch);
        for (std::size_t begin = 0; begin < made.bytes.size(); begin += row) {
            std::memcpy(&made.bytes[begin], &golden.bytes[begin % golden.bytes.size()], row);
        }
        return made;
    }

    std::vector<Array> arrays_;
    std::vector<TensorView> inputs_;
};

}  // namespace deploykit::bench
