# Versions of find_package(deploykit VERSION) that these sources satisfy: the same major and minor number, not a later one.

file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/../CMakeLists.txt project REGEX "^project\\(deploykit VERSION ")
string(REGEX MATCH "([0-9]+\\.[0-9]+)\\.[0-9]+" PACKAGE_VERSION "${project}")
set(series ${CMAKE_MATCH_1})

set(PACKAGE_VERSION_COMPATIBLE FALSE)
set(PACKAGE_VERSION_EXACT FALSE)
if("${PACKAGE_FIND_VERSION_MAJOR}.${PACKAGE_FIND_VERSION_MINOR}" VERSION_EQUAL series
        AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
endif()
