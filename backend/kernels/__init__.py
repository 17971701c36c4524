"""The kernel library toolchain: manifests and GLSL in, checked SPIR-V variants out. Imports without torch."""
