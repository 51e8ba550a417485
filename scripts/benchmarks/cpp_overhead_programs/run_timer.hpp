// Replaces entries of ONNX Runtime's function table: records the duration of OrtApi::Run, and gives every side of the
// process the same session, the first that was created.
//
// Two sessions of one graph may differ in speed by several percent, depending on where their memory was allocated: more
// than the overhead of the library. The linker finds this OrtGetApiBase before ONNX Runtime's own.
#pragma once

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

#include "measure.hpp"

namespace run_timer {

inline const OrtApi* real = nullptr;
inline OrtApi table;
inline OrtApiBase base;
inline deploykit::bench::Nanoseconds inside_ns{};  // of the last Run

inline OrtStatus* ORT_API_CALL run(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                                   const OrtValue* const* inputs, std::size_t input_count,
                                   const char* const* output_names, std::size_t output_count,
                                   OrtValue** outputs) noexcept {
    const auto start = deploykit::bench::now();
    OrtStatus* status =
        real->Run(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
    inside_ns = deploykit::bench::now() - start;
    return status;
}

inline OrtSession* shared = nullptr;

inline OrtStatus* ORT_API_CALL create(const OrtEnv* environment, const ORTCHAR_T* file,
                                      const OrtSessionOptions* options, OrtSession** session) noexcept {
    OrtStatus* status = shared != nullptr ? nullptr : real->CreateSession(environment, file, options, &shared);
    *session = shared;
    return status;
}

// The process ends with its sessions.
inline void ORT_API_CALL keep(OrtSession* /*session*/) noexcept {}

inline const OrtApiBase* real_base() {
    return reinterpret_cast<const OrtApiBase* (*)()>(dlsym(RTLD_NEXT, "OrtGetApiBase"))();
}

inline const OrtApi* ORT_API_CALL api(std::uint32_t version) noexcept {
    real = real_base()->GetApi(version);
    if (real == nullptr) {
        return nullptr;
    }
    table = *real;
    table.Run = run;
    table.CreateSession = create;
    table.ReleaseSession = keep;
    return &table;
}

}  // namespace run_timer

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
    run_timer::base = *run_timer::real_base();
    run_timer::base.GetApi = run_timer::api;
    return &run_timer::base;
}
