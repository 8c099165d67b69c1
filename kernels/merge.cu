// Merge of a window's partial results into the outputs. A block owns one output row: of all (row, slot) pairs
// that contribute to it, the block of the earliest does the work, in ascending order, without atomics.

#include "kernels/dispatch.cuh"
#include "kernels/softmax_state.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
static_assert(kMaxWindow <= 32, "a lane per slot");

/// A lane's elements of a row of d: lane, lane + 32, ..., at most E.
template <int E>
struct LaneRow {
  float value[E] = {};

  __device__ void load(const float* row, int d) {
#pragma unroll
    for (int x = 0; x < E; ++x)
      if (const int c = threadIdx.x % 32 + x * 32; c < d) value[x] = row[c];
  }
  __device__ void store(float* row, int d) const {
#pragma unroll
    for (int x = 0; x < E; ++x)
      if (const int c = threadIdx.x % 32 + x * 32; c < d) row[c] = value[x];
  }
};

template <int E>
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
    const auto partial_row = [&](int s) {
      return (static_cast<int64_t>(contributor[s]) * params.slots + s) * n_q_heads + head;
    };
    // Lane s has the LSE of slot s; the row itself is what an earlier block of steps left, or slot 0's.
    const float own_lse =
        lane < params.window && contributor[lane] >= 0 ? params.partial_lse[partial_row(lane)] : -INFINITY;
    LaneRow<E> out;
    float lse = -INFINITY;
    bool changed = slot == 0;
    if (slot == 0) {
      out.load(params.partial_out + partial_row(0) * d, d);
      lse = __shfl_sync(~0u, own_lse, 0);
    } else {
      out.load(params.out + at * d, d);
      lse = params.lse[at];
    }
    // Rows are read a few at a time: one after another, each would be waited for.
    constexpr int together = 4;
    for (int begin = max(slot, 1); begin < params.window; begin += together) {
      LaneRow<E> part[together];
#pragma unroll
      for (int x = 0; x < together; ++x)
        if (begin + x < params.window && contributor[begin + x] >= 0)
          part[x].load(params.partial_out + partial_row(begin + x) * d, d);
#pragma unroll
      for (int x = 0; x < together; ++x) {
        const float from_lse = begin + x < params.window ? __shfl_sync(~0u, own_lse, begin + x) : -INFINITY;
        if (from_lse == -INFINITY) continue;
        changed = true;
        if (lse == -INFINITY) {
          out = part[x];
          lse = from_lse;
        } else {
          const MergeWeights weights = merge_weights(lse, from_lse);
#pragma unroll
          for (int c = 0; c < E; ++c) out.value[c] = weights(out.value[c], part[x].value[c]);
          lse = weights.lse;
        }
      }
    }
    if (!changed) continue;
    __syncwarp();  // all lanes have read the LSE
    out.store(params.out + at * d, d);
    if (lane == 0) params.lse[at] = lse;
  }
}

}  // namespace

cudaError_t merge(const MergeParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.window < 1 || params.window > kMaxWindow || params.window > params.slots)
    return cudaErrorInvalidValue;
  const dim3 grid(params.n_steps, params.window);
  const auto launch = [&](auto elements) {
    merge_kernel<elements()><<<grid, kThreads, 0, stream>>>(params);
    return cudaGetLastError();
  };
  if (params.head_dim <= 64) return launch(std::integral_constant<int, 2>{});
  if (params.head_dim <= 128) return launch(std::integral_constant<int, 4>{});
  if (params.head_dim <= 256) return launch(std::integral_constant<int, 8>{});
  return cudaErrorInvalidValue;
}

}  // namespace hindsight::kernels
