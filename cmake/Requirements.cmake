# Finds all that the build needs; what is missing stops here with the Debian package that has it.

function(zeropoint_require_header variable header package)
  find_path(${variable} "${header}")
  if(NOT ${variable})
    message(FATAL_ERROR "zeropoint: no header ${header}; install the Debian package ${package} (apt-get install ${package})")
  endif()
endfunction()

include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR "zeropoint: no C++ compiler; install the Debian package g++ (apt-get install g++), or set CXX")
endif()
enable_language(CXX)

zeropoint_require_header(ZEROPOINT_VULKAN_INCLUDE vulkan/vulkan.h libvulkan-dev)
zeropoint_require_header(ZEROPOINT_VOLK_INCLUDE volk.h libvulkan-volk-dev)
zeropoint_require_header(ZEROPOINT_FLATBUFFERS_INCLUDE flatbuffers/base.h libflatbuffers-dev)
zeropoint_require_header(ZEROPOINT_XXHASH_INCLUDE xxhash.h libxxhash-dev)
zeropoint_require_header(ZEROPOINT_ZLIB_INCLUDE zlib.h zlib1g-dev)
# Linked statically: the wheel then needs no library but ExecuTorch's.
find_library(ZEROPOINT_ZLIB libz.a)
if(NOT ZEROPOINT_ZLIB)
  message(FATAL_ERROR "zeropoint: no libz.a; install the Debian package zlib1g-dev (apt-get install zlib1g-dev)")
endif()

# Generated C++ must come from the flatc of the headers' version. ExecuTorch's wheel puts another one on a
# virtual environment's PATH, so the system's is looked for first.
find_program(ZEROPOINT_FLATC flatc PATHS /usr/bin /usr/local/bin NO_DEFAULT_PATH)
find_program(ZEROPOINT_FLATC flatc)
if(NOT ZEROPOINT_FLATC)
  message(FATAL_ERROR "zeropoint: no flatc; install the Debian package flatbuffers-compiler (apt-get install flatbuffers-compiler)")
endif()
execute_process(COMMAND "${ZEROPOINT_FLATC}" --version OUTPUT_VARIABLE zeropoint_flatc_version COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" zeropoint_flatc_version "${zeropoint_flatc_version}")
set(zeropoint_header_version)
foreach(part MAJOR MINOR REVISION)
  file(STRINGS "${ZEROPOINT_FLATBUFFERS_INCLUDE}/flatbuffers/base.h" line REGEX "define FLATBUFFERS_VERSION_${part} ")
  string(REGEX MATCH "[0-9]+$" line "${line}")
  list(APPEND zeropoint_header_version "${line}")
endforeach()
list(JOIN zeropoint_header_version "." zeropoint_header_version)
if(NOT zeropoint_flatc_version VERSION_EQUAL zeropoint_header_version)
  message(FATAL_ERROR "zeropoint: ${ZEROPOINT_FLATC} is version ${zeropoint_flatc_version}, the headers in "
    "${ZEROPOINT_FLATBUFFERS_INCLUDE} are ${zeropoint_header_version}; they must agree: set -DZEROPOINT_FLATC=, or install "
    "flatbuffers-compiler and libflatbuffers-dev together")
endif()

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)

# The one pin of executorch stands in pyproject.toml.
file(STRINGS "${CMAKE_CURRENT_SOURCE_DIR}/pyproject.toml" line REGEX "\"executorch==" LIMIT_COUNT 1)
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" ZEROPOINT_EXECUTORCH_VERSION "${line}")
set(ZEROPOINT_EXECUTORCH "" CACHE PATH
  "ExecuTorch for the target: executorch/ of its wheel, or where ExecuTorch's own CMake installed. Default: this Python's")
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import importlib.metadata as m; print(m.distribution('executorch').locate_file('executorch'))"
  OUTPUT_VARIABLE zeropoint_host_executorch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set(zeropoint_executorch "${ZEROPOINT_EXECUTORCH}")
if(NOT zeropoint_executorch)
  set(zeropoint_executorch "${zeropoint_host_executorch}")
endif()
set(zeropoint_player SHARED) # a plugin
set(zeropoint_whole_player zeropoint)
set(zeropoint_installed "${zeropoint_executorch}/lib/cmake/ExecuTorch")
if(EXISTS "${zeropoint_installed}/executorch-config.cmake")
  # Static libraries, for which a plugin would have a registry of its own: the player is one more of them. They say no
  # version, and backends' headers are not among what is installed: those are the wheel's, of the pinned version.
  set(zeropoint_player STATIC)
  set(zeropoint_whole_player $<LINK_LIBRARY:WHOLE_ARCHIVE,zeropoint>) # nothing calls what registers it
  find_package(executorch QUIET CONFIG PATHS "${zeropoint_installed}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  foreach(name executorch extension_module_static extension_tensor)
    if(NOT TARGET ${name})
      message(FATAL_ERROR "zeropoint: ${zeropoint_executorch} has no ${name}; install ExecuTorch ${ZEROPOINT_EXECUTORCH_VERSION} "
        "there, built with EXECUTORCH_BUILD_EXTENSION_MODULE and EXECUTORCH_BUILD_EXTENSION_TENSOR")
    endif()
  endforeach()
  if(NOT EXISTS "${zeropoint_host_executorch}/include")
    message(FATAL_ERROR "zeropoint: ${Python_EXECUTABLE} has no executorch, whose headers are needed; "
      "pip install executorch==${ZEROPOINT_EXECUTORCH_VERSION}")
  endif()
  add_library(executorch::runtime INTERFACE IMPORTED)
  target_link_libraries(executorch::runtime INTERFACE extension_module_static extension_tensor executorch)
  target_include_directories(executorch::runtime INTERFACE "${zeropoint_host_executorch}/include")
  add_library(executorch::kernels_optimized INTERFACE IMPORTED)
  foreach(name optimized_native_cpu_ops_lib portable_ops_lib)
    if(TARGET ${name})
      target_link_libraries(executorch::kernels_optimized INTERFACE ${name})
      break()
    endif()
  endforeach()
else()
  find_package(executorch ${ZEROPOINT_EXECUTORCH_VERSION} EXACT QUIET CONFIG
    PATHS "${zeropoint_executorch}/share/cmake" "${zeropoint_executorch}/lib/cmake/executorch" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  if(NOT executorch_FOUND)
    message(FATAL_ERROR "zeropoint: ${Python_EXECUTABLE} has no executorch ${ZEROPOINT_EXECUTORCH_VERSION} (got "
      "'${zeropoint_executorch}' ${executorch_CONSIDERED_VERSIONS}); pip install executorch==${ZEROPOINT_EXECUTORCH_VERSION}, "
      "or set -DZEROPOINT_EXECUTORCH= to the folder executorch/ of its wheel, or to where its CMake installed it")
  endif()
  # Its targets add run paths with this machine's absolute paths, ahead of ours; Packaging.cmake sets the run path.
  foreach(name runtime threadpool kernels_optimized etdump)
    get_target_property(options executorch::${name} INTERFACE_LINK_OPTIONS)
    if(options)
      list(FILTER options EXCLUDE REGEX "rpath")
      set_target_properties(executorch::${name} PROPERTIES INTERFACE_LINK_OPTIONS "${options}")
    endif()
  endforeach()
endif()
find_package(Threads REQUIRED)
