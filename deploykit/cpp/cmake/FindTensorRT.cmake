# TensorRT's runtime and the CUDA runtime: TensorRT_ROOT, CUDAToolkit_ROOT, CMAKE_PREFIX_PATH, the system.
#
#   TensorRT::nvinfer   headers and library
#   TensorRT::cudart    headers and library
#   TensorRT_VERSION    of the headers, "10.3.0"
#
# The library is libnvinfer, or else libnvinfer_lean, which runs version-compatible engines. CUDA is searched without
# FindCUDAToolkit, which needs CMake 3.17, while JetPack 5 has 3.16: in CUDAToolkit_ROOT, in the environment variable
# CUDA_PATH, next to TensorRT, on the system, and in /usr/local/cuda.

find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
    DOC "The folder of NvInferRuntime.h")
find_library(TensorRT_LIBRARY NAMES nvinfer nvinfer_lean NAMES_PER_DIR
    DOC "libnvinfer.so or libnvinfer_lean.so")

set(cuda_places ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_PATH} ${TensorRT_ROOT} $ENV{TensorRT_ROOT})
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
    HINTS ${cuda_places} PATHS /usr/local/cuda
    PATH_SUFFIXES include targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include
    DOC "The folder of cuda_runtime_api.h")
find_library(TensorRT_CUDART_LIBRARY cudart
    HINTS ${cuda_places} PATHS /usr/local/cuda
    PATH_SUFFIXES lib64 lib targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib
    DOC "libcudart.so")
unset(cuda_places)

# Since 10.11, NV_TENSORRT_MAJOR expands to another macro that has the number.
set(TensorRT_VERSION)
if(TensorRT_INCLUDE_DIR AND EXISTS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h)
    file(READ ${TensorRT_INCLUDE_DIR}/NvInferVersion.h header)
    foreach(part MAJOR MINOR PATCH)
        if(header MATCHES "#define +(NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) +([0-9]+)")
            list(APPEND TensorRT_VERSION ${CMAKE_MATCH_2})
        endif()
    endforeach()
    string(REPLACE ";" "." TensorRT_VERSION "${TensorRT_VERSION}")
    unset(header)
endif()

# JetPack 5 has 8.5, for which deploykit does not build engines: treat it as not installed.
set(TensorRT_recent_enough ON)
set(reason)
if(TensorRT_VERSION AND TensorRT_VERSION VERSION_LESS 8.6)
    set(TensorRT_recent_enough OFF)
    set(reason "TensorRT ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR} is too old: deploykit needs 8.6 or later.")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
    REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDART_LIBRARY TensorRT_CUDA_INCLUDE_DIR
        TensorRT_recent_enough
    VERSION_VAR TensorRT_VERSION
    REASON_FAILURE_MESSAGE "${reason}")
mark_as_advanced(TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDART_LIBRARY TensorRT_CUDA_INCLUDE_DIR)
unset(reason)

if(TensorRT_FOUND AND NOT TARGET TensorRT::cudart)
    add_library(TensorRT::cudart UNKNOWN IMPORTED)
    set_target_properties(TensorRT::cudart PROPERTIES
        IMPORTED_LOCATION ${TensorRT_CUDART_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${TensorRT_CUDA_INCLUDE_DIR})
    add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
    set_target_properties(TensorRT::nvinfer PROPERTIES
        IMPORTED_LOCATION ${TensorRT_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${TensorRT_INCLUDE_DIR})
endif()
