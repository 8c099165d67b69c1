# Shared by experiments/quickstart.sh and tests/run.sh: installs what is missing and builds. Sourced, not run.
# Debian 12 or Ubuntu 24.04, as root or with sudo; asks for neither where everything is installed.

PACKAGES=(build-essential cmake ninja-build git ca-certificates python3 python3-venv
  libeigen3-dev libcli11-dev libhdf5-dev libyaml-cpp-dev libfmt-dev libspdlog-dev libssl-dev zlib1g-dev
  nlohmann-json3-dev libgtest-dev librapidcheck-dev libbenchmark-dev)

# Only for the tests of the reference model: the distribution's PyTorch for CPUs, and a BLAS that is not the reference one.
TORCH_PACKAGES=(python3-torch libopenblas0-pthread)

say() { printf '== %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Packages of the distribution, those that are missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# A virtual environment $1 of the tree with the packages of the requirements file $2; further words go to venv.
install_python() {
  local environment=$1 requirements=$2
  shift 2
  local stamp=$environment/.installed-$(basename "$requirements" .txt)
  # One file may name another: all of them count.
  if [ -e "$stamp" ] && cat analysis/requirements*.txt | cmp -s - "$stamp"; then return 0; fi
  say "installing Python packages of $requirements"
  # A Python that lacks ensurepip, or a half-made environment, is made anew.
  [ -x "$environment/bin/pip" ] || { rm -rf "$environment"; /usr/bin/python3 -m venv "$@" "$environment"; }
  "$environment/bin/pip" install -q --disable-pip-version-check -r "$requirements" >&2
  # The project's own package, from where it is: `python -m hindsight_analysis.figures` works without PYTHONPATH.
  echo "$PWD/analysis" >"$("$environment/bin/python" -c 'import site; print(site.getsitepackages()[0])')/hindsight.pth"
  cat analysis/requirements*.txt >"$stamp"
}

# What the tests of the reference model need, in .venv-torch. Fails where the distribution has no PyTorch.
install_torch() {
  apt-cache show python3-torch >/dev/null 2>&1 || return 1
  install_packages "${TORCH_PACKAGES[@]}"
  install_python .venv-torch analysis/requirements-torch.txt --system-site-packages
}

build() {
  say "building (preset release)"
  cmake --preset release >&2
  cmake --build --preset release >&2
}
