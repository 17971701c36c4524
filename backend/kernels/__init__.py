"""The kernel library toolchain: manifests and GLSL in, checked SPIR-V variants out. Needs neither torch nor an installed package."""
