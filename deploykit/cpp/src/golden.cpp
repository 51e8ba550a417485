#include "golden.hpp"

#include <map>
#include <string>
#include <utility>

#include "deploykit/error.hpp"
#include "files.hpp"

namespace deploykit {
namespace {

constexpr std::uint64_t largest = std::uint64_t{1} << 32U;

// As stored: float32 also if the graph has float16.
Array recorded(const Bundle& bundle, const TensorSpec& spec, const std::map<std::string, std::string>& paths) {
    const auto found = paths.find(spec.name);
    if (found == paths.end()) {
        throw Error(ErrorCode::check_failed, "it has no golden vector for '" + spec.name + "'.",
                    bundle.folder().string(), "Export the bundle again.");
    }
    const std::filesystem::path path = bundle.path(found->second);
    Array array = parse_npy(read_file(path, largest), path.string());
    Shape expected(spec.shape);
    expected[0] = bundle.manifest().golden.count;
    const DataType type = spec.type == DataType::float16 ? DataType::float32 : spec.type;
    if (array.shape != expected || array.type != type) {
        throw Error(ErrorCode::check_failed,
                    std::string("it is ") + name(array.type) + " " + array.shape.text() + ", not " + name(type) + " " +
                        expected.text() + ".",
                    path.string(), "Export the bundle again.");
    }
    return array;
}

Array as_halves(const Array& array) {
    const TensorView view = array.view();
    Array converted{DataType::float16, array.shape, std::vector<std::byte>(view.elements() * sizeof(Half))};
    auto* halves = reinterpret_cast<Half*>(converted.bytes.data());
    for (std::size_t index = 0; index < view.elements(); ++index) {
        halves[index] = to_half(view.value(index));
    }
    return converted;
}

}  // namespace

Array golden_input(const Bundle& bundle, const TensorSpec& spec) {
    Array array = recorded(bundle, spec, bundle.manifest().golden.inputs);
    return spec.type == DataType::float16 ? as_halves(array) : array;
}

Array golden_output(const Bundle& bundle, const TensorSpec& spec) {
    return recorded(bundle, spec, bundle.manifest().golden.outputs);
}

}  // namespace deploykit
