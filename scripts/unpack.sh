# Sourced by scripts that need Debian packages of other suites: unpacked below .cache/drivers, nothing is installed.

CACHE=$PWD/.cache/drivers

say() { printf '\n==> [%3ds] %s\n' "$SECONDS" "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
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

# describe_driver FILE LIBRARY: a driver's file for the loader.
describe_driver() {
  printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$2" >"$1"
}
