#!/usr/bin/env bash
# Installs what is missing, builds, runs the quickstart sweep on the trace in the repository, and shows the report and figures.
set -euo pipefail
cd "$(dirname "$0")/.."
. experiments/setup.sh

install_packages "${PACKAGES[@]}"
install_python .venv analysis/requirements.txt
build

say "running configs/quickstart.yaml"
build/release/apps/hindsight/hindsight run configs/quickstart.yaml "$@"
say "report"
build/release/apps/hindsight/hindsight report results/quickstart.h5
say "figures"
PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m hindsight_analysis.figures results/quickstart.h5 --out results/figures
