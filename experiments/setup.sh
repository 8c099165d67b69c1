# Shared by experiments/quickstart.sh and tests/run.sh: installs what is missing and builds. Sourced, not run.
# Debian 12 or Ubuntu 24.04, as root or with sudo; asks for neither where everything is installed.

PACKAGES=(build-essential cmake ninja-build git ca-certificates python3 python3-venv
  libeigen3-dev libcli11-dev libhdf5-dev libyaml-cpp-dev libfmt-dev libspdlog-dev libssl-dev zlib1g-dev
  nlohmann-json3-dev libgtest-dev librapidcheck-dev libbenchmark-dev)

say() { printf '== %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# The Python of the project: figures, tests and the formatter, in a virtual environment of the tree. $1: a requirements file.
install_python() {
  local stamp=.venv/.installed-$(basename "$1" .txt)
  # One file may name another: all of them count.
  if [ -e "$stamp" ] && cat analysis/requirements*.txt | cmp -s - "$stamp"; then return 0; fi
  say "installing Python packages of $1"
  # A Python that lacks ensurepip, or a half-made environment, is made anew.
  [ -x .venv/bin/pip ] || { rm -rf .venv; /usr/bin/python3 -m venv .venv; }
  .venv/bin/pip install -q --disable-pip-version-check -r "$1" >&2
  cat analysis/requirements*.txt >"$stamp"
}

build() {
  say "building (preset release)"
  cmake --preset release >&2
  cmake --build --preset release >&2
}
