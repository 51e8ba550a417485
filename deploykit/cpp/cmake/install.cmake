# cmake --install: the library, its headers, and the package that find_package(deploykit) reads.
#
# Enabled by default only if deploykit is the top-level project: an application has its own install rules.
option(DEPLOYKIT_INSTALL "Install the library and its CMake package" ${is_top_level})
if(NOT DEPLOYKIT_INSTALL)
    return()
endif()

include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/deploykit)

# An installed shared library finds the runtimes where they were when it was linked, or in its own folder.
set_target_properties(deploykit PROPERTIES
    INSTALL_RPATH $ORIGIN
    INSTALL_RPATH_USE_LINK_PATH ON
)
install(TARGETS deploykit EXPORT deploykitTargets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
)
install(DIRECTORY include/deploykit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT deploykitTargets NAMESPACE deploykit:: DESTINATION ${package})

# A static library is linked together with its dependencies; a shared library finds its own.
get_target_property(kind deploykit TYPE)
set(needed "")
if(kind STREQUAL STATIC_LIBRARY)
    set(needed "OpenSSL Threads")
    foreach(runtime TensorRT ONNXRuntime)
        if(${runtime}_FOUND)
            string(APPEND needed " ${runtime}")
            install(FILES cmake/Find${runtime}.cmake DESTINATION ${package})
        endif()
    endforeach()
endif()
configure_package_config_file(cmake/installed.cmake.in deploykitConfig.cmake
    INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(deploykitConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/deploykitConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/deploykitConfigVersion.cmake
    DESTINATION ${package})
