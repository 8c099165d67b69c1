// What attention over splits of a run has in common: how many there are, and how their results become one.

#include <algorithm>

#include "kernels/mma_attention.cuh"
#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 128;

__global__ __launch_bounds__(kThreads) void combine_splits_kernel(CombineParams params) {
  wait_after_early_launch();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (item < params.items) combine_item(params, item);
}

}  // namespace

cudaError_t combine_splits(const CombineParams& params, cudaStream_t stream) {
  return launch_early(combine_splits_kernel, dim3(ceil_div(params.items, kThreads / 32)), dim3(kThreads),
                      params, stream);
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

SplitPlan plan_splits(int64_t blocks, int64_t tokens, int64_t items, int head_dim, int multiprocessors) {
  constexpr int64_t fewest_tokens = 128, blocks_per_multiprocessor = 2;
  const int64_t wanted = blocks_per_multiprocessor * multiprocessors / std::max<int64_t>(blocks, 1);
  return split_plan(std::clamp<int64_t>(std::min(wanted, tokens / fewest_tokens), 1, kMostSplits), items,
                    head_dim);
}

}  // namespace hindsight::kernels
