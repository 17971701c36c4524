#!/usr/bin/env bash
# What depends on the versions of torch and transformers, tested at the ends that pyproject.toml allows, each in a virtual
# environment of its own below build/versions. With arguments, these ends alone: `scripts/test_versions.sh lowest newest`.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A ENDS=([lowest]='torch==2.13.0 transformers==5.4.0' [newest]='torch==2.14.1 transformers==5.24.0')
TESTS=(tests/golden tests/unit/rules tests/unit/test_partitioner.py tests/unit/test_pt2.py tests/unit/test_quantization.py
  tests/unit/test_versions.py tests/e2e/test_linear.py)

for end in "${@:-lowest newest}"; do
  for name in $end; do
    [[ -n ${ENDS[$name]-} ]] || {
      echo "test_versions: $name; offered ${!ENDS[*]}" >&2
      exit 2
    }
    mkdir -p build/versions
    tr ' ' '\n' <<<"${ENDS[$name]}" >"build/versions/$name.txt"
    ZEROPOINT_VENV=build/versions/$name ZEROPOINT_CONSTRAINTS=build/versions/$name.txt scripts/setup.sh
    "build/versions/$name/bin/python" -m pytest -n 2 --dist loadfile -m "not slow" "${TESTS[@]}"
  done
done
