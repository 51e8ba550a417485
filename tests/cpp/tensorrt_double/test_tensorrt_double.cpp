// The TensorRT runtime from the bundle to the answer, with doubles of TensorRT and CUDA that compute y = 2·x on the
// host. It is compiled against NVIDIA's headers. It proves nothing about numbers or a GPU.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bundle_folder.hpp"
#include "deploykit/deploykit.hpp"
#include "gpu.hpp"
#include "refusal.hpp"
#include "tensorrt_gate.hpp"

// ThreadSanitizer's own may not be replaced.
#if defined(__SANITIZE_THREAD__)
#define ALLOCATIONS_ARE_COUNTED 0
#elif defined(__has_feature)
#define ALLOCATIONS_ARE_COUNTED !__has_feature(thread_sanitizer)
#else
#define ALLOCATIONS_ARE_COUNTED 1
#endif

#if ALLOCATIONS_ARE_COUNTED
namespace {

std::atomic<std::size_t> allocations{0};

}  // namespace

void* operator new(std::size_t bytes) {
    allocations += Inside::depth() == 0 ? 1 : 0;
    if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) {
        return memory;
    }
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*bytes*/) noexcept { std::free(memory); }
#endif

namespace {

using deploykit::Bundle;
using deploykit::Context;
using deploykit::DataType;
using deploykit::Engine;
using deploykit::EngineOptions;
using deploykit::ErrorCode;
using deploykit::TensorView;
using nlohmann::json;

const char* const plan = "engines/tensorrt-sm86/engine.plan";

json& engine_of(json& manifest) { return manifest["extra_engines"][0]["engine"]; }

// A bundle whose TensorRT engine is the double's, and was built for its machine.
json fitting_manifest() {
    auto manifest = rich_manifest();
    auto& engine = engine_of(manifest);
    engine["inputs"] = {{{"name", "x"}, {"dtype", "float32"}, {"shape", {"batch", 3}}, {"layout", "NC"}}};
    engine["outputs"] = {{{"name", "y"}, {"dtype", "float32"}, {"shape", {"batch", 3}}, {"layout", "NC"}}};
    engine["version"] = "10.15.1";
    engine["build"]["platform"] = deploykit::backends::tensorrt::read_platform();
    engine["build"]["compute_capabilities"] = {86};
    engine["build"]["options"]["version_compatible"] = false;
    return manifest;
}

// A machine with nothing wrong, and at the end nothing left on it.
class Machine {
public:
    Machine() { gpu() = Gpu{}; }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine() { CHECK(gpu().alive == 0); }

protected:
    Bundle bundle(const json& manifest = fitting_manifest()) const {
        write_bundle(folder_.path(), manifest);
        return Bundle(folder_.path());
    }
    Engine engine(EngineOptions options = {}) const {
        options.runtime = deploykit::Runtime::tensorrt;
        return Engine(bundle(), options);
    }
    deploykit::Error refused(const json& manifest = fitting_manifest()) const {
        const Bundle opened = bundle(manifest);
        return refusal([&] { Engine(opened, only_tensorrt()); });
    }
    static EngineOptions only_tensorrt() {
        EngineOptions options;
        options.runtime = deploykit::Runtime::tensorrt;
        return options;
    }
    const std::filesystem::path& folder() const { return folder_.path(); }

private:
    TemporaryFolder folder_;
};

// Runs `batch` samples that begin with `first`, and looks at every number of the answer.
void run(Context& context, std::int64_t batch, float first = 1) {
    std::vector<float> x(static_cast<std::size_t>(3 * batch));
    for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = first + static_cast<float>(i);
    }
    const TensorView& y = context.run(TensorView(x.data(), {batch, 3}));
    REQUIRE(y.shape() == deploykit::Shape{batch, 3});
    for (std::size_t i = 0; i < x.size(); ++i) {
        REQUIRE(y.as<float>()[i] == 2 * x[i]);
    }
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE_FIXTURE(Machine, "an engine tells what it takes, and for which batches its profile was made") {
    const auto loaded = engine();
    CHECK(loaded.runtime() == "TensorRT 10.15.1");
    CHECK(loaded.file() == plan);
    CHECK(loaded.inputs().at(0).name == "x");
    CHECK(loaded.outputs().at(0).name == "y");
    CHECK(loaded.batch().minimum == 1);
    CHECK(loaded.batch().maximum == 4);
}

TEST_CASE_FIXTURE(Machine, "answers are those of the inputs at hand, whatever the batch was before") {
    const auto loaded = engine();
    auto context = loaded.context();
    float first = 0;
    for (const std::int64_t batch : {1, 4, 2, 2, 2, 4, 4, 4, 1, 1}) {
        run(context, batch, first += 10);
    }
}

TEST_CASE_FIXTURE(Machine, "a context needs neither the bundle's folder nor the engine that it came from") {
    std::optional<Context> context;
    {
        const auto loaded = engine();
        context.emplace(loaded.context());
    }
    std::filesystem::remove_all(folder());
    run(*context, 3);
    Context moved = std::move(*context);
    run(moved, 3);
}

TEST_CASE_FIXTURE(Machine, "each context has memory of its own") {
    const auto loaded = engine();
    auto one = loaded.context();
    auto other = loaded.context();
    const float x[] = {1, 2, 3};
    const auto& y = one.run(TensorView(x, {1, 3}));
    run(other, 4, 100);
    CHECK(y.as<float>()[2] == 6);
}

TEST_CASE_FIXTURE(Machine, "threads that have a context each do not disturb each other") {
    const auto loaded = engine();
    std::atomic<int> wrong{0};
    const auto work = [&](float first) {
        auto context = loaded.context();
        for (int call = 0; call < 300; ++call) {
            const std::int64_t batch = 1 + call / 5 % 4;
            const std::vector<float> x(static_cast<std::size_t>(3 * batch), first + static_cast<float>(call));
            const auto& y = context.run(TensorView(x.data(), {batch, 3}));
            for (std::size_t i = 0; i < x.size(); ++i) {
                wrong += y.as<float>()[i] == 2 * x[i] ? 0 : 1;
            }
        }
    };
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back(work, 1000.0F * static_cast<float>(thread));
    }
    for (auto& thread : threads) {
        thread.join();
    }
    CHECK(wrong == 0);
    CHECK(gpu().launched > 0);
}

