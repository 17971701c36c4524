# Sourced by scripts that need Debian packages of other suites: unpacked below .cache/drivers, nothing is installed.

CACHE=$PWD/.cache/drivers
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '\n==> [%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# unpack FOLDER SUITE PACKAGE...: Debian packages of a suite, with their files under .cache/drivers/FOLDER.
unpack() {
  local folder=$CACHE/$1 part=$CACHE/$1.part suite=$2
  shift 2
  [[ -d $folder ]] && return
  command -v apt-get >/dev/null || fail "no apt-get here; Debian is needed"
  [[ -f $KEYRING ]] || fail "no $KEYRING; install the package debian-archive-keyring"
  say "$folder: $* of $suite"
  rm -rf "$part"
  mkdir -p "$part/apt/lists/partial" "$part/debs"
  echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian $suite main" >"$part/apt/list"
  local -a options=(-o "Dir::Etc::sourcelist=$part/apt/list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$part/apt/lists" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >/dev/null || fail "the package list of $suite cannot be had"
  (cd "$part/debs" && apt-get "${options[@]}" download "$@") || fail "$* of $suite cannot be had"
  for package in "$part"/debs/*.deb; do dpkg-deb -x "$package" "$part" || fail "${package##*/} cannot be unpacked"; done
  rm -rf "$part/debs" "$part/apt"
  mv "$part" "$folder"
}

# describe_driver FILE LIBRARY: a driver's file for the loader.
describe_driver() {
  printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$2" >"$1"
}
