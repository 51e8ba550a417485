// Run the bundle's graph with ONNX Runtime on the CPU, through its C API.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "backend.hpp"
#include "deploykit/error.hpp"

namespace deploykit::backends {
namespace {

constexpr const char* title = "ONNX Runtime";

// An optimizer of 1.31 computes bias / (scale · scale) in the scales' data type, which overflows in FP16 and silently
// gives wrong outputs.
constexpr const char* overflowing_optimizer = "WeightBiasQuantization";
constexpr const char* disabled_optimizers = "optimization.disable_specified_optimizers";

// The function table of the loaded library, which may be older than the headers.
const OrtApi& library() {
    const OrtApiBase* base = OrtGetApiBase();
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
        throw Error(ErrorCode::backend,
                    std::string("the library is ") + base->GetVersionString() + ", older than the headers (1." +
                        std::to_string(ORT_API_VERSION) + ") that this program was built with.",
                    title, "Install the version that the program was built with, or rebuild the program.");
    }
    return *api;
}

void require(const OrtApi& api, OrtStatus* status, ErrorCode code, const char* remedy) {
    if (status != nullptr) {
        std::string reason = api.GetErrorMessage(status);
        api.ReleaseStatus(status);
        std::replace(reason.begin(), reason.end(), '\n', ' ');  // an error is one line
        throw Error(code, reason + (reason.empty() || reason.back() != '.' ? "." : ""), title, remedy);
    }
}

// Errors are returned as a status; log messages must not go to the caller's stderr.
void ORT_API_CALL ignore(void* /*parameter*/, OrtLoggingLevel /*severity*/, const char* /*category*/,
                         const char* /*logid*/, const char* /*location*/, const char* /*message*/) {}

// An object of the library, released by the function for its type.
template <class T>
using Owned = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

template <class T, class Create>
Owned<T> owned(const OrtApi& api, void(ORT_API_CALL* release)(T*), ErrorCode code, const char* remedy, Create create) {
    T* made = nullptr;
    require(api, create(&made), code, remedy);
    return Owned<T>(made, release);
}

ONNXTensorElementDataType element_type(DataType type) {
    switch (type) {
        case DataType::float32:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        case DataType::float16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case DataType::uint8:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case DataType::int8:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
        case DataType::int32:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        case DataType::int64:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// Created once per engine, used by every context and thread.
struct Session {
    const OrtApi& api;
    Owned<OrtEnv> environment;  // one per process, reference-counted by the library
    Owned<OrtSession> session;
    Owned<OrtMemoryInfo> host;
};

class RuntimeContext final : public Context {
public:
    RuntimeContext(std::shared_ptr<const Session> session, const Description& engine)
        : session_(std::move(session)), engine_(engine) {
        for (const TensorSpec& spec : engine_.inputs) {
            input_names_.push_back(spec.name.c_str());
            inputs_.emplace_back(nullptr, session_->api.ReleaseValue);
        }
        for (const TensorSpec& spec : engine_.outputs) {
            output_names_.push_back(spec.name.c_str());
            outputs_.emplace_back(nullptr, session_->api.ReleaseValue);
        }
        given_.resize(engine_.inputs.size());
        answers_.resize(engine_.outputs.size());
        buffers_.resize(engine_.outputs.size());
        input_values_.resize(engine_.inputs.size());
        output_values_.resize(engine_.outputs.size());
    }

    const std::vector<TensorView>& run(const TensorView* inputs) override {
        for (std::size_t index = 0; index < inputs_.size(); ++index) {
            bind_input(index, inputs[index]);
        }
        if (const std::int64_t batch = inputs[0].shape()[0]; batch != batch_) {
            bind_outputs(batch);
        }
        const OrtApi& api = session_->api;
        require(api,
                api.Run(session_->session.get(), nullptr, input_names_.data(), input_values_.data(),
                        input_values_.size(), output_names_.data(), output_names_.size(), output_values_.data()),
                ErrorCode::backend, "Run deploykit verify on the bundle; if it passes, report this.");
        return answers_;
    }

private:
    // Inputs are read in place. The OrtValue is reused as long as the address stays the same.
    void bind_input(std::size_t index, const TensorView& view) {
        TensorView& given = given_[index];
        if (given.data() != view.data() || given.shape() != view.shape()) {
            inputs_[index] = value(view);
            input_values_[index] = inputs_[index].get();
            given = view;
        }
    }

    void bind_outputs(std::int64_t batch) {
        batch_ = 0;  // invalidates the buffers in case an allocation fails
        for (std::size_t index = 0; index < outputs_.size(); ++index) {
            const TensorSpec& spec = engine_.outputs[index];
            Shape shape(spec.shape);
            shape[0] = batch;
            const TensorView sized(nullptr, spec.type, shape);
            if (buffers_[index].size() < sized.bytes()) {
                buffers_[index].resize(sized.bytes());
            }
            answers_[index] = TensorView(buffers_[index].data(), spec.type, shape);
            outputs_[index] = value(answers_[index]);
            output_values_[index] = outputs_[index].get();
        }
        batch_ = batch;
    }

    Owned<OrtValue> value(const TensorView& view) const {
        const OrtApi& api = session_->api;
        auto* data = const_cast<void*>(view.data());  // the library writes only to outputs
        return owned<OrtValue>(api, api.ReleaseValue, ErrorCode::internal, "Report this.", [&](OrtValue** made) {
            return api.CreateTensorWithDataAsOrtValue(session_->host.get(), data, view.bytes(), view.shape().begin(),
                                                      view.shape().rank(), element_type(view.type()), made);
        });
    }

    std::shared_ptr<const Session> session_;
    const Description& engine_;  // the deploykit::Context that owns this one keeps the engine alive
    std::vector<const char*> input_names_;
    std::vector<const char*> output_names_;
    std::vector<Owned<OrtValue>> inputs_;
    std::vector<Owned<OrtValue>> outputs_;
    std::vector<const OrtValue*> input_values_;
    std::vector<OrtValue*> output_values_;
    std::vector<TensorView> given_;
    std::vector<TensorView> answers_;
    std::vector<std::vector<std::byte>> buffers_;
    std::int64_t batch_ = 0;
};

class RuntimeEngine final : public Engine {
public:
    RuntimeEngine(std::shared_ptr<const Session> session, Description description)
        : Engine(std::move(description)), session_(std::move(session)) {}

    std::unique_ptr<Context> context() const override {
        return std::make_unique<RuntimeContext>(session_, description());
    }

private:
    std::shared_ptr<const Session> session_;
};

// The engine of ONNX Runtime if the bundle has one, else the bundle's graph.
std::string graph_of(const Manifest& manifest) {
    const auto ours = std::find_if(manifest.engines.begin(), manifest.engines.end(),
                                   [](const EngineRecord& engine) { return engine.backend == "onnxruntime"; });
    return ours != manifest.engines.end() ? ours->file.path : manifest.graph;
}

Owned<OrtSessionOptions> session_options(const OrtApi& api, const Manifest& manifest, int threads) {
    const auto check = [&api](OrtStatus* status) { require(api, status, ErrorCode::backend, "Report this."); };
    auto options = owned<OrtSessionOptions>(api, api.ReleaseSessionOptions, ErrorCode::backend, "Report this.",
                                            [&](OrtSessionOptions** made) { return api.CreateSessionOptions(made); });
    check(api.SetIntraOpNumThreads(options.get(), threads));
    if (manifest.precision == "int8-fp16") {
        check(api.AddSessionConfigEntry(options.get(), disabled_optimizers, overflowing_optimizer));
    }
    return options;
}

// Require that names and types of the graph's inputs or outputs match the manifest.
template <class Count, class Name, class Type>
void require_interface(const OrtApi& api, const Session& session, const std::vector<TensorSpec>& specs,
                       const std::string& where, Count count_of, Name name_of, Type type_of) {
    const auto check = [&api](OrtStatus* status) { require(api, status, ErrorCode::internal, "Report this."); };
    OrtAllocator* allocator = nullptr;
    check(api.GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    check(count_of(session.session.get(), &count));
    bool same = count == specs.size();
    for (std::size_t index = 0; same && index < count; ++index) {
        char* found = nullptr;
        check(name_of(session.session.get(), index, allocator, &found));
        const auto spec =
            std::find_if(specs.begin(), specs.end(), [found](const TensorSpec& one) { return one.name == found; });
        check(api.AllocatorFree(allocator, found));
        const auto info =
            owned<OrtTypeInfo>(api, api.ReleaseTypeInfo, ErrorCode::internal, "Report this.",
                               [&](OrtTypeInfo** made) { return type_of(session.session.get(), index, made); });
        const OrtTensorTypeAndShapeInfo* tensor = nullptr;
        check(api.CastTypeInfoToTensorInfo(info.get(), &tensor));
        ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        if (tensor != nullptr) {
            check(api.GetTensorElementType(tensor, &type));
        }
        same = spec != specs.end() && type == element_type(spec->type);
    }
    if (!same) {
        throw Error(ErrorCode::bad_input, "the graph's inputs or outputs differ from the manifest.", where,
                    "Export the bundle again.");
    }
}

}  // namespace

std::shared_ptr<const Engine> load_onnxruntime(const Bundle& bundle, const EngineOptions& options) {
    const Manifest& manifest = bundle.manifest();
    const OrtApi& api = library();
    const std::string file = graph_of(manifest);
    const std::string path = bundle.path(file).string();
    if (options.threads < 0) {
        throw Error(ErrorCode::usage, std::to_string(options.threads) + " is not a number of threads.", title,
                    "Use 1 or more, or 0 for one per core.");
    }

    auto environment = owned<OrtEnv>(
        api, api.ReleaseEnv, ErrorCode::backend, "Check the installation of ONNX Runtime.", [&api](OrtEnv** made) {
            return api.CreateEnvWithCustomLogger(ignore, nullptr, ORT_LOGGING_LEVEL_FATAL, "deploykit", made);
        });
    const auto settings = session_options(api, manifest, options.threads);
    auto session = owned<OrtSession>(
        api, api.ReleaseSession, ErrorCode::backend,
        "This version may lack an operator of the graph: use a newer version, or another precision.",
        [&](OrtSession** made) { return api.CreateSession(environment.get(), path.c_str(), settings.get(), made); });
    auto host = owned<OrtMemoryInfo>(
        api, api.ReleaseMemoryInfo, ErrorCode::internal, "Report this.",
        [&api](OrtMemoryInfo** made) { return api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, made); });

    auto made =
        std::make_shared<const Session>(Session{api, std::move(environment), std::move(session), std::move(host)});
    require_interface(api, *made, manifest.inputs, path, api.SessionGetInputCount, api.SessionGetInputName,
                      api.SessionGetInputTypeInfo);
    require_interface(api, *made, manifest.outputs, path, api.SessionGetOutputCount, api.SessionGetOutputName,
                      api.SessionGetOutputTypeInfo);
    const std::string version = OrtGetApiBase()->GetVersionString();
    return std::make_shared<RuntimeEngine>(
        std::move(made),
        Description{manifest.inputs, manifest.outputs, manifest.batch, std::string(title) + " " + version, file});
}

}  // namespace deploykit::backends