TEST_CASE_FIXTURE(Machine, "from the second call of a batch size on, a graph is launched") {
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    CHECK(gpu().enqueued == 1);
    CHECK(gpu().captured == 0);
    run(context, 2);
    run(context, 2);
    CHECK(gpu().enqueued == 1);
    CHECK(gpu().captured == 1);
    CHECK(gpu().launched == 2);
    run(context, 3);
    CHECK(gpu().enqueued == 2);
    run(context, 3);
    CHECK(gpu().captured == 2);
    CHECK(gpu().launched == 3);
}

TEST_CASE_FIXTURE(Machine, "sizes that take turns are not captured anew each time") {
    const auto loaded = engine();
    auto context = loaded.context();
    for (const std::int64_t batch : {1, 2, 1, 2, 1, 2}) {
        run(context, batch);
    }
    CHECK(gpu().enqueued == 6);
    CHECK(gpu().captured == 0);
}

TEST_CASE_FIXTURE(Machine, "without graphs every call is launched kernel by kernel") {
    EngineOptions options;
    options.cuda_graphs = false;
    const auto loaded = engine(options);
    auto context = loaded.context();
    for (int call = 0; call < 3; ++call) {
        run(context, 2);
    }
    CHECK(gpu().enqueued == 3);
    CHECK(gpu().captured == 0);
}

TEST_CASE_FIXTURE(Machine, "an engine that cannot be captured runs without a graph, and is not tried again") {
    gpu().capturable = false;
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    run(context, 2, 7);
    gpu().capturable = true;
    run(context, 2, 8);
    CHECK(gpu().enqueued == 3);
    CHECK(gpu().captured == 0);
}

TEST_CASE_FIXTURE(Machine, "a graph that cannot be launched is left, and the call answers all the same") {
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    run(context, 2);
    gpu().launchable = false;
    run(context, 2, 7);
    gpu().launchable = true;
    run(context, 2, 8);
    CHECK(gpu().launched == 1);
    CHECK(gpu().enqueued == 3);
}

#if ALLOCATIONS_ARE_COUNTED
TEST_CASE_FIXTURE(Machine,
                  "a batch that was run twice allocates nothing when it is run again, with graphs or without") {
    for (const bool graphs : {true, false}) {
        EngineOptions options;
        options.cuda_graphs = graphs;
        const auto loaded = engine(options);
        auto context = loaded.context();
        const std::vector<float> x(12);
        const TensorView input(x.data(), {4, 3});
        context.run(input);
        context.run(input);
        const std::size_t before = allocations;
        for (int call = 0; call < 10; ++call) {
            context.run(input);
        }
        CHECK(allocations == before);
        CHECK(before > 0);
    }
}
#endif

TEST_CASE_FIXTURE(Machine, "a failed call says what TensorRT said, and the next one works") {
    const auto loaded = engine();
    auto context = loaded.context();
    for (int call = 0; call < 3; ++call) {
        run(context, 2);
        gpu().enqueue = false;
        const auto error = refusal([&] { run(context, 3); });
        CHECK(error.code() == ErrorCode::backend);
        CHECK(error.where() == plan);
        CHECK(error.problem() == "TensorRT failed while computing: out of workspace.");
        gpu().enqueue = true;
        run(context, call == 0 ? 3 : 2, 50);
    }
}

