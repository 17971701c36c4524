#!/usr/bin/env bash
# The validation layers of Debian 13, with the C library that they need, unpacked into .cache/drivers: they report what those
# of Debian 12 cannot (tests/newer_layers.py). Nothing to do where the system's own C library would serve.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/unpack.sh

libc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
[[ $(printf '%s\n' 2.38 "$libc" | sort -V | head -1) == 2.38 ]] ||
  unpack layers trixie vulkan-validationlayers libc6 libstdc++6 libgcc-s1
