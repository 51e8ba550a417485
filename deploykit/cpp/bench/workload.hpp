// What a bundle is measured on: its golden inputs, their rows repeated until there are as many as the batch has.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "../src/files.hpp"
#include "../src/npy.hpp"
#include "deploykit/deploykit.hpp"

namespace deploykit::bench {

class Workload {
public:
    // Error(check_failed) where the golden inputs are not what the network takes.
    Workload(const Bundle& bundle, const std::vector<TensorSpec>& specs, std::int64_t batch) {
        for (const TensorSpec& spec : specs) {
            arrays_.push_back(rows(golden(bundle, spec), spec, batch));
        }
        for (const Array& array : arrays_) {
            inputs_.push_back(array.view());
        }
    }

    // In the order of the specs.
    const std::vector<TensorView>& inputs() const { return inputs_; }

private:
    static constexpr std::uint64_t largest = std::uint64_t{1} << 32U;

    static Array golden(const Bundle& bundle, const TensorSpec& spec) {
        const std::map<std::string, std::string>& paths = bundle.manifest().golden.inputs;
        const auto found = paths.find(spec.name);
        if (found == paths.end()) {
            throw Error(ErrorCode::check_failed, "it has no golden input '" + spec.name + "'.",
                        bundle.folder().string(), "Export the bundle again.");
        }
        const std::filesystem::path path = bundle.path(found->second);
        Array array = parse_npy(read_file(path, largest), path.string());
        Shape expected(spec.shape);
        expected[0] = bundle.manifest().golden.count;
        if (array.shape != expected || array.shape[0] < 1) {
            throw Error(ErrorCode::check_failed, "it is " + array.shape.text() + ", not " + expected.text() + ".",
                        path.string(), "Export the bundle again.");
        }
        return array;
    }

    // Golden inputs are float32 also where the network takes float16.
    static Array rows(const Array& golden, const TensorSpec& spec, std::int64_t batch) {
        const TensorView view = golden.view();
        Shape shape = golden.shape;
        shape[0] = batch;
        Array made{spec.type, shape, {}};
        made.bytes.resize(made.view().bytes());
        const auto count = static_cast<std::size_t>(shape.elements());
        const std::size_t element = bytes_per_element(spec.type);
        for (std::size_t index = 0; index < count; ++index) {
            const std::size_t source = index % view.elements();
            if (spec.type == view.type()) {
                std::memcpy(&made.bytes[index * element], &golden.bytes[source * element], element);
            } else {
                const Half half = to_half(view.value(source));
                std::memcpy(&made.bytes[index * element], &half, element);
            }
        }
        return made;
    }

    std::vector<Array> arrays_;
    std::vector<TensorView> inputs_;
};

}  // namespace deploykit::bench