TEST_CASE_FIXTURE(Machine, "a call that fails while it is captured is no answer") {
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    gpu().enqueue = false;
    CHECK(refusal([&] { run(context, 2, 7); }).code() == ErrorCode::backend);
    gpu().enqueue = true;
    run(context, 2, 8);
    CHECK(gpu().captured == 0);
}

TEST_CASE_FIXTURE(Machine, "whatever is thrown while a call is captured, the capture ends and the next call works") {
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    gpu().room_to_capture = false;
    CHECK_THROWS_AS(run(context, 2, 7), std::bad_alloc);
    gpu().room_to_capture = true;
    run(context, 2, 8);
    run(context, 2, 9);
    CHECK(gpu().captured == 0);
}

TEST_CASE_FIXTURE(Machine, "an error that CUDA tells only while it is waited for is not lost") {
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    gpu().waiting = cudaErrorIllegalAddress;
    const auto error = refusal([&] { run(context, 2); });
    CHECK(error.code() == ErrorCode::backend);
    CHECK(error.problem() == "computing failed: an error of the double.");
    gpu().waiting = cudaSuccess;
    run(context, 2, 50);
}

TEST_CASE_FIXTURE(Machine, "memory that cannot be had is told with what it was for, and what was had is given back") {
    const auto loaded = engine();
    gpu().memory = cudaErrorMemoryAllocation;
    auto error = refusal([&] { loaded.context(); });
    CHECK(error.problem() == "allocating GPU memory for x failed: out of memory.");
    CHECK(contains(error.remedy(), "smaller batch"));
    gpu().memory = cudaSuccess;
    gpu().page_locked = cudaErrorMemoryAllocation;
    error = refusal([&] { loaded.context(); });
    CHECK(error.problem() == "allocating page-locked memory for x failed: out of memory.");
    gpu().page_locked = cudaSuccess;
    auto context = loaded.context();
    run(context, 1);
}

TEST_CASE_FIXTURE(Machine, "a batch beyond the engine's is refused before TensorRT is asked") {
    const auto loaded = engine();
    auto context = loaded.context();
    CHECK(refusal([&] { run(context, 5); }).code() == ErrorCode::usage);
    CHECK(refusal([&] { run(context, 0); }).code() == ErrorCode::usage);
    CHECK(gpu().enqueued == 0);
}

TEST_CASE_FIXTURE(Machine, "in 8.6, a context that has no profile chooses the only one, or says that it cannot") {
    gpu().first_profile = -1;
    const auto loaded = engine();
    auto context = loaded.context();
    run(context, 2);
    gpu().profile = false;
    const auto error = refusal([&] { loaded.context(); });
    CHECK(error.code() == ErrorCode::backend);
    CHECK(contains(error.problem(), "no optimization profile"));
}

TEST_CASE_FIXTURE(Machine, "a context that TensorRT does not give is an error") {
    const auto loaded = engine();
    gpu().context = false;
    CHECK(refusal([&] { loaded.context(); }).problem() == "TensorRT cannot create an execution context.");
}

TEST_CASE_FIXTURE(Machine, "the GPU that was asked for is chosen at every call") {
    gpu().count = 2;
    EngineOptions options;
    options.device = 1;
    const auto loaded = engine(options);
    auto context = loaded.context();
    gpu().current = 0;
    run(context, 2);
    CHECK(gpu().current == 1);
}

TEST_CASE_FIXTURE(Machine, "a GPU that there is not is the caller's mistake") {
    const Bundle opened = bundle();
    for (const int device : {-1, 1}) {
        auto options = only_tensorrt();
        options.device = device;
        const auto error = refusal([&] { Engine(opened, options); });
        CHECK(error.code() == ErrorCode::usage);
        CHECK(error.problem() == "there is no GPU " + std::to_string(device) + ".");
    }
}

TEST_CASE_FIXTURE(Machine, "where the driver is missing, too old, or finds no GPU, TensorRT is never touched") {
    gpu().runtime = false;  // it would be told that TensorRT gives none
    const auto problem = [&] {
        const auto error = refused();
        CHECK(error.code() == ErrorCode::backend);
        CHECK(error.where() == "CUDA");
        return error.problem();
    };
    gpu().counting = cudaErrorInsufficientDriver;
    gpu().driver = 0;
    CHECK(problem() == "no NVIDIA driver is installed.");
    gpu().driver = 12020;
    CHECK(problem() == "the NVIDIA driver supports CUDA 12.2, and this program needs CUDA 13.0.");
    gpu().counting = cudaErrorNoDevice;
    CHECK(problem() == "the NVIDIA driver finds no GPU.");
    gpu().counting = cudaErrorSystemNotReady;
    CHECK(problem() == "the NVIDIA driver failed: an error of the double.");
    gpu().counting = cudaSuccess;
    gpu().count = 0;
    CHECK(problem() == "the NVIDIA driver finds no GPU.");
}

