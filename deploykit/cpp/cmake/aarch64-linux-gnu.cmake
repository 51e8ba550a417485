# Cross-compile for 64-bit ARM, Jetson's architecture, with the GCC that Debian and Ubuntu package for that.
#
#   cmake --preset aarch64 "-DCMAKE_FIND_ROOT_PATH=/path/to/sysroot;/path/to/onnxruntime-aarch64"
#
# Libraries and headers are searched only in those folders and the compiler's own, not in this machine's folders, whose
# libraries are for another processor. On a Jetson itself, use --preset native.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# Debian's folder for processor-specific headers, such as OpenSSL's. Last, so that the compiler's own come first.
foreach(root IN LISTS CMAKE_FIND_ROOT_PATH)
    string(APPEND CMAKE_CXX_FLAGS_INIT " -idirafter ${root}/usr/include/aarch64-linux-gnu")
endforeach()

# Run tests in an emulator if there is one. It verifies outputs, not the speed of a Jetson.
find_program(QEMU_AARCH64 qemu-aarch64)
mark_as_advanced(QEMU_AARCH64)
if(QEMU_AARCH64 AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU_AARCH64} -L /usr/aarch64-linux-gnu)
endif()
