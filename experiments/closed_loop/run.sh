#!/usr/bin/env bash
# Makes the data and runs the four evaluations; words are handed on to hindsight eval, e.g. --set sequences=16.
set -euo pipefail
cd "$(dirname "$0")/../.."
hindsight=${HINDSIGHT_BIN:-build/release/apps/hindsight/hindsight}
data=results/closed_loop
mkdir -p "$data"

# 48 rows in a context of 4096: graded, see experiments/tasks/README.md. Answers of about 200 bytes.
for task_lines in recall:24 chain:47 ledger:20; do
  task=${task_lines%:*}
  python3 -m experiments.tasks --task "$task" --rows 48 --context 4096 --lines "${task_lines#*:}" --seed 5 --count 200 >"$data/$task.jsonl"
done
for kind in english code; do
  python3 -c 'import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())' "experiments/reference_model/heldout/$kind.txt.xz" >"$data/$kind.txt"
done

for sweep in tasks text english drift; do
  "$hindsight" eval "experiments/closed_loop/$sweep.yaml" --resume "$@"
  "$hindsight" report "$data/$sweep.h5" --by point
done
