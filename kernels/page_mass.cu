// True mass of pages: a half-warp takes a page and reads each of its keys once for all query rows of a tile.
// Lane r keeps the sum of query row r, so 16 rows need one exponential per token.

#include "kernels/dispatch.cuh"
#include "kernels/query_tile.cuh"
#include "kernels/softmax_state.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPagesPerBlock = 64;
static_assert(kQueryTileRows <= kGroupLanes, "a lane per query row");

/// Mass of `page` for steps [first, last), all of one sequence, whose first query row in the tile is
/// `row_begin`.
template <class T, int D>
__device__ void mass_of_page(const PageMassParams& params, int page, int kv_head, int first, int last,
                             const float (*queries)[kPaddedRow<T, D>]) {
  const int p = params.kv.page_size, group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int rows = (last - first) * group, lane = group_lane();
  const int sequence = params.steps[first].sequence;
  const int last_position = params.steps[last - 1].position;

  int position = -1;  // of this lane's query row
  float lse = 0, sum = 0;
  if (lane < rows) {
    position = params.steps[first + lane / group].position;
    lse = params.lse[static_cast<int64_t>(first + lane / group) * params.heads.n_q_heads + kv_head * group +
                     lane % group];
  }
  const int held = min(p, last_position + 1 - page * p);
  if (held > 0) {
    const T* keys =
        static_cast<const T*>(params.kv.k) +
        token_row(params.kv, params.heads.n_kv_heads, pool_page(params.kv, sequence, page), kv_head, 0) * D;
    for (int token = 0; token < held; ++token) {
      float key[kLaneElements<T, D>];
      load_row<T, D>(keys + token * D, key);
      float logit = -INFINITY;
      for (int row = 0; row < rows; ++row) {
        float q[kLaneElements<T, D>];
        load_shared_row<T, D>(queries[row], q);
        float dot = 0;
#pragma unroll
        for (int c = 0; c < kLaneElements<T, D>; ++c) dot += q[c] * key[c];
        dot = group_sum(dot);
        if (row == lane) logit = params.scale * dot;
      }
      if (page * p + token <= position) sum += normal_exp(logit - lse);
    }
  }

  const int units = params.per_kv_head ? params.heads.n_kv_heads : params.heads.n_q_heads;
  if (params.per_kv_head) {
    // The first row of a step adds up its heads, in their order.
    float total = 0;
    for (int g = 0; g < group; ++g) {
      const float other = __shfl_down_sync(group_mask(), sum, g, kGroupLanes);
      if (lane + g < rows) total += other;
    }
    sum = total;
  }
  if (lane >= rows || (params.per_kv_head && lane % group != 0)) return;
  const int i = first + lane / group, unit = params.per_kv_head ? kv_head : kv_head * group + lane % group;
  params.mass[(static_cast<int64_t>(i) * units + unit) * params.n_pages + page] =
      page * p <= position ? sum : -INFINITY;
}

template <class T, int D>
__global__ __launch_bounds__(kThreads) void page_mass_kernel(PageMassParams params, int steps_per_tile) {
  __shared__ __align__(16) float queries[kQueryTileRows][kPaddedRow<T, D>];
  const int kv_head = blockIdx.y, group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  load_queries<T, D>(params.q, params.heads, params.steps, first, last, kv_head, queries);

  const int page_end = min(static_cast<int>(blockIdx.z + 1) * kPagesPerBlock, params.n_pages);
  for (int page = blockIdx.z * kPagesPerBlock + threadIdx.x / kGroupLanes; page < page_end;
       page += kThreads / kGroupLanes) {
    for (int begin = first; begin < last;) {
      int end = begin + 1;
      while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
      mass_of_page<T, D>(params, page, kv_head, begin, end, queries + (begin - first) * group);
      begin = end;
    }
  }
}

}  // namespace

cudaError_t page_mass(const PageMassParams& params, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    const int steps = query_tile_steps(params.n_steps, params.heads.n_q_heads / params.heads.n_kv_heads);
    const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                    ceil_div(params.n_pages, kPagesPerBlock));
    page_mass_kernel<T, head_dim()><<<grid, kThreads, 0, stream>>>(params, steps);
    return cudaGetLastError();
  });
}

}  // namespace hindsight::kernels
