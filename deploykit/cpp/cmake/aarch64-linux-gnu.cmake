# Cross-compile for 64-bit ARM, Jetson's architecture, with the GCC that Debian and Ubuntu package for that.
#
#   cmake --preset aarch64 "-DCMAKE_FIND_ROOT_PATH=/path/to/sysroot;/path/to/onnxruntime-aarch64"
#
# Libraries and headers for ARM are looked for in those folders and in the compiler's own, never in this machine's: a
# library for another processor would be found, and the linker would refuse it. On a Jetson itself: --preset native.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# Where Debian puts headers that differ between processors, OpenSSL's for one. Last, so that the compiler's own stay first.
foreach(root IN LISTS CMAKE_FIND_ROOT_PATH)
    string(APPEND CMAKE_CXX_FLAGS_INIT " -idirafter ${root}/usr/include/aarch64-linux-gnu")
endforeach()

# Tests run in an emulator where there is one. It shows what is computed, not how fast a Jetson computes it.
find_program(QEMU_AARCH64 qemu-aarch64)
mark_as_advanced(QEMU_AARCH64)
if(QEMU_AARCH64 AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU_AARCH64} -L /usr/aarch64-linux-gnu)
endif()
