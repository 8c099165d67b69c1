#!/usr/bin/env bash
# The training text, from the packages of a Debian 12 with network: downloads them, unpacks them and builds OUT.
#   experiments/reference_model/build_corpus.sh OUT [PACKAGES]
# PACKAGES keeps downloads and unpacked packages (3 GB), default OUT/packages; nothing is installed. No root needed.
set -euo pipefail
out=$(realpath -m "${1:?usage: experiments/reference_model/build_corpus.sh OUT [PACKAGES]}")
packages=$(realpath -m "${2:-$out/packages}")
cd "$(dirname "$0")/../.."
mkdir -p "$packages"

python3 -c 'from experiments.reference_model.corpus import sources; print(*sources.packages(), sep="\n")' |
  while read -r package; do
    [ -e "$packages/$package/.unpacked" ] && continue
    printf '%s\n' "$package" >&2
    mkdir -p "$packages/$package"
    (cd "$packages/$package" && apt-get download -q "$package" >/dev/null && dpkg -x ./*.deb . && rm ./*.deb && touch .unpacked)
  done
python3 -m experiments.reference_model.corpus.build "$packages" "$out"
