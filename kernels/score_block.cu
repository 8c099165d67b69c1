// Page scores of many steps of one sequence by warpgroup products (compute capability 9.0a, 16-bit types):
// max(q*kmin, q*kmax) summed is [q+, q-].[kmax, kmin]. A tile is 128 pages; row_block.cuh says who does what.
// The page of a row's own position, of which the row sees a part, is left to score_newest_pages.

#include <algorithm>

#include "kernels/row_block.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kRows = 128, kThreads = kRowThreads<kRows>;
constexpr int kMostTiles = 8;  // of a block: their pages are looked up at once

template <class T, int D>
struct ScoreShared {
  static constexpr int stages = 2;
  Swizzled<T, 2 * D, kRows> q;  ///< [q+, q-]
  Swizzled<T, 2 * D, kTile> summary[stages];
  int32_t summary_row[kMostTiles * kTile];
  uint64_t full[stages], empty[stages];
};

#ifdef HINDSIGHT_WGMMA

/// [q+, q-] of the block's rows, zeros after them.
template <class T, int D>
__device__ void load_split_rows(const RowsOfBlock<kRows>& rows, const Queries& q,
                                Swizzled<T, 2 * D, kRows>& to) {
  for_query_pieces<T, D>(rows, q, [&](int row, int piece, uint4 values) {
    const SplitBySign split = split_by_sign(values);
    store_piece(to, row, piece, split.positive);
    store_piece(to, row, D / 8 + piece, split.negative);
  });
}

/// The tile's summaries; zeros for pages that do not exist.
template <class T, int D>
__device__ void read_summaries(const T* summaries, const int32_t* summary_row, int existing,
                               Swizzled<T, 2 * D, kTile>& to) {
  constexpr int pieces = 2 * D / 8;
#pragma unroll 8
  for (int x = threadIdx.x; x < kTile * pieces; x += kGroupThreads) {
    const int page = x / pieces, piece = x % pieces;
    const bool exists = page < existing;
    const int64_t row = exists ? summary_row[page] : 0;
    copy_async(piece_address(to, page, piece), summaries + row * 2 * D + piece * 8, exists);
  }
  commit_copies();
}

/// Scores of a lane's two rows, combined over the heads of a unit, whose rows are `heads` neighbouring lanes'
/// (four apart). Each of these lanes ends with its share of the pages: the 8 pages of blocks [first, first +
/// count).
struct CombinedScores {
  float (&score)[kTile / 2];  ///< of block b, row half h, page p of two: [4b + 2h + p]
  int first = 0, count = kTile / 8;

  /// `half_blocks` is count / 2, known to the compiler.
  template <int half_blocks, class F>
  __device__ void share_with(int lanes, const F& combine) {
    const bool upper = threadIdx.x % 32 / lanes % 2 == 1;
#pragma unroll
    for (int x = 0; x < 4 * half_blocks; ++x) {
      const float kept = upper ? score[x + 4 * half_blocks] : score[x];
      const float given = upper ? score[x] : score[x + 4 * half_blocks];
      score[x] = combine(kept, __shfl_xor_sync(~0u, given, lanes));
    }
    if (upper) first += half_blocks;
    count = half_blocks;
  }
  template <class F>
  __device__ void over(int heads, const F& combine) {
    if (heads >= 2) share_with<8>(4, combine);
    if (heads >= 4) share_with<4>(8, combine);
    if (heads >= 8) share_with<2>(16, combine);
  }
};

#endif  // HINDSIGHT_WGMMA

