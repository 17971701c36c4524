# Code from the schemas, and the kernel library from the shaders. Both are made by the package's own Python.

set(zeropoint_generated_dir "${CMAKE_CURRENT_BINARY_DIR}/generated")
file(GLOB zeropoint_schemas CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/backend/serialization/*.fbs")
set(zeropoint_headers)
set(zeropoint_modules)
foreach(schema ${zeropoint_schemas})
  cmake_path(GET schema STEM stem)
  list(APPEND zeropoint_headers "${zeropoint_generated_dir}/${stem}_generated.h")
  list(APPEND zeropoint_modules "${CMAKE_CURRENT_SOURCE_DIR}/backend/serialization/_generated/${stem}_generated.py")
endforeach()
# The Python modules go into the source tree (git-ignored), where `python -m backend.kernels` below imports them.
add_custom_command(
  OUTPUT ${zeropoint_headers} ${zeropoint_modules}
  COMMAND "${Python_EXECUTABLE}" -m backend.serialization.generate
    --flatc "${ZEROPOINT_FLATC}" --cpp "${zeropoint_generated_dir}"
  DEPENDS ${zeropoint_schemas} "${CMAKE_CURRENT_SOURCE_DIR}/backend/serialization/generate.py"
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  COMMENT "Generating flatbuffers code"
  VERBATIM)
add_custom_target(zeropoint_schemas_done DEPENDS ${zeropoint_headers})
add_library(zeropoint_generated INTERFACE)
add_dependencies(zeropoint_generated zeropoint_schemas_done)
target_include_directories(zeropoint_generated SYSTEM INTERFACE "${zeropoint_generated_dir}")

set(ZEROPOINT_KERNEL_LIBRARY "${CMAKE_CURRENT_BINARY_DIR}/kernels.zpl")
file(GLOB_RECURSE zeropoint_shaders CONFIGURE_DEPENDS
  "${CMAKE_CURRENT_SOURCE_DIR}/shaders/*.comp" "${CMAKE_CURRENT_SOURCE_DIR}/shaders/*.glsl" "${CMAKE_CURRENT_SOURCE_DIR}/shaders/*.toml")
file(GLOB zeropoint_toolchain CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/backend/kernels/*.py")
file(GLOB zeropoint_manifests CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/shaders/*.toml")
set(zeropoint_signatures "${CMAKE_CURRENT_SOURCE_DIR}/backend/kernels/_generated/signatures.py")
add_custom_command(
  OUTPUT "${zeropoint_signatures}"
  COMMAND "${Python_EXECUTABLE}" -m backend.kernels signatures --shaders "${CMAKE_CURRENT_SOURCE_DIR}/shaders"
  DEPENDS ${zeropoint_manifests} ${zeropoint_toolchain} ${zeropoint_modules}
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  COMMENT "Generating the kernels' signatures"
  VERBATIM)
add_custom_command(
  OUTPUT "${ZEROPOINT_KERNEL_LIBRARY}"
  COMMAND "${Python_EXECUTABLE}" -m backend.kernels build
    --shaders "${CMAKE_CURRENT_SOURCE_DIR}/shaders" --out "${ZEROPOINT_KERNEL_LIBRARY}"
  DEPENDS ${zeropoint_shaders} ${zeropoint_toolchain} ${zeropoint_modules}
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  COMMENT "Compiling shaders into ${ZEROPOINT_KERNEL_LIBRARY}"
  USES_TERMINAL
  VERBATIM)
add_custom_target(zeropoint_kernels DEPENDS "${ZEROPOINT_KERNEL_LIBRARY}" "${zeropoint_signatures}")
