// An application without the library: one session, tensors created once, OrtApi::Run in a loop.
//
// Session options, graph file, threads and input memory are those of the library's own engine.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <cstring>
#include <deploykit/deploykit.hpp>
#include <iostream>
#include <string>
#include <vector>

class Bare {
public:
    // `threads` per call; 0: one per core.
    Bare(const deploykit::Bundle& bundle, const std::vector<deploykit::TensorView>& inputs, int threads) {
        const deploykit::Manifest& manifest = bundle.manifest();
        const std::string file = bundle.path(graph(manifest)).string();
        OrtEnv* environment = nullptr;
        OrtSessionOptions* options = nullptr;
        check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bare", &environment));
        check(api_->CreateSessionOptions(&options));
        check(api_->SetIntraOpNumThreads(options, threads));
        if (manifest.precision == "int8-fp16") {
            check(api_->AddSessionConfigEntry(options, "optimization.disable_specified_optimizers",
                                              "WeightBiasQuantization"));
        }
        check(api_->CreateSession(environment, file.c_str(), options, &session_));
        check(api_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &host_));
        for (std::size_t index = 0; index < inputs.size(); ++index) {
            const deploykit::TensorView& view = inputs[index];
            input_names_.push_back(manifest.inputs[index].name.c_str());
            inputs_.push_back(value(const_cast<void*>(view.data()), view.bytes(), view.shape()));
        }
        const std::int64_t batch = inputs.front().shape()[0];
        results_.reserve(manifest.outputs.size());
        for (const deploykit::TensorSpec& spec : manifest.outputs) {
            deploykit::Shape shape(spec.shape);
            shape[0] = batch;
            results_.emplace_back(static_cast<std::size_t>(shape.elements()));
            output_names_.push_back(spec.name.c_str());
            outputs_.push_back(value(results_.back().data(), results_.back().size() * sizeof(float), shape));
        }
    }

    void run() {
        OrtStatus* status = api_->Run(session_, nullptr, input_names_.data(), inputs_.data(), inputs_.size(),
                                      output_names_.data(), output_names_.size(), outputs_.data());
        if (status != nullptr) {
            check(status);
        }
    }

    const std::vector<std::vector<float>>& outputs() const { return results_; }

private:
    // The programs use one object until they end: nothing is released, and an error ends the program.
    void check(OrtStatus* status) const {
        if (status != nullptr) {
            std::cerr << api_->GetErrorMessage(status) << '\n';
            std::exit(4);
        }
    }

    static std::string graph(const deploykit::Manifest& manifest) {
        for (const deploykit::EngineRecord& engine : manifest.engines) {
            if (engine.backend == "onnxruntime") {
                return engine.file.path;
            }
        }
        return manifest.graph;
    }

    OrtValue* value(void* data, std::size_t bytes, const deploykit::Shape& shape) const {
        OrtValue* tensor = nullptr;
        check(api_->CreateTensorWithDataAsOrtValue(host_, data, bytes, shape.begin(), shape.rank(),
                                                   ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensor));
        return tensor;
    }

    const OrtApi* api_ = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    OrtSession* session_ = nullptr;
    OrtMemoryInfo* host_ = nullptr;
    std::vector<const char*> input_names_;
    std::vector<const char*> output_names_;
    std::vector<const OrtValue*> inputs_;
    std::vector<OrtValue*> outputs_;
    std::vector<std::vector<float>> results_;
};
