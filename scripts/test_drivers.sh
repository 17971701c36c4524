#!/usr/bin/env bash
# Operator tests, linears and a two-layer model on every software Vulkan driver that Debian has, one after the other, and a
# table of what passed, what the device refused and why, and what failed. Drivers are unpacked into .cache/drivers, nothing
# is installed. Needs scripts/setup.sh first.
#   scripts/test_drivers.sh [NAME...] [-- PYTEST ARGUMENT...]      names: lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader
set -euo pipefail
cd "$(dirname "$0")/.."

CACHE=$PWD/.cache/drivers
ALL=(lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader)
TESTS=(tests/op tests/e2e/test_linear.py tests/e2e/test_smollm2.py)
RESULTS=$PWD/build/drivers

say() { printf '\n==> [%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
  printf 'test_drivers: %s\n' "$*" >&2
  exit 1
}

# unpack FOLDER SUITE PACKAGE...: Debian packages of a suite, with their files under .cache/drivers/FOLDER.
unpack() {
  local folder=$CACHE/$1 suite=$2
  shift 2
  [[ -d $folder ]] && return
  command -v apt-get >/dev/null || fail "no apt-get here; Debian is needed"
  say "$folder: $* of $suite"
  rm -rf "$folder.part"
  mkdir -p "$folder.part/apt/lists/partial" "$folder.part/debs"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >"$folder.part/apt/list"
  local -a options=(-o "Dir::Etc::sourcelist=$folder.part/apt/list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$folder.part/apt/lists" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >/dev/null
  (cd "$folder.part/debs" && apt-get "${options[@]}" download "$@")
  for package in "$folder.part"/debs/*.deb; do dpkg-deb -x "$package" "$folder.part"; done
  rm -rf "$folder.part/debs" "$folder.part/apt"
  mv "$folder.part" "$folder"
}

# Prints the environment that a driver needs; fetches it first.
environment_of() {
  local library icd=$CACHE/$1.json
  case $1 in
  lavapipe) return ;;
  lavapipe-4) echo LP_NATIVE_VECTOR_WIDTH=128 && return ;;
  lavapipe-16)
    grep -qw avx512f /proc/cpuinfo || fail "lavapipe-16: vectors of 512 bits; this processor has none"
    echo LP_NATIVE_VECTOR_WIDTH=512 && return
    ;;
  lavapipe-25)
    unpack mesa-25 bookworm-backports mesa-vulkan-drivers libdrm2 >&2
    library=$CACHE/mesa-25/usr/lib/$(uname -m)-linux-gnu/libvulkan_lvp.so
    echo "LD_LIBRARY_PATH=${library%/*}"
    ;;
  swiftshader)
    unpack chromium bookworm chromium-common >&2
    library=$CACHE/chromium/usr/lib/chromium/libvk_swiftshader.so
    ;;
  *) fail "$1: no such driver; offered ${ALL[*]}" ;;
  esac
  printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$library" >"$icd"
  echo "VK_DRIVER_FILES=$icd" # the loader's name of it, and the one before
  echo "VK_ICD_FILENAMES=$icd"
}

names=()
while [[ $# -gt 0 && $1 != -- ]]; do names+=("$1") && shift; done
[[ $# -eq 0 ]] || shift
[[ ${#names[@]} -gt 0 ]] || names=("${ALL[@]}")
mkdir -p "$CACHE" "$RESULTS"
failed=0
for name in "${names[@]}"; do
  variables=$(environment_of "$name") || {
    failed=1
    continue
  }
  say "$name"
  # shellcheck disable=SC2086 # words of NAME=VALUE
  env $variables ZEROPOINT_VALIDATION=1 ZEROPOINT_DEVICE=cpu ZEROPOINT_TABLE="$RESULTS/$name.md" \
    .venv/bin/python -m pytest -n 2 --dist loadfile -q -p tests.refusals -m "not slow" "${TESTS[@]}" "$@" || failed=1
done
say "Drivers"
echo '| driver | passed | refused, and why | failed |'
echo '|---|---|---|---|'
for name in "${names[@]}"; do [[ ! -f $RESULTS/$name.md ]] || cat "$RESULTS/$name.md"; done
exit $failed
