#!/usr/bin/env bash
# Every shader variant through compilers whose devices are not here, and whether their answers have become worse: RADV's for
# eight AMD GPUs (Mesa's null device), spirv-val, and SPIRV-Cross to MSL and HLSL. Packages are unpacked into .cache/drivers,
# nothing is installed; answers are kept in .cache/compilers. Needs scripts/setup.sh first.
#   scripts/test_compilers.sh [--update] [FAMILY...]      --update writes tests/compilers/*.txt anew
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/unpack.sh

BUILD=$PWD/build/compilers
TRIPLET=$(uname -m)-linux-gnu
MESA=$CACHE/mesa-25/usr/lib/$TRIPLET
CROSS=$CACHE/spirv-cross/usr

mkdir -p "$CACHE"
unpack mesa-25 bookworm-backports mesa-vulkan-drivers libdrm2
unpack spirv-cross trixie spirv-cross libc6 libstdc++6 libgcc-s1 # with its own libraries: it is newer than this system's
mkdir -p "$BUILD"
describe_driver "$BUILD/installed.json" "/usr/lib/$TRIPLET/libvulkan_radeon.so"
describe_driver "$BUILD/mesa-25.json" "$MESA/libvulkan_radeon.so"
loader=$(echo "$CROSS"/lib*/ld-linux-*.so.*)

say "The player's pipelines, as a program"
.venv/bin/cmake -S . -B "$BUILD" -G Ninja -DZEROPOINT_COMPILERS=ON -DPython_EXECUTABLE="$PWD/.venv/bin/python" \
  -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" >"$BUILD/configure.log" || fail "CMake: see $BUILD/configure.log"
.venv/bin/cmake --build "$BUILD" --target zeropoint-pipelines

say "Compilers"
LD_LIBRARY_PATH=$MESA nice .venv/bin/python -m tests.compilers --pipelines "$BUILD/compilers/zeropoint-pipelines" \
  --library "$BUILD/kernels.zpl" --installed "$BUILD/installed.json" --mesa-25 "$BUILD/mesa-25.json" \
  --spirv-cross "$loader --library-path $CROSS/lib/$TRIPLET $CROSS/bin/spirv-cross" --cache "$PWD/.cache/compilers" "$@"
