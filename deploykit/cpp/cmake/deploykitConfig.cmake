# find_package(deploykit) for the library as sources: it is built in the application's build tree, with the application's
# compiler and flags. `deploykit cmake-dir` prints this folder.
#
#   deploykit::deploykit   the library; shared if BUILD_SHARED_LIBS is set

if(NOT TARGET deploykit::deploykit)
    # Build only what the application links.
    add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/deploykit-build EXCLUDE_FROM_ALL)
endif()
