# ONNX Runtime's C API: ONNXRuntime_ROOT, CMAKE_PREFIX_PATH, or the system.
#
#   ONNXRuntime::onnxruntime   headers and library
#
# Headers come with the release archives (include/) and Debian's libonnxruntime-dev (include/onnxruntime/). The Python
# package onnxruntime contains the library since 1.31, but not under the name that the dynamic loader searches for: to link
# it, create a link named libonnxruntime.so.1 in the same folder, and pass it with -DONNXRuntime_LIBRARY=.

find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_c_api.h
    PATH_SUFFIXES onnxruntime onnxruntime/core/session
    DOC "The folder of onnxruntime_c_api.h")
find_library(ONNXRuntime_LIBRARY NAMES onnxruntime libonnxruntime.so.1
    DOC "libonnxruntime.so")

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
    REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR)
mark_as_advanced(ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR)

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::onnxruntime)
    add_library(ONNXRuntime::onnxruntime UNKNOWN IMPORTED)
    set_target_properties(ONNXRuntime::onnxruntime PROPERTIES
        IMPORTED_LOCATION ${ONNXRuntime_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${ONNXRuntime_INCLUDE_DIR})
endif()