TEST_CASE_FIXTURE(Machine, "a foreign engine is refused before its plan is read") {
    const auto problem = [&](const json& manifest) {
        const Bundle opened = bundle(manifest);
        std::filesystem::remove(folder() / plan);
        const auto error = refusal([&] { Engine(opened, only_tensorrt()); });
        CHECK(error.code() == ErrorCode::backend);
        CHECK(contains(error.remedy(), "deploykit compile BUNDLE --target tensorrt"));
        return error.problem();
    };
    auto manifest = fitting_manifest();
    engine_of(manifest)["build"]["platform"] = "Linux riscv64";
    CHECK(problem(manifest) ==
          "it was built for Linux riscv64; this machine is " + deploykit::backends::tensorrt::read_platform() + ".");
    manifest = fitting_manifest();
    engine_of(manifest)["version"] = "10.3.0.26";
    CHECK(problem(manifest) == "it was built for TensorRT 10.3.0.26; this machine has 10.15.1.");
    gpu().minor = 9;
    CHECK(problem(fitting_manifest()) ==
          "it was built for compute capability 8.6; this machine's NVIDIA Fake has 8.9.");
    CHECK(problem(plain_manifest()) == "it has no TensorRT engine.");
}

TEST_CASE_FIXTURE(Machine, "a plan that has changed since the bundle was opened is not loaded") {
    const Bundle opened = bundle();
    write(folder() / plan, "less");
    CHECK(refusal([&] { Engine(opened, only_tensorrt()); }).code() == ErrorCode::check_failed);
    write(folder() / plan, std::string(1000, 'm'));
    CHECK(refusal([&] { Engine(opened, only_tensorrt()); }).code() == ErrorCode::bad_input);
}

TEST_CASE_FIXTURE(Machine, "a plan that TensorRT does not take is told in TensorRT's words") {
    gpu().plan = false;
    const auto error = refused();
    CHECK(error.code() == ErrorCode::backend);
    CHECK(error.where() == plan);
    CHECK(error.problem() == "TensorRT 10.15.1 cannot load it: the plan is damaged; and so on.");
    gpu().runtime = false;
    CHECK(refused().problem() == "TensorRT 10.15.1 cannot create a runtime.");
}

TEST_CASE_FIXTURE(Machine, "only a version-compatible plan may bring code of its own") {
    engine();
    CHECK_FALSE(gpu().host_code);
    auto manifest = fitting_manifest();
    engine_of(manifest)["build"]["options"]["version_compatible"] = true;
    Engine(bundle(manifest), only_tensorrt());
    CHECK(gpu().host_code);
}

TEST_CASE_FIXTURE(Machine, "an engine runs on the accelerator core that it was built for") {
    auto manifest = fitting_manifest();
    engine_of(manifest)["build"]["options"]["dla_core"] = 1;
    Engine(bundle(manifest), only_tensorrt());
    CHECK(gpu().dla_core == 1);
}

TEST_CASE_FIXTURE(Machine, "an engine with other tensors than its record says is refused: buffers go by the record") {
    const auto refused_tensor = [&] {
        const auto error = refused();
        CHECK(error.code() == ErrorCode::backend);
        CHECK(error.where() == plan);
        return error.problem();
    };
    const std::string disagreement = "the engine and its record differ in the input x.";
    gpu().input_type = nvinfer1::DataType::kHALF;
    CHECK(refused_tensor() == disagreement);
    gpu().input_type = nvinfer1::DataType::kBOOL;
    CHECK(refused_tensor() == disagreement);
    gpu() = Gpu{};
    gpu().format = nvinfer1::TensorFormat::kCHW32;
    CHECK(refused_tensor() == disagreement);
    gpu() = Gpu{};
    gpu().width = 4;
    CHECK(refused_tensor() == disagreement);
    gpu() = Gpu{};
    gpu().input = "z";
    CHECK(refused_tensor() == disagreement);
}

TEST_CASE_FIXTURE(Machine, "an engine with more or fewer tensors than its record names is refused") {
    gpu().tensors = 3;
    CHECK(refused().problem() == "the engine and its record differ in the number of tensors.");
    gpu().tensors = 2;
    auto manifest = fitting_manifest();
    auto another = engine_of(manifest)["outputs"][0];
    another["name"] = "another";
    engine_of(manifest)["outputs"].push_back(another);
    CHECK(refused(manifest).problem() == "the engine and its record differ in the output another.");
}
