# The runtimes that the library is built with: DEPLOYKIT_TENSORRT and DEPLOYKIT_ONNXRUNTIME, AUTO, ON or OFF each.

foreach(runtime TensorRT ONNXRuntime)
    string(TOUPPER ${runtime} key)
    if(DEPLOYKIT_${key} STREQUAL AUTO)
        find_package(${runtime} QUIET MODULE)
    elseif(DEPLOYKIT_${key})
        find_package(${runtime} REQUIRED MODULE)
    else()
        set(${runtime}_FOUND OFF)
    endif()
endforeach()

if(NOT TensorRT_FOUND AND NOT ONNXRuntime_FOUND)
    message(FATAL_ERROR
        "deploykit needs a runtime, and found neither TensorRT nor ONNX Runtime. TensorRT comes with JetPack and from "
        "NVIDIA; ONNX Runtime is libonnxruntime-dev on recent Debian and Ubuntu, and an archive on its release page, "
        "github.com/microsoft/onnxruntime/releases. Where one is: -DTensorRT_ROOT=/path or -DONNXRuntime_ROOT=/path, a "
        "folder with include/ and lib/. "
        "With -DDEPLOYKIT_ONNXRUNTIME=ON (or _TENSORRT) CMake says which part of it was not found.")
endif()

function(deploykit_add_runtimes target)
    if(TensorRT_FOUND)
        target_sources(${target} PRIVATE src/tensorrt.cpp)
        target_compile_definitions(${target} PRIVATE DEPLOYKIT_TENSORRT)
        target_link_libraries(${target} PRIVATE TensorRT::nvinfer TensorRT::cudart)
    endif()
    if(ONNXRuntime_FOUND)
        target_sources(${target} PRIVATE src/onnxruntime.cpp)
        target_compile_definitions(${target} PRIVATE DEPLOYKIT_ONNXRUNTIME)
        target_link_libraries(${target} PRIVATE ONNXRuntime::onnxruntime)
    endif()
endfunction()
