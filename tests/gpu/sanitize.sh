#!/usr/bin/env bash
# Runs NVIDIA's compute-sanitizer, all four tools, over GPU tests that are small and reach every kernel:
# tests/gpu/sanitize.sh build/release/tests/test_gpu [TOOL...]
# Four processes share a tool's tests; SHARDS sets another number.
set -uo pipefail
binary=${1:?usage: tests/gpu/sanitize.sh TEST_GPU_PROGRAM [TOOL...]}
shift
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck synccheck)
export HINDSIGHT_REQUIRE_GPU=1
shards=${SHARDS:-4}
patterns=(
  '*GpuDecodeStep.*/3' '*GpuDecodeStep.*/5' '*GpuDecodeStep.*/9' '*GpuDecodeStepExact.Ru*'
  '*GpuDecodeStepWindows*/0' '*GpuDecodeStepWindows*/5'
  '*GpuAttention.*/1' '*GpuAttention.*/4' '*GpuAttentionLarge.DenseOfRagged*'
  '*GpuAttentionLarge.AWindow*' '*GpuBlocks*/7' 'GpuLongBlocks.ScoresOf*'
  'GpuBackend.Compares*' 'GpuBackend.*Download*'
  '*GpuScores*/2' '*GpuScores.OfMany*/5' '*GpuSelection*/1' '*GpuSelection.LoadsAreNoted*/5' '*GpuRetroTraps.N*' '*CompareRows*'
  '*GrowingLayers.*/Bfloat16' '*Products.*/One' '*Products.*/Nine'
)
# Minutes under racecheck: a search bit by bit.
patterns_beside_racecheck=('*GpuDecodeStepExact.Ti*')
# cuBLAS's kernels are not ours: minutes under racecheck, and what they write by bulk copies initcheck does not see.
patterns_with_cublas=('ModelOnCuda.Rec*')

joined() { local IFS=:; echo "$*"; }
for pattern in "${patterns[@]}" "${patterns_beside_racecheck[@]}" "${patterns_with_cublas[@]}"; do
  if [[ $("$binary" --gtest_list_tests --gtest_filter="$pattern") != *$'\n  '* ]]; then
    echo "sanitize.sh: no test is called $pattern" >&2
    exit 2
  fi
done

status=0
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for tool in "${tools[@]}"; do
  echo "== $tool"
  filter=$(joined "${patterns[@]}")
  [ "$tool" = racecheck ] || filter+=:$(joined "${patterns_beside_racecheck[@]}")
  [ "$tool" = racecheck ] || [ "$tool" = initcheck ] || filter+=:$(joined "${patterns_with_cublas[@]}")
  processes=()
  for ((shard = 0; shard < shards; ++shard)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$binary" --gtest_filter="$filter" --gtest_brief=1 >"$logs/$shard" 2>&1 &
    processes+=($!)
  done
  for shard in "${!processes[@]}"; do
    wait "${processes[$shard]}" || status=1
    grep -v 'Running main' "$logs/$shard"
  done
done
exit $status
