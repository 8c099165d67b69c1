// What attention over splits of a run has in common: how many there are, and how their results become one.

#include <algorithm>

#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kItemWarps = 2, kItems = kThreads / 32 / kItemWarps;
constexpr int kMostSplits = 64;  ///< two for a lane

/// Weights of the splits against their common maximum: lane s has those of splits s and s + 32.
struct SplitWeights {
  float weight[2], normaliser, lse;

  __device__ SplitWeights(const CombineParams& params, int64_t item, int lane) {
    float split_lse[2];
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int split = x * 32 + lane;
      split_lse[x] =
          split < params.splits ? params.partial_lse[split * params.items + item] : minus_infinity();
    }
    SoftmaxState state;
    state.raise(warp_max(fmaxf(split_lse[0], split_lse[1])));
    for (int x = 0; x < 2; ++x) weight[x] = state.weight(split_lse[x]);
    state.sum = warp_sum(weight[0] + weight[1]);
    normaliser = state.normaliser();
    lse = state.lse();
  }
  __device__ float operator[](int split) const {
    return __shfl_sync(~0u, split < 32 ? weight[0] : weight[1], split % 32);
  }
};

/// A lane takes two neighbouring elements at a time, and has the results of several splits under way.
__global__ __launch_bounds__(kThreads) void combine_splits_kernel(CombineParams params) {
  let_next_grid_start();
  wait_for_previous_grid();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kItems + threadIdx.x / 32 / kItemWarps;
  if (item >= params.items) return;
  const int d = params.head_dim, lane = threadIdx.x % 32;
  const SplitWeights weights(params, item, lane);
  for (int begin = threadIdx.x / 32 % kItemWarps * 64; begin < d; begin += kItemWarps * 64) {
    const int c = begin + 2 * lane;
    const float* from = params.partial_out + item * d + c;
    float2 sum{0, 0};
#pragma unroll 16
    for (int split = 0; split < params.splits; ++split) {
      const float weight = weights[split];
      // Head dimensions are even.
      const float2 two = c < d ? *reinterpret_cast<const float2*>(from + split * params.items * d) : float2{};
      sum.x += weight * two.x;
      sum.y += weight * two.y;
    }
    if (c < d)
      *reinterpret_cast<float2*>(params.out + item * d + c) =
          make_float2(sum.x * weights.normaliser, sum.y * weights.normaliser);
  }
  if (threadIdx.x / 32 % kItemWarps == 0 && lane == 0) params.lse[item] = weights.lse;
}

}  // namespace

cudaError_t combine_splits(const CombineParams& params, cudaStream_t stream) {
  return launch_dependent(combine_splits_kernel, dim3(ceil_div(params.items, kItems)), kThreads, 0, stream,
                          params);
}

int32_t attention_shared_bytes(int32_t head_dim) {
  Heads heads{};
  heads.head_dim = head_dim;
  int32_t bytes = 0;
  dispatch(heads, [&](auto type, auto d) {
    using T = typename decltype(type)::type;
    bytes = sizeof(AttentionShared<d(), kLargeTile>);
    if constexpr (kMmaTakes<T, d()>)
      bytes = std::max(bytes, static_cast<int32_t>(sizeof(MmaShared<T, d(), kLargeTile>)));
    return cudaSuccess;
  });
  return bytes;
}

bool streams(const Heads& heads, const PagedKv& kv) {
  bool takes = false;
  const cudaError_t error = dispatch(heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    if constexpr (kMmaTakes<T, head_dim()>) {
      int device = 0, shared_bytes = 0;
      cudaError_t status = cudaGetDevice(&device);
      if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
      if (status != cudaSuccess) return status;
      // Beside it there must be place for the pages of a split.
      takes = takes_mma(kv) && static_cast<int>(sizeof(StreamShared<T, head_dim()>) +
                                                kStreamPages * sizeof(StreamPage)) <= shared_bytes;
    }
    return cudaSuccess;
  });
  return error == cudaSuccess && takes;
}

SplitPlan plan_splits(const Heads& heads, const PagedKv& kv, int64_t blocks, int64_t tokens, int64_t items,
                      int multiprocessors) {
  constexpr int64_t fewest_tokens = 128, most_splits = kMostSplits;
  const int64_t blocks_per_multiprocessor = streams(heads, kv) ? 1 : 2;
  const int64_t wanted = blocks_per_multiprocessor * multiprocessors / std::max<int64_t>(blocks, 1);
  const int64_t splits = std::clamp<int64_t>(std::min(wanted, tokens / fewest_tokens), 1, most_splits);
  const int64_t bytes =
      splits == 1 ? 0 : splits * items * (heads.head_dim + 1) * static_cast<int64_t>(sizeof(float));
  return {static_cast<int32_t>(splits), bytes};
}

}  // namespace hindsight::kernels
