# What the wheel holds: the Python package, the player and the runner. `backend/` becomes the package `zeropoint`.

set(CMAKE_INSTALL_MESSAGE NEVER)

# Installed, executorch/ lies beside zeropoint/ in site-packages; in a build folder CMake adds where it was found.
set_target_properties(zeropoint zeropoint-run PROPERTIES
  INSTALL_RPATH "$ORIGIN/../../executorch/lib"
  ARCHIVE_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}"
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}"
  RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}")
install(TARGETS zeropoint zeropoint-run
  LIBRARY DESTINATION zeropoint/lib
  ARCHIVE DESTINATION zeropoint/lib
  RUNTIME DESTINATION zeropoint/lib)
install(FILES backend/runtime/native/zeropoint.h DESTINATION zeropoint/include)
install(DIRECTORY backend/ DESTINATION zeropoint
  FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE PATTERN "native" EXCLUDE)
