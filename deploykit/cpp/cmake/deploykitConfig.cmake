# find_package(deploykit) where the library comes as sources: it is built with the application, in the application's
# build tree, with the application's compiler and flags. `deploykit cmake-dir` prints this folder.
#
#   deploykit::deploykit   the library; a shared one where BUILD_SHARED_LIBS says so

if(NOT TARGET deploykit::deploykit)
    # Of the library only what the application links is built.
    add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/deploykit-build EXCLUDE_FROM_ALL)
endif()
