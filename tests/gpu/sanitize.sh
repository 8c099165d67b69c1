#!/usr/bin/env bash
# Runs NVIDIA's compute-sanitizer, all four tools, over GPU tests that are small and reach every kernel:
# tests/gpu/sanitize.sh build/release/tests/test_gpu
set -uo pipefail
binary=${1:?usage: tests/gpu/sanitize.sh TEST_GPU_PROGRAM [TOOL...]}
shift
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck synccheck)
export HINDSIGHT_REQUIRE_GPU=1
filter='*GpuDecodeStep.*/3:*GpuDecodeStep.*/5:*GpuDecodeStep.*/9:*GpuDecodeStepExact.Ru*:*GpuDecodeStepExact.Ti*'
filter+=':*GpuAttention.*/1:*GpuAttention.*/4:*GpuScores*/2:*GpuSelection*/1:*GpuRetroTraps.N*:*DenseOfRagged*'
filter+=':*GrowingLayers.*/2:*Products.*/0:*Products.*/4:*ModelOnCuda.Rec*'
status=0
for tool in "${tools[@]}"; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 "$binary" --gtest_filter="$filter" --gtest_brief=1 || status=1
done
exit $status
