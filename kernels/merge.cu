// Merge of a window's partial results into the outputs. A block owns one output row: of all (row, slot) pairs
// that contribute to it, the block of the earliest does the work, in ascending order, without atomics.

#include "kernels/dispatch.cuh"
#include "kernels/softmax_state.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void merge_kernel(MergeParams params) {
  // Contributors of the output by slot: slot s comes from the step whose row is s after it.
  __shared__ int contributor[kMaxWindow];
  const int own = blockIdx.x, slot = blockIdx.y;
  if (slot >= params.steps[own].window_rows) return;
  const int target = params.steps[own].row - slot;
  if (threadIdx.x < kMaxWindow) contributor[threadIdx.x] = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < params.n_steps; i += kThreads) {
    const int s = params.steps[i].row - target;
    if (s >= 0 && s < min(params.window, params.steps[i].window_rows)) contributor[s] = i;
  }
  __syncthreads();
  for (int s = 0; s < slot; ++s)
    if (contributor[s] >= 0) return;

  const int n_q_heads = params.n_q_heads, d = params.head_dim;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int head = warp; head < n_q_heads; head += kThreads / 32) {
    const int64_t at = static_cast<int64_t>(target) * n_q_heads + head;
    float lse = slot == 0 ? 0.0f : params.lse[at];
    for (int s = slot; s < params.window; ++s) {
      if (contributor[s] < 0) continue;
      const int64_t from = (static_cast<int64_t>(contributor[s]) * params.slots + s) * n_q_heads + head;
      const float from_lse = params.partial_lse[from];
      if (s == 0 || (lse == -INFINITY && from_lse != -INFINITY)) {
        for (int c = lane; c < d; c += 32) params.out[at * d + c] = params.partial_out[from * d + c];
        lse = from_lse;
      } else if (from_lse != -INFINITY) {
        const MergeWeights weights = merge_weights(lse, from_lse);
        for (int c = lane; c < d; c += 32)
          params.out[at * d + c] = weights(params.out[at * d + c], params.partial_out[from * d + c]);
        lse = weights.lse;
      }
    }
    __syncwarp();  // all lanes have read the LSE
    if (lane == 0) params.lse[at] = lse;
  }
}

}  // namespace

cudaError_t merge(const MergeParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.window < 1 || params.window > kMaxWindow || params.window > params.slots)
    return cudaErrorInvalidValue;
  merge_kernel<<<dim3(params.n_steps, params.window), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
