// Stands between the program and ONNX Runtime's table of functions: notes how long OrtApi::Run took, and gives every
// side of the process one session, the first that was made.
//
// Two sessions of one graph may differ in speed by several percent, by where their memory came to lie: more than what a
// call of the library costs. In the executable this is found before ONNX Runtime's own OrtGetApiBase.
#pragma once

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

#include "measure.hpp"

namespace noting {

inline const OrtApi* real = nullptr;
inline OrtApi table;
inline OrtApiBase base;
inline deploykit::bench::Nanoseconds inside{};  // of the last Run

inline OrtStatus* ORT_API_CALL run(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                                   const OrtValue* const* inputs, std::size_t input_count,
                                   const char* const* output_names, std::size_t output_count,
                                   OrtValue** outputs) noexcept {
    const auto start = deploykit::bench::now();
    OrtStatus* status =
        real->Run(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
    inside = deploykit::bench::now() - start;
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

}  // namespace noting

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
    noting::base = *noting::real_base();
    noting::base.GetApi = noting::api;
    return &noting::base;
}
