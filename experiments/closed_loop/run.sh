#!/usr/bin/env bash
# Makes the data and runs the evaluations, then says how methods differ and draws the figures. Words are handed on to hindsight
# eval, e.g. --set sequences=16, or --device cuda --set batch=200. SWEEPS="tasks text" runs some of them, SWEEPS= none: it makes the data.
set -euo pipefail
cd "$(dirname "$0")/../.."
hindsight=${HINDSIGHT_BIN:-build/release/apps/hindsight/hindsight}
python=${PYTHON:-python3}
data=results/closed_loop
sweeps=${SWEEPS-tasks drift text positions}
mkdir -p "$data"

# 48 rows in a context of 4096: graded, see experiments/tasks/README.md. Answers of about 200 bytes.
for task_lines in recall:24 chain:47 ledger:20; do
  task=${task_lines%:*}
  "$python" -m experiments.tasks --task "$task" --rows 48 --context 4096 --lines "${task_lines#*:}" --seed 5 --count 200 >"$data/$task.jsonl"
done
# Of each kind what evaluations of the model read, and all that was held out. Byte 0 parts documents.
for kind in english code; do
  xz -dc "experiments/reference_model/heldout/$kind.txt.xz" >"$data/$kind.txt"
  { cat "$data/$kind.txt"; printf '\0'; xz -dc "experiments/reference_model/heldout/rest/$kind.txt.xz"; } >"$data/${kind}_all.txt"
done

for sweep in $sweeps; do
  "$hindsight" eval "experiments/closed_loop/$sweep.yaml" --resume "$@"
  "$hindsight" report "$data/$sweep.h5" --by point
done

export PYTHONPATH=$PWD/analysis
if ! "$python" -c 'import h5netcdf, matplotlib, xarray' 2>/dev/null; then
  echo "differences and figures need the packages of analysis/requirements.txt" >&2
  exit 0
fi
for sweep in $sweeps; do
  metrics=delta_nll
  case $sweep in
    tasks) metrics=accuracy ;;
    positions) metrics="delta_nll sequence_hidden_rel_l2_first sequence_hidden_rel_l2_final" ;;
  esac
  for metric in $metrics; do
    "$python" -m hindsight_analysis.paired "$data/$sweep.h5" --metric "$metric" --against quest >"$data/$sweep.$metric.md"
  done
  "$python" -m hindsight_analysis.figures "$data/$sweep.h5" --out "$data/figures/$sweep"
done
