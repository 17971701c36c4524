#!/usr/bin/env bash
# Damaged Programs and kernel libraries against the player under AddressSanitizer and UndefinedBehaviorSanitizer: its readers
# in libFuzzer's process, then whole loads on the software device. What reached new code stays in .cache/fuzz for the next
# time; what fails is left in build/fuzz/found. Needs scripts/setup.sh first.
#   scripts/fuzz.sh      ZEROPOINT_FUZZ_RUNS of each reader (1,000,000), ZEROPOINT_FUZZ_ROUNDS loads (10,000)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/unpack.sh

RUNS=${ZEROPOINT_FUZZ_RUNS:-1000000}
CORPUS=$PWD/.cache/fuzz
PYTHON=$PWD/.venv/bin/python

# libFuzzer comes with clang; its version is the distribution's.
if ! command -v clang++ >/dev/null; then
  command -v apt-get >/dev/null || fail "no clang++; install clang with compiler-rt"
  [[ $(id -u) -eq 0 ]] || fail "no clang++; as root: apt-get install clang and libclang-rt-*-dev of its version"
  version=$(apt-cache depends clang | sed -nE 's/.*Depends: clang-([0-9]+)$/\1/p')
  say "Debian packages: clang libclang-rt-$version-dev"
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends clang "libclang-rt-$version-dev"
fi

configure() { # FOLDER OPTION...
  .venv/bin/cmake -S . -B "build/$1" -G Ninja -DPython_EXECUTABLE="$PYTHON" -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" "${@:2}"
}

say "Readers behind libFuzzer"
configure fuzz -DZEROPOINT_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_ASM_COMPILER=clang
.venv/bin/cmake --build build/fuzz --target fuzz_program fuzz_library
"$PYTHON" -m tests.fuzz.seeds build/fuzz/seeds
for reader in program library; do
  say "$RUNS damaged of: $reader"
  mkdir -p "$CORPUS/$reader" build/fuzz/found
  ZEROPOINT_FUZZ_LIBRARY=$PWD/build/fuzz/seeds/sample.zpp "build/fuzz/tests/fuzz/fuzz_$reader" -runs="$RUNS" -seed="${ZEROPOINT_FUZZ_SEED:-0}" \
    -max_len=65536 -timeout=60 -print_final_stats=1 -artifact_prefix=build/fuzz/found/ "$CORPUS/$reader" "build/fuzz/seeds/$reader"
done

say "Loads"
configure asan -DZEROPOINT_SANITIZE=ON
.venv/bin/cmake --build build/asan
ZEROPOINT_VALIDATION=0 ZEROPOINT_DEVICE=${ZEROPOINT_DEVICE:-cpu} ZEROPOINT_FUZZ_ROUNDS=${ZEROPOINT_FUZZ_ROUNDS:-10000} \
  ZEROPOINT_FUZZ_CORPUS=$CORPUS/program ZEROPOINT_PLAYER=$PWD/build/asan/libzeropoint.so \
  ZEROPOINT_PRELOAD=$(g++ -print-file-name=libasan.so) "$PYTHON" -m pytest tests/fuzz/test_corruptions.py
