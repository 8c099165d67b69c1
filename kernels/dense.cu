// Dense attention: a block takes a KV head and the G heads of a few neighbouring steps, which share the keys
// they read.

#include <climits>

#include "kernels/attention.cuh"

namespace hindsight::kernels {
namespace {

/// Query row r is head r % G of step first + r / G; steps [first, last) belong to one sequence, ascending.
struct DenseProblem {
  const DenseParams& params;
  int first, last, kv;
  int group;

  __device__ int rows() const { return (last - first) * group; }
  __device__ QueryRow row(int r) const {
    const int i = first + r / group, q_head = kv * group + r % group;
    const int position = params.steps[i].position;
    return {params.steps[i].sequence,
            position,
            q_head,
            position,
            INT_MAX,
            static_cast<int64_t>(i) * params.heads.n_q_heads + q_head};
  }
  __device__ int tokens() const { return last_position() + 1; }
  __device__ Token token(int x) const { return {x, -1, x / params.kv.page_size}; }
  __device__ int last_position() const { return params.steps[last - 1].position; }
  __device__ int sequence() const { return params.steps[first].sequence; }
  __device__ int kv_head() const { return kv; }
};

template <class T, int D, int M>
__global__ __launch_bounds__(kAttentionThreads) void dense_kernel(const __grid_constant__ DenseParams params,
                                                                  SplitTarget target) {
  const int first = blockIdx.x * params.steps_per_tile;
  const int last = min(first + params.steps_per_tile, params.n_steps);
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
  for (int begin = first; begin < last;) {
    int end = begin + 1;
    while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
    const DenseProblem problem{params, begin, end, static_cast<int>(blockIdx.y), group};
    attend_tile<T, D, M>(problem, params.heads, params.kv, params.q, params.scale, blockIdx.z, gridDim.z,
                         target);
    begin = end;
  }
}

int group(const DenseParams& params) { return params.heads.n_q_heads / params.heads.n_kv_heads; }
int64_t items(const DenseParams& params) {
  return static_cast<int64_t>(params.n_steps) * params.heads.n_q_heads;
}

}  // namespace

DensePlan plan_dense(const DenseParams& params, int64_t longest, bool adjacent_share_sequence,
                     int32_t multiprocessors) {
  const int steps_per_tile = adjacent_share_sequence ? kLargeTile / group(params) : 1;
  const int64_t blocks =
      static_cast<int64_t>(ceil_div(params.n_steps, steps_per_tile)) * params.heads.n_kv_heads;
  return {steps_per_tile,
          plan_splits(blocks, longest, items(params), params.heads.head_dim, multiprocessors)};
}

cudaError_t dense(const DenseParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  const dim3 grid(ceil_div(params.n_steps, params.steps_per_tile), params.heads.n_kv_heads, params.splits);
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if (params.steps_per_tile * group(params) <= kSmallTile)
      return launch_attention<D, kSmallTile>(dense_kernel<T, D, kSmallTile>, grid, params, items(params),
                                             stream);
    return launch_attention<D, kLargeTile>(dense_kernel<T, D, kLargeTile>, grid, params, items(params),
                                           stream);
  });
}

}  // namespace hindsight::kernels
