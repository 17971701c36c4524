#!/usr/bin/env bash
# Makes dist/*.whl as a package index takes it: tagged by auditwheel with the oldest glibc that it runs on, and checked in
# an environment of its own. ExecuTorch's libraries stay outside: they come with its package. Needs scripts/setup.sh first.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
MOST_BYTES=8000000

fail() {
  printf 'wheel: %s\n' "$*" >&2
  exit 1
}

$PYTHON scripts/requirements.py wheel | xargs $PYTHON -m pip install --quiet
rm -rf build/wheel dist
$PYTHON -m pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
PATH="$PWD/.venv/bin:$PATH" $PYTHON -m auditwheel repair --exclude 'libexecutorch*.so' --wheel-dir dist build/wheel/*.whl
wheel=$(echo dist/*.whl)
size=$(stat -c %s "$wheel")
[[ $size -le $MOST_BYTES ]] || fail "$wheel: $size bytes; at most $MOST_BYTES"
ZEROPOINT_WHEEL=$PWD/$wheel ZEROPOINT_VALIDATION=1 ZEROPOINT_DEVICE=${ZEROPOINT_DEVICE:-cpu} $PYTHON -m pytest -q tests/e2e/test_wheel.py
printf '%s: %s bytes\n' "$wheel" "$size"