template <class T, int D>
__global__ __launch_bounds__(kThreads,
                             1) void score_block_kernel(const __grid_constant__ ScorePagesParams params,
                                                        int tiles_per_block) {
#ifdef HINDSIGHT_WGMMA
  using Shared = ScoreShared<T, D>;
  constexpr int stages = Shared::stages;
  auto& shared = aligned_shared<Shared>();
  const RowsOfBlock<kRows> rows(params.heads, params.steps, params.n_steps);
  const int p = params.kv.page_size, pages = rows.last_position() / p + 1;  // that exist
  const int first_tile = blockIdx.z * tiles_per_block;
  const int tile_end = min(ceil_div(params.n_pages, kTile), first_tile + tiles_per_block);
  // Pages that begin after the last position get -inf without a look.
  const int seen_end = min(tile_end, ceil_div(pages, kTile));

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared.full[stage], kGroupThreads);
      init_barrier(shared.empty[stage], 2 * kGroupThreads);
    }
  }
  for (int x = threadIdx.x; x < (seen_end - first_tile) * kTile; x += kThreads)
    if (const int page = first_tile * kTile + x; page < pages)
      shared.summary_row[x] = static_cast<int32_t>(
          summary_row(params.heads.n_kv_heads, pool_page(params.kv, rows.sequence(), page), rows.kv_head));
  load_split_rows<T, D>(rows, params.q, shared.q);
  __syncthreads();

  const int warpgroup = uniform(threadIdx.x / kGroupThreads);
  if (warpgroup == 0) {
    read_tiles(
        seen_end - first_tile, shared.full, shared.empty, [](int) {},
        [&](int turn, int stage) {
          read_summaries<T, D>(static_cast<const T*>(params.kv.summaries), shared.summary_row + turn * kTile,
                               pages - (first_tile + turn) * kTile, shared.summary[stage]);
        });
  } else {
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int first_row = (warpgroup - 1) * kGroupRows;
    const int row = first_row + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
    const int heads = params.per_kv_head ? rows.group() : 1;
    const int units = params.heads.n_q_heads / heads;
    float* to[2];   // scores of a row's unit; null where there is no such row
    int newest[2];  // page of the row's own position
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + half * 8, head = rows.kv_head * rows.group() + r % rows.group();
      const int64_t list = static_cast<int64_t>(rows.first + r / rows.group()) * units + head / heads;
      to[half] = r < rows.count() ? params.scores + list * params.n_pages : nullptr;
      newest[half] = r < rows.count() ? rows.position(r) / p : 0;
    }
    const float scale =
        params.per_kv_head && params.combine == Combine::mean ? 1.0f / static_cast<float>(heads) : 1.0f;
    const uint32_t q = shared_address(&shared.q.column[0][first_row][0]);
    for (int tile = first_tile; tile < tile_end; ++tile) {
      float score[kTile / 2] = {};
      CombinedScores combined{score};
      if (tile < seen_end) {
        const int turn = tile - first_tile, stage = turn % stages;
        wait_for_phase(shared.full[stage], turn / stages % 2);
        begin_products();
        multiply_tile<T, 2 * D, kRows>(score, q, shared_address(&shared.summary[stage]));
        commit_products();
        wait_for_products<0>();
        arrive(shared.empty[stage]);
        if (params.round_to_storage) {
#pragma unroll
          for (float& value : score) value = round_to_finite<T>(value);
        }
        if (params.combine == Combine::max)
          combined.over(heads, [](float x, float y) { return fmaxf(x, y); });
        else
          combined.over(heads, [](float x, float y) { return x + y; });
      }
#pragma unroll
      for (int x = 0; x < kTile / 2; ++x) {
        const int block = x / 4, half = x / 2 % 2;
        if (block >= combined.count || to[half] == nullptr) continue;
        const int page = tile * kTile + (combined.first + block) * 8 + 2 * t + x % 2;
        if (page < params.n_pages && page != newest[half])
          to[half][page] = page < newest[half] ? score[x] * scale : -INFINITY;
      }
    }
  }
#endif
}

}  // namespace

bool takes_score_block(const ScorePagesParams& params, const DeviceLimits& device) {
  // The heads of a unit are combined within a warp's eight neighbouring rows.
  const int heads = params.per_kv_head ? params.heads.n_q_heads / params.heads.n_kv_heads : 1;
  return heads <= 8 && (heads & (heads - 1)) == 0 && has_row_blocks(params.heads, params.n_steps, device);
}

cudaError_t score_block(const ScorePagesParams& params, const DeviceLimits& device, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  const int row_blocks = ceil_div(params.n_steps, kRows / (params.heads.n_q_heads / params.heads.n_kv_heads));
  const int tiles = ceil_div(params.n_pages, kTile);
  const int splits = std::max(1, device.multiprocessors / (row_blocks * params.heads.n_kv_heads));
  const int tiles_per_block = std::min(ceil_div(tiles, splits), kMostTiles);
  const dim3 grid(row_blocks, params.heads.n_kv_heads, ceil_div(tiles, tiles_per_block));
  const cudaError_t error = dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kTakes<T, D>) {
      constexpr int shared_bytes = kSharedBytes<ScoreShared<T, D>>;
      const auto kernel = score_block_kernel<T, D>;
      const cudaError_t set =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      if (set != cudaSuccess) return set;
      kernel<<<grid, kThreads, shared_bytes, stream>>>(params, tiles_per_block);
      return cudaGetLastError();
    }
    return cudaErrorInvalidValue;
  });
  return error == cudaSuccess ? score_newest_pages(params, stream) : error;
}

}  // namespace hindsight::kernels
