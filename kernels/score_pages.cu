// Page scores: a half-warp takes a page, keeps its summary in registers, and scores it for all query rows of
// a tile.

#include "kernels/dispatch.cuh"
#include "kernels/query_tile.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPagesPerBlock = 64;

/// A lane's part of a page's summary over tokens < held of the page.
template <class T, int D>
struct Summary {
  float largest[kLaneElements<T, D>], smallest[kLaneElements<T, D>];

  __device__ void load(const ScorePagesParams& params, int sequence, int page, int kv_head, int held,
                       bool own) {
    const int64_t pool = pool_page(params.kv, sequence, page);
    if (!own) {
      const T* row = static_cast<const T*>(params.kv.summaries) +
                     summary_row(params.heads.n_kv_heads, pool, kv_head) * 2 * D;
      load_row<T, D>(row, largest);
      load_row<T, D>(row + D, smallest);
      return;
    }
    // The stored summary of the row's own page may cover tokens after the row's position (a block of steps is
    // appended as a whole), or keys that were overwritten since (widened summaries).
    const T* keys = static_cast<const T*>(params.kv.k) +
                    token_row(params.kv, params.heads.n_kv_heads, pool, kv_head, 0) * D;
    load_row<T, D>(keys, largest);
    load_row<T, D>(keys, smallest);
    for (int token = 1; token < held; ++token) {
      float key[kLaneElements<T, D>];
      load_row<T, D>(keys + token * D, key);
#pragma unroll
      for (int c = 0; c < kLaneElements<T, D>; ++c) {
        largest[c] = fmaxf(largest[c], key[c]);
        smallest[c] = fminf(smallest[c], key[c]);
      }
    }
  }

  __device__ float score(const float* query_row) const {
    float q[kLaneElements<T, D>];
    load_shared_row<T, D>(query_row, q);
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kLaneElements<T, D>; ++c) sum += fmaxf(q[c] * smallest[c], q[c] * largest[c]);
    return group_sum(sum);
  }
};

template <class T, int D>
__global__ __launch_bounds__(kThreads) void score_pages_kernel(ScorePagesParams params, int steps_per_tile) {
  __shared__ __align__(16) float queries[kQueryTileRows][kPaddedRow<T, D>];
  const int p = params.kv.page_size, kv_head = blockIdx.y;
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int units = params.per_kv_head ? params.heads.n_kv_heads : params.heads.n_q_heads;
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  load_queries<T, D>(params.q, params.heads, params.steps, first, last, kv_head, queries);

  const int page_end = min(static_cast<int>(blockIdx.z + 1) * kPagesPerBlock, params.n_pages);
  for (int page = blockIdx.z * kPagesPerBlock + threadIdx.x / kGroupLanes; page < page_end;
       page += kThreads / kGroupLanes) {
    Summary<T, D> summary;
    int summary_sequence = -1, summary_held = 0;
    bool summary_own = false;
    for (int i = first; i < last; ++i) {
      const Step step = params.steps[i];
      const int held = min(p, step.position + 1 - page * p);  // tokens of the page that the row may see
      const bool own = page == step.position / p;
      if (held > 0 && (step.sequence != summary_sequence || held != summary_held || own != summary_own)) {
        summary.load(params, step.sequence, page, kv_head, held, own);
        summary_sequence = step.sequence;
        summary_held = held;
        summary_own = own;
      }
      float combined = 0;
      for (int g = 0; g < group; ++g) {
        float score = -INFINITY;
        if (held > 0) {
          score = summary.score(queries[(i - first) * group + g]);
          if (params.round_to_storage) score = round_to_finite<T>(score);
        }
        if (!params.per_kv_head) {
          if (group_lane() == 0)
            params.scores[(static_cast<int64_t>(i) * units + kv_head * group + g) * params.n_pages + page] =
                score;
          continue;
        }
        if (g == 0)
          combined = score;
        else
          combined = params.combine == Combine::max ? fmaxf(combined, score) : combined + score;
      }
      if (params.per_kv_head && group_lane() == 0) {
        if (params.combine == Combine::mean) combined /= static_cast<float>(group);
        params.scores[(static_cast<int64_t>(i) * units + kv_head) * params.n_pages + page] = combined;
      }
    }
  }
}

}  // namespace

cudaError_t score_pages(const ScorePagesParams& params, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    const int steps = query_tile_steps(params.n_steps, params.heads.n_q_heads / params.heads.n_kv_heads);
    const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                    ceil_div(params.n_pages, kPagesPerBlock));
    score_pages_kernel<T, head_dim()><<<grid, kThreads, 0, stream>>>(params, steps);
    return cudaGetLastError();
  });
}

}  // namespace hindsight::kernels
