#!/usr/bin/env bash
# Operator tests, linears and a two-layer model on every software Vulkan driver that Debian has, one after the other, and a
# table of what passed, what the device refused and why, and what failed. Drivers are unpacked into .cache/drivers, nothing
# is installed. Needs scripts/setup.sh first.
#   scripts/test_drivers.sh [NAME...] [-- PYTEST ARGUMENT...]      names: lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/unpack.sh

ALL=(lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader)
TESTS=(tests/op tests/e2e/test_linear.py tests/e2e/test_smollm2.py)
RESULTS=$PWD/build/drivers

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
  describe_driver "$icd" "$library"
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
