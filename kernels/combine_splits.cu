// What attention over splits of a run has in common: how many there are, and how their results become one.

#include <algorithm>

#include "kernels/mma_attention.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void combine_splits_kernel(CombineParams params) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (item >= params.items) return;
  const int d = params.head_dim, lane = threadIdx.x % 32;
  // The weights of all splits against their common maximum: the same sum in every lane, in the same order.
  float largest = minus_infinity();
  for (int split = 0; split < params.splits; ++split)
    largest = fmaxf(largest, params.partial_lse[split * params.items + item]);
  SoftmaxState state;
  state.raise(largest);
  for (int split = 0; split < params.splits; ++split)
    state.sum += state.weight(params.partial_lse[split * params.items + item]);
  for (int c = lane; c < d; c += 32) {
    float sum = 0;
    for (int split = 0; split < params.splits; ++split) {
      const int64_t at = split * params.items + item;
      sum += state.weight(params.partial_lse[at]) * params.partial_out[at * d + c];
    }
    params.out[item * d + c] = sum * state.normaliser();
  }
  if (lane == 0) params.lse[item] = state.lse();
}

}  // namespace

cudaError_t combine_splits(const CombineParams& params, cudaStream_t stream) {
  combine_splits_kernel<<<ceil_div(params.items, kThreads / 32), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
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

SplitPlan plan_splits(int64_t blocks, int64_t tokens, int64_t items, int head_dim, int multiprocessors) {
  constexpr int64_t blocks_per_multiprocessor = 2, fewest_tokens = 4 * kTokens, most_splits = 64;
  const int64_t wanted = blocks_per_multiprocessor * multiprocessors / std::max<int64_t>(blocks, 1);
  const int64_t splits = std::clamp<int64_t>(std::min(wanted, tokens / fewest_tokens), 1, most_splits);
  const int64_t bytes =
      splits == 1 ? 0 : splits * items * (head_dim + 1) * static_cast<int64_t>(sizeof(float));
  return {static_cast<int32_t>(splits), bytes};
}

}  // namespace hindsight::kernels
