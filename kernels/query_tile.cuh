#pragma once
// Queries of up to 16 rows (steps times the G heads of a KV head), widened in shared memory for all
// half-warps of a block.

#include "kernels/lane_group.cuh"
#include "kernels/paged_kv.cuh"

namespace hindsight::kernels {

inline constexpr int kQueryTileRows = 16;
static_assert(kQueryTileRows >= kMaxGroup, "a tile holds one step at least");

/// Steps of a tile: as many as fit where there are plenty of rows to fill the GPU with, else one.
inline int query_tile_steps(int n_steps, int group) {
  constexpr int plenty = 64;
  return n_steps >= plenty ? kQueryTileRows / group : 1;
}

/// Loads row (step - first) * G + g of steps [first, last) into tile[row], zero-padded. Ends with a block
/// barrier.
template <class T, int D>
__device__ inline void load_queries(const Queries& q, const Heads& heads, const Step* steps, int first,
                                    int last, int kv_head, float (&tile)[kQueryTileRows][kPaddedRow<T, D>]) {
  const int group = heads.n_q_heads / heads.n_kv_heads, rows = (last - first) * group;
  for (int x = threadIdx.x; x < rows * kPaddedRow<T, D>; x += blockDim.x) {
    const int row = x / kPaddedRow<T, D>, c = x % kPaddedRow<T, D>;
    const Step step = steps[first + row / group];
    tile[row][c] =
        c < D ? to_float(query<T>(q, heads, step.sequence, step.position, kv_head * group + row % group)[c])
              : 0.0f;
  }
  __syncthreads();
}

}  // namespace hindsight::kernels
