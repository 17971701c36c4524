#!/usr/bin/env bash
# The player for arm64: cross-built, and run by qemu on arm64's own software Vulkan, beside this machine's. All of it lies
# below build/arm64; over the system only Debian's cross compiler and qemu are installed. Needs scripts/setup.sh first.
set -euo pipefail
cd "$(dirname "$0")/.."

BASE=$PWD/build/arm64
# For the build: headers, zlib. To run: the loader, lavapipe, C++'s library.
PACKAGES=(libvulkan-dev libvulkan-volk-dev libflatbuffers-dev libxxhash-dev zlib1g-dev libvulkan1 mesa-vulkan-drivers libstdc++6)
TOOLS=(g++-aarch64-linux-gnu qemu-user)

say() { printf '\n==> [%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
  printf 'test_arm64: %s\n' "$*" >&2
  exit 1
}

command -v apt-get >/dev/null || fail "no apt-get here; Debian or Ubuntu is needed"
if ! command -v aarch64-linux-gnu-g++ qemu-aarch64 >/dev/null; then
  [[ $(id -u) -eq 0 ]] || fail "as root: apt-get install ${TOOLS[*]}"
  say "Debian packages: ${TOOLS[*]}"
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${TOOLS[@]}"
fi

if [[ ! -d $BASE/root ]]; then
  say "arm64 packages, unpacked: ${PACKAGES[*]} (70 MB)"
  rm -rf "$BASE/apt" "$BASE/unpacked"
  mkdir -p "$BASE"/apt/state/lists/partial "$BASE"/apt/cache/archives/partial "$BASE/unpacked"
  : >"$BASE/apt/status" # nothing is installed there, so every dependency is fetched
  options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State=$BASE/apt/state" -o Debug::NoLocking=1
    -o "Dir::State::status=$BASE/apt/status" -o "Dir::Cache=$BASE/apt/cache")
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install -y --no-install-recommends --download-only "${PACKAGES[@]}"
  for package in "$BASE"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$BASE/unpacked"; done
  mv "$BASE/unpacked" "$BASE/root"
fi

if [[ ! -d $BASE/executorch ]]; then
  say "ExecuTorch's wheel for arm64"
  pin=$(.venv/bin/python scripts/requirements.py project | grep '^executorch==')
  .venv/bin/python -m pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 -d "$BASE/wheel" "$pin"
  rm -rf "$BASE/unpacked"
  .venv/bin/python -m zipfile -e "$BASE"/wheel/executorch-*.whl "$BASE/unpacked"
  mv "$BASE/unpacked/executorch" "$BASE/executorch"
fi

say "Cross build"
.venv/bin/cmake -S . -B "$BASE/build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-linux-gnu.cmake" \
  -DCMAKE_FIND_ROOT_PATH="$BASE/root" -DZEROPOINT_EXECUTORCH="$BASE/executorch" \
  -DPython_EXECUTABLE="$PWD/.venv/bin/python" -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" >"$BASE/configure.log" ||
  fail "CMake: see $BASE/configure.log"
.venv/bin/cmake --build "$BASE/build"

say "Tests"
ZEROPOINT_ARM64=$BASE .venv/bin/python -m pytest tests/arm64 "$@"
