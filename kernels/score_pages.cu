// Page scores. Two ways:
// - a half-warp takes a page, keeps its summary in registers, and scores it for all query rows of a tile;
// - for many steps that lie in runs of one sequence (score_by_products), max(q*kmin, q*kmax) summed is
//   [q+, q-].[kmax, kmin], a product for the tensor cores: a block has up to 64 query rows and 64 pages at a
//   time, a warp 32 rows and 16 pages. The page of a row's own position, of which the row sees a part, is
//   left to a second kernel, which goes the first way.

#include "kernels/dispatch.cuh"
#include "kernels/mma_attention.cuh"
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
    // A few rows at a time: one by one, each would be waited for. Past the end the last row comes again.
    constexpr int together = 4;
    for (int token = 1; token < held; token += together) {
      float key[together][kLaneElements<T, D>];
#pragma unroll
      for (int x = 0; x < together; ++x) load_row<T, D>(keys + min(token + x, held - 1) * D, key[x]);
#pragma unroll
      for (int x = 0; x < together; ++x)
#pragma unroll
        for (int c = 0; c < kLaneElements<T, D>; ++c) {
          largest[c] = fmaxf(largest[c], key[x][c]);
          smallest[c] = fminf(smallest[c], key[x][c]);
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

/// Scores a page for the heads of step i, whose queries are given; 0 tokens held: the page does not exist.
template <class T, int D>
__device__ void write_scores(const ScorePagesParams& params, const Summary<T, D>& summary, int held, int i,
                             int kv_head, int page, const float (*queries)[kPaddedRow<T, D>]) {
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int units = params.per_kv_head ? params.heads.n_kv_heads : params.heads.n_q_heads;
  float combined = 0;
  for (int g = 0; g < group; ++g) {
    float score = -INFINITY;
    if (held > 0) {
      score = summary.score(queries[g]);
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

template <class T, int D>
__global__ __launch_bounds__(kThreads) void score_pages_kernel(ScorePagesParams params, int steps_per_tile) {
  __shared__ __align__(16) float queries[kQueryTileRows][kPaddedRow<T, D>];
  const int p = params.kv.page_size, kv_head = blockIdx.y;
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
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
      write_scores(params, summary, held, i, kv_head, page, queries + (i - first) * group);
    }
  }
}

/// The pages of the rows' own positions alone.
template <class T, int D>
__global__ __launch_bounds__(kThreads) void score_newest_kernel(ScorePagesParams params, int steps_per_tile) {
  __shared__ __align__(16) float queries[kQueryTileRows][kPaddedRow<T, D>];
  const int kv_head = blockIdx.y, group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  load_queries<T, D>(params.q, params.heads, params.steps, first, last, kv_head, queries);
  const int i = first + threadIdx.x / kGroupLanes;
  if (i >= last) return;
  const Step step = params.steps[i];
  const int page = step.position / params.kv.page_size, held = step.position % params.kv.page_size + 1;
  Summary<T, D> summary;
  summary.load(params, step.sequence, page, kv_head, held, true);
  write_scores(params, summary, held, i, kv_head, page, queries + (i - first) * group);
}

constexpr int kBlockRows = 64, kBlockPages = 64;
constexpr int kWarpTiles = 2;  // of 16 rows
constexpr int kBlockThreads = kBlockPages / 16 * (kBlockRows / 16 / kWarpTiles) * 32;
constexpr int kRoundsPerBlock = 4;  // of kBlockPages

template <class T, int D>
struct ScoreShared {
  alignas(16) T q[kBlockRows][kMmaStride<2 * D>];
  alignas(16) T summary[kBlockPages][kMmaStride<2 * D>];
  float score[kBlockRows][kBlockPages + 1];
  int newest[kBlockRows];                        ///< page of a step's own position
  int pool_page[kRoundsPerBlock * kBlockPages];  ///< looked up at once: one by one, each would be waited for
};

/// [q+, q-] of the rows, zeros after them.
template <class T, int D>
__device__ void load_split_queries(const ScorePagesParams& params, int first, int rows, int kv_head,
                                   T (&tile)[kBlockRows][kMmaStride<2 * D>]) {
  constexpr int pieces = D / 8;
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
  for (int x = threadIdx.x; x < kBlockRows * pieces; x += kBlockThreads) {
    const int row = x / pieces, c = x % pieces * 8;
    uint4 both{};
    if (row < rows) {
      const Step step = params.steps[first + row / group];
      both = *reinterpret_cast<const uint4*>(
          query<T>(params.q, params.heads, step.sequence, step.position, kv_head * group + row % group) + c);
    }
    const SplitBySign split = split_by_sign(both);
    *reinterpret_cast<uint4*>(&tile[row][c]) = split.positive;
    *reinterpret_cast<uint4*>(&tile[row][D + c]) = split.negative;
  }
}

/// Steps [first, last) of the block's, all of one sequence.
template <class T, int D>
__device__ void score_steps(const ScorePagesParams& params, ScoreShared<T, D>& shared, int first, int last) {
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads, rows = (last - first) * group;
  const int kv_head = blockIdx.y, p = params.kv.page_size, sequence = params.steps[first].sequence;
  const int pages = params.steps[last - 1].position / p + 1;  // that exist
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_in_round = warp % (kBlockPages / 16) * 16;
  const int first_row = warp / (kBlockPages / 16) * kWarpTiles * 16;
  constexpr int pieces = 2 * D / 8, stride = kMmaStride<2 * D> * sizeof(T);

  __syncthreads();  // the block may be done with other steps only in part
  load_split_queries<T, D>(params, first, rows, kv_head, shared.q);
  for (int i = threadIdx.x; i < last - first; i += kBlockThreads)
    shared.newest[i] = params.steps[first + i].position / p;
  const int block_page = static_cast<int>(blockIdx.z) * kRoundsPerBlock * kBlockPages;
  for (int x = threadIdx.x; x < kRoundsPerBlock * kBlockPages; x += kBlockThreads)
    if (block_page + x < pages)
      shared.pool_page[x] = static_cast<int>(pool_page(params.kv, sequence, block_page + x));
  __syncthreads();
  const auto read_round = [&](int round) {
    const int first_page = block_page + round * kBlockPages;
#pragma unroll
    for (int step = 0; step < ceil_div(kBlockPages * pieces, kBlockThreads); ++step) {
      const int x = step * kBlockThreads + threadIdx.x, in_round = x / pieces;
      if (kBlockPages * pieces % kBlockThreads != 0 && x >= kBlockPages * pieces) break;
      const bool exists = first_page + in_round < pages;
      const int64_t row = exists ? summary_row(params.heads.n_kv_heads,
                                               shared.pool_page[round * kBlockPages + in_round], kv_head)
                                 : 0;
      copy_async(shared_address(&shared.summary[in_round][x % pieces * 8]),
                 static_cast<const T*>(params.kv.summaries) + row * 2 * D + (exists ? x % pieces * 8 : 0),
                 exists);
    }
    commit_copies();
  };
  const int rounds = min(kRoundsPerBlock, ceil_div(params.n_pages - block_page, kBlockPages));
  read_round(0);
  for (int round = 0; round < rounds; ++round) {
    wait_for_copies<0>();
    __syncthreads();

    float score[kWarpTiles][2][4] = {};
    const uint32_t b_at = shared_address(&shared.summary[first_in_round][0]) +
                          (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16;
    const uint32_t a_at = shared_address(&shared.q[first_row][0]) + lane % 16 * stride + lane / 16 * 16;
#pragma unroll 4
    for (int c = 0; c < 2 * D / 16; ++c) {
      uint32_t b[4];
      load_matrices(b, b_at + c * 32);
#pragma unroll
      for (int tile = 0; tile < kWarpTiles; ++tile) {
        uint32_t a[4];
        load_matrices(a, a_at + tile * 16 * stride + c * 32);
        mma(score[tile][0], a, b[0], b[1], T{});
        mma(score[tile][1], a, b[2], b[3], T{});
      }
    }
#pragma unroll
    for (int tile = 0; tile < kWarpTiles; ++tile)
#pragma unroll
      for (int x = 0; x < 8; ++x) {
        const float value = score[tile][x / 4][x % 4];
        shared.score[first_row + tile * 16 + x % 4 / 2 * 8 + lane / 4]
                    [first_in_round + x / 4 * 8 + lane % 4 * 2 + x % 2] =
            params.round_to_storage ? round_to_finite<T>(value) : value;
      }
    __syncthreads();
    if (round + 1 < rounds) read_round(round + 1);  // while scores are combined

    const int units = params.per_kv_head ? 1 : group, heads = group / units;
    const int in_round = threadIdx.x % kBlockPages, page = block_page + round * kBlockPages + in_round;
    if (page >= params.n_pages) continue;
    for (int list = threadIdx.x / kBlockPages; list < (last - first) * units;
         list += kBlockThreads / kBlockPages) {
      const int i = params.per_kv_head ? list : list / group, newest = shared.newest[i];
      if (page == newest) continue;
      float combined = shared.score[list * heads][in_round];
      for (int g = 1; g < heads; ++g) {
        const float other = shared.score[list * heads + g][in_round];
        combined = params.combine == Combine::max ? fmaxf(combined, other) : combined + other;
      }
      if (params.per_kv_head && params.combine == Combine::mean) combined /= static_cast<float>(group);
      const int64_t row =
          (static_cast<int64_t>(first + i) * params.heads.n_kv_heads + kv_head) * units + list - i * units;
      params.scores[row * params.n_pages + page] = page < newest ? combined : -INFINITY;
    }
  }
}

template <class T, int D>
__global__ __launch_bounds__(kBlockThreads) void score_products_kernel(ScorePagesParams params,
                                                                       int steps_per_tile) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ScoreShared<T, D>*>(shared_bytes);
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  for (int begin = first; begin < last;) {
    int end = begin + 1;
    while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
    score_steps(params, shared, begin, end);
    begin = end;
  }
}

template <class T, int D>
cudaError_t score_by_products(const ScorePagesParams& params, cudaStream_t stream) {
  // No more than the longest run has: a block goes through the sequences of its tile one after another.
  const int steps = min(kBlockRows / (params.heads.n_q_heads / params.heads.n_kv_heads), params.longest_run);
  constexpr int shared_bytes = sizeof(ScoreShared<T, D>);
  const auto kernel = score_products_kernel<T, D>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                  ceil_div(params.n_pages, kBlockPages * kRoundsPerBlock));
  kernel<<<grid, kBlockThreads, shared_bytes, stream>>>(params, steps);
  return cudaGetLastError();
}

}  // namespace

cudaError_t score_newest_pages(const ScorePagesParams& params, cudaStream_t stream) {
  const int steps = query_tile_steps(params.n_steps, params.heads.n_q_heads / params.heads.n_kv_heads);
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads);
    score_newest_kernel<T, head_dim()><<<grid, kThreads, 0, stream>>>(params, steps);
    return cudaGetLastError();
  });
}

cudaError_t score_pages(const ScorePagesParams& params, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
    const int steps = query_tile_steps(params.n_steps, group);
    if constexpr (kMmaTakes<T, head_dim()>) {
      // A choice: with less than sixteen rows in a run nearly all of a block's 64 would be zeros.
      if (params.n_steps * group >= kBlockRows && params.longest_run * group >= 16)
        if (const cudaError_t error = score_by_products<T, head_dim()>(params, stream); error != cudaSuccess)
          return error;
        else
          return score_newest_pages(params, stream);
    }
    const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                    ceil_div(params.n_pages, kPagesPerBlock));
    score_pages_kernel<T, head_dim()><<<grid, kThreads, 0, stream>>>(params, steps);
    return cudaGetLastError();
  });
}

}  // namespace hindsight::kernels
