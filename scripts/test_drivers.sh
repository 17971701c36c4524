#!/usr/bin/env bash
# Operator tests, linears, a two-layer model and the demo on every software Vulkan driver that Debian has, one after the
# other; a table of what passed, what the device refused and why, and what failed; and whether all drivers had the same
# integers. Drivers are unpacked into .cache/drivers, nothing is installed. Needs scripts/setup.sh first. What
# build/drivers has of earlier runs, those of another machine too, is in the table and in the comparison.
#   scripts/test_drivers.sh [NAME...] [-- PYTEST ARGUMENT...]
# names: lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader; gpu, the first GPU here. With arguments, no demo.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

. scripts/unpack.sh

ALL=(lavapipe lavapipe-4 lavapipe-16 lavapipe-25 swiftshader)
TESTS=(tests/op tests/e2e/test_linear.py tests/e2e/test_smollm2.py)
RESULTS=$PWD/build/drivers

has_wide_vectors() { grep -qw avx512f /proc/cpuinfo; }

# Prints the environment that a driver needs; fetches it first.
environment_of() {
  local library icd=$CACHE/$1.json missing
  case $1 in
  lavapipe) return ;;
  lavapipe-4) echo LP_NATIVE_VECTOR_WIDTH=128 && return ;;
  lavapipe-16)
    has_wide_vectors || fail "lavapipe-16: vectors of 512 bits; this processor has none"
    echo LP_NATIVE_VECTOR_WIDTH=512 && return
    ;;
  lavapipe-25)
    unpack mesa-25 bookworm-backports mesa-vulkan-drivers libdrm2 >&2
    library=$CACHE/mesa-25/usr/lib/$(uname -m)-linux-gnu/libvulkan_lvp.so
    export LD_LIBRARY_PATH=${library%/*}
    echo "LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
    ;;
  swiftshader)
    unpack chromium bookworm chromium-common >&2
    library=$CACHE/chromium/usr/lib/chromium/libvk_swiftshader.so
    ;;
  gpu) echo ZEROPOINT_DEVICE= && return ;;
  *) fail "$1: no such driver; offered ${ALL[*]} gpu" ;;
  esac
  missing=$(ldd "$library" | sed -n 's/ => not found//p')
  [[ -z $missing ]] || fail "$1: ${library##*/} needs" $missing "of this system; install what Debian 12 has of it"
  describe_driver "$icd" "$library"
  echo "VK_DRIVER_FILES=$icd" # the loader's name of it, and the one before
  echo "VK_ICD_FILENAMES=$icd"
}

# What the demo answered on a driver, and how fast.
answer_of() {
  [[ -f $RESULTS/$1.demo ]] || return 0
  sed '1,/^> /d; /^linears on the device/,$d' "$RESULTS/$1.demo" | tr -s '\n' ' '
  sed -n 's/^tokens per second: *\(.*\)/(\1 tokens a second)/p' "$RESULTS/$1.demo"
}

# One test has one hash of the integers that it saw, on every driver that passed it.
compare_integers() {
  awk '{ hash = $1; sub(/^[^ ]+ /, "") }
    $0 in hashes && hashes[$0] != hash { print $0 ": " FILENAME " has other integers than " files[$0]; differ = 1 }
    { hashes[$0] = hash; files[$0] = FILENAME; ++drivers[$0] }
    END { for (test in drivers) if (drivers[test] > 1) ++compared
      print compared + 0 " tests of quantized integers on two drivers or more: " (differ ? "they differ" : "the same")
      exit differ }' "$RESULTS"/*.integers </dev/null
}

names=()
while [[ $# -gt 0 && $1 != -- ]]; do names+=("$1") && shift; done
[[ $# -eq 0 ]] || shift
if [[ ${#names[@]} -eq 0 ]]; then
  for name in "${ALL[@]}"; do
    if [[ $name == lavapipe-16 ]] && ! has_wide_vectors; then
      say "lavapipe-16 is left out: this processor has no vectors of 512 bits"
    else
      names+=("$name")
    fi
  done
fi
mkdir -p "$CACHE" "$RESULTS"
failed=0
for name in "${names[@]}"; do
  rm -f "$RESULTS/$name".*
  variables=$(environment_of "$name") || {
    failed=1
    continue
  }
  say "$name"
  # shellcheck disable=SC2086 # words of NAME=VALUE
  env ZEROPOINT_VALIDATION=1 ZEROPOINT_DEVICE=cpu ZEROPOINT_TABLE="$RESULTS/$name.md" $variables \
    .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile -q -p tests.driver_report -m "not slow" --ignore tests/op/test_bounds.py "${TESTS[@]}" "$@" ||
    failed=1
  [[ $# -eq 0 ]] || continue
  # shellcheck disable=SC2086
  env ZEROPOINT_DEVICE=cpu $variables .venv/bin/python examples/02_smollm2.py 2>&1 | tee "$RESULTS/$name.demo" || failed=1
done
say "Drivers"
echo '| driver | passed | refused, and why | failed | demo |'
echo '|---|---|---|---|---|'
for table in "$RESULTS"/*.md; do
  name=${table##*/} name=${name%.md}
  echo "$(<"$table") $(answer_of "$name") |"
done
compare_integers || failed=1
exit $failed
