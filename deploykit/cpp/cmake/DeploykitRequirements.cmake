# Dependencies that the library needs with any runtime; each error message says how to install the missing one.

find_package(nlohmann_json 3.7 QUIET)
if(NOT nlohmann_json_FOUND)
    message(FATAL_ERROR
        "deploykit needs nlohmann_json 3.7 or newer to read manifests, and CMake did not find it. "
        "Install nlohmann-json3-dev (Debian, Ubuntu, JetPack), or name its folder: -Dnlohmann_json_DIR=/path")
endif()

find_package(OpenSSL QUIET COMPONENTS Crypto)
if(NOT OpenSSL_FOUND)
    message(FATAL_ERROR
        "deploykit needs OpenSSL's libcrypto to check digests, and CMake did not find it. "
        "Install libssl-dev (Debian, Ubuntu, JetPack), or say where it is: -DOPENSSL_ROOT_DIR=/path")
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads QUIET REQUIRED)
