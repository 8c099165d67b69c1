#!/usr/bin/env bash
# Runs every benchmark of the record, one after another on an idle GPU, and leaves their JSON in a folder:
# experiments/performance/record.sh FOLDER [folder of the bench programs]
# A quarter of an hour. What a machine has not got (PyTorch, FlashInfer, Nsight Compute) is left out, and said.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: experiments/performance/record.sh FOLDER [folder of the bench programs]}
programs=${2:-build/release/apps/bench}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/analysis
if [ ! -x "$programs/bench_steps" ]; then
  echo "record.sh: $programs/bench_steps is not there; a build with CUDA and Google Benchmark has it" >&2
  exit 2
fi
mkdir -p "$folder"

status=0
# Says what runs, and goes on after a failure: the measurements before and after are not lost with one.
measure() {
  local name=$1
  shift
  echo "== $name: $*"
  local begin=$SECONDS
  if "$@" >"$folder/$name.log" 2>&1; then
    echo "   $((SECONDS - begin)) s"
  else
    echo "   failed with status $?: $(tail -n 1 "$folder/$name.log")" >&2
    status=1
  fi
}
steps() { measure "$1" "$programs/bench_steps" --benchmark_filter="$2" --benchmark_out="$folder/$1.json"; }

"$programs/bench_steps" --benchmark_list_tests >/dev/null || exit $?  # without a GPU: says so

contexts='(4096|16384|32768|131072)'
# Peers are timed beside the runs that they are compared with.
steps steps "^(dense|attend|step)/32:8/(b1|b8)/$contexts/w1/k.*/cold"
if "$python" -c 'import torch' 2>/dev/null; then
  measure peers "$python" -m hindsight_analysis.bench_peers --ours "$folder/steps.json" --out "$folder/peers.json"
else
  echo "== peers: left out, $python has no PyTorch"
fi
steps windows "^step/32:8/(b1|b8|b32)/$contexts/w.*/k2048/cold"
steps others '32:32|hot|/8192/w1/|1048576'
if command -v ncu >/dev/null; then
  measure bytes "$python" -m hindsight_analysis.bench_bytes --bench "$programs/bench_steps" --out "$folder/bytes.json"
else
  echo "== bytes: left out, ncu is not in PATH"
fi
for context in 8192 32768; do
  mkdir -p "$folder/dump$context"
  measure "fidelity-$context" "$programs/bench_fidelity" --layers 32 --steps 4096 --repeats 5 --contexts "$context" \
    --json "$folder/fidelity-$context.json" --dump "$folder/dump$context"
  if "$python" -c 'import torch' 2>/dev/null; then
    measure "simulation-$context" "$python" -m hindsight_analysis.bench_simulation_gpu \
      --ours "$folder/fidelity-$context.json" --dump "$folder/dump$context" --out "$folder/simulation-$context.json"
  fi
  rm -rf "$folder/dump$context"
done
measure decode "$programs/bench_decode" --json "$folder/decode.json"
exit $status
