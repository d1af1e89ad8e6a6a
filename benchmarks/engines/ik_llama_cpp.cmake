# Included by the build of ik-llama-cpp-python. Its source archive lacks the script that writes these few names, and
# its libraries, installed side by side, would not find each other.
file(WRITE "${CMAKE_SOURCE_DIR}/vendor/ik_llama.cpp/common/cmake/build-info-gen-cpp.cmake" [[
    set(BUILD_NUMBER 0)
    set(BUILD_COMMIT unknown)
    set(BUILD_COMPILER unknown)
    set(BUILD_TARGET unknown)
    configure_file(common/build-info.cpp.in common/build-info.cpp)
]])
set(CMAKE_INSTALL_RPATH "$ORIGIN")
