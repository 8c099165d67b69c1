#pragma once
// Attention of a tile of query rows over a run of tokens of one KV head on tensor cores: what attention.cuh
// does, for 16-bit types and pages of whole chunks of 16 tokens. A Problem is as described there.
//
// A block holds up to R query rows, in groups of 16, and four chunks of tokens at a time, read once for all
// rows. A warp has one group of rows and every fourth chunk, with a softmax state of its own; at the end the
// four are merged, in a fixed order. Which chunks are a warp's does not depend on R: with more past queries
// beside it, a row's result keeps its bits.

#include "kernels/warp_attention.cuh"

namespace hindsight::kernels {

inline constexpr int kChunkWarps = 4;  ///< chunks in a stage, and warps of a group of rows
inline constexpr int kStageTokens = kChunkWarps * kChunk;
inline constexpr int kStages = 2;       ///< one is read while the other is used: what fits into 99 KB
inline constexpr int kRunChunks = 128;  ///< of which a block looks the pages up at once

/// A chunk of tokens: position of its first, last load of its page before this step, how many of its tokens
/// exist (the last page may be filled in part), and where its first row of keys, and of values, begins in the
/// pool (elements).
struct Chunk {
  int position, previous, tokens;
  int64_t begin;
};

template <class T, int D, int R>
struct MmaShared {
  struct Stage {
    ChunkTile<T, D> k[kChunkWarps], v[kChunkWarps];
  };
  using Handed = typename WarpAttention<T, D, kGroupTiles<R>>::Handed;
  union {
    Stage stage[kStages];
    Handed handed[kRowGroups<R> * kChunkWarps / 2];  ///< half of a group's warps to the other half
  };
  alignas(16) T q[R][kMmaStride<D>];
  Chunk chunk[kRunChunks];
};

template <int R>
inline constexpr int kMmaThreads = kRowGroups<R>* kChunkWarps * 32;

/// Queries of a problem's rows into shared memory, zeros where nothing is visible to a row. The caller
/// synchronises.
template <class T, int D, int R, class Problem>
__device__ void load_query_tile(const Problem& problem, const Heads& heads, const Queries& q,
                                T (&tile)[R][kMmaStride<D>]) {
  constexpr int pieces = D / 8;
  for (int x = threadIdx.x; x < R * pieces; x += blockDim.x) {
    const int r = x / pieces, c = x % pieces * 8;
    uint4 piece{};
    if (r < problem.rows()) {
      const QueryRow row = problem.row(r);
      if (row.last_visible >= 0)
        piece =
            *reinterpret_cast<const uint4*>(query<T>(q, heads, row.sequence, row.position, row.q_head) + c);
    }
    *reinterpret_cast<uint4*>(&tile[r][c]) = piece;
  }
}

/// Attends to stages [first_stage, stage_end) of the problem's run, whose queries are in shared.q. All
/// threads of the block take part; warps beyond those of the R rows only read. On return the first warp of
/// each group of 16 rows holds its result (sums are those of whole rows); returns whether the calling warp is
/// one.
template <int Threads, class T, int D, int R, class Problem>
__device__ bool attend_stages(const Problem& problem, const Heads& heads, const PagedKv& kv, float scale,
                              int first_stage, int stage_end, MmaShared<T, D, R>& shared,
                              WarpAttention<T, D, kGroupTiles<R>>& mine) {
  static_assert(Threads >= kMmaThreads<R>);
  constexpr int pieces = D / 8;
  constexpr float log2_e = 1.4426950408889634f;
  const int warp = threadIdx.x / 32;
  const int group = warp / kChunkWarps, chunk_warp = warp % kChunkWarps;
  const bool has_rows = group < kRowGroups<R>;
  constexpr int N = kGroupTiles<R>;

  const VisibleRows<N> rows = visible_rows<N>(problem, group * 16);
  if (has_rows) mine.take_queries(&shared.q[group * 16], 16);

  constexpr int run_stages = kRunChunks / kChunkWarps;
  for (int run = first_stage; run < stage_end; run += run_stages) {
    const int run_end = min(stage_end, run + run_stages);
    __syncthreads();  // the pages of the run before are no longer needed
    for (int x = threadIdx.x; x < (run_end - run) * kChunkWarps; x += Threads) {
      const int first_token = (run * kChunkWarps + x) * kChunk;
      Chunk chunk{0, 0, 0, 0};
      if (first_token < problem.tokens()) {
        const Token token = problem.token(first_token);
        const int offset = token.position - token.page * kv.page_size;
        chunk = {token.position, token.previous, min(kChunk, problem.last_position() + 1 - token.position),
                 token_row(kv, heads.n_kv_heads, pool_page(kv, problem.sequence(), token.page),
                           problem.kv_head(), offset) *
                     D};
      }
      shared.chunk[x] = chunk;
    }
    __syncthreads();

    const auto read_stage = [&](int stage) {
      if (stage < run_end) {
        auto& to = shared.stage[(stage - run) % kStages];
#pragma unroll
        for (int i = 0; i < ceil_div(kStageTokens * pieces, Threads); ++i) {
          const int x = threadIdx.x + i * Threads, n = x / pieces, c = x % pieces * 8;
          if (kStageTokens * pieces % Threads != 0 && x >= kStageTokens * pieces) break;
          const Chunk& chunk = shared.chunk[(stage - run) * kChunkWarps + n / kChunk];
          // Weights of tokens that do not exist are 0, but 0 times whatever lies there could be NaN.
          const bool read = n % kChunk < chunk.tokens;
          const int64_t from = chunk.begin + (read ? n % kChunk * D + c : 0);
          const int row = n % kChunk, piece = x % pieces;
          copy_async(to.k[n / kChunk].address(row, piece), static_cast<const T*>(kv.k) + from, read);
          copy_async(to.v[n / kChunk].address(row, piece), static_cast<const T*>(kv.v) + from, read);
        }
      }
      commit_copies();  // also an empty group: the number of groups tells which stage has arrived
    };
    for (int stage = run; stage < run + kStages - 1; ++stage) read_stage(stage);
    for (int stage = run; stage < run_end; ++stage) {
      read_stage(stage + kStages - 1);
      wait_for_copies<kStages - 1>();
      __syncthreads();
      const Chunk chunk = shared.chunk[(stage - run) * kChunkWarps + chunk_warp];
      int visible[N][2];
      bool sees = false;
#pragma unroll
      for (int x = 0; x < 2 * N; ++x) {
        int& last = visible[x / 2][x % 2];
        last = chunk.tokens > 0 && chunk.previous < rows.unseen_before[x / 2][x % 2]
                   ? rows.last_visible[x / 2][x % 2] - chunk.position
                   : -1;
        sees |= last >= 0;
      }
      // Past queries have seen most pages: a warp of theirs often has nothing to do.
      if (has_rows && __any_sync(~0u, sees)) {
        const auto& from = shared.stage[(stage - run) % kStages];
        float logit[N][4];
        mine.multiply_keys(from.k[chunk_warp], logit);
        mine.add_values(from.v[chunk_warp], mine.weigh(logit, visible, scale * log2_e));
      }
      __syncthreads();  // all warps are done with the stage that is read into next
    }
  }

  mine.gather_sums();
  wait_for_copies<0>();
  static_assert(kChunkWarps == 4);
  for (int half = 2; half > 0; half /= 2) {
    __syncthreads();  // what was handed over is where stages and earlier results were
    if (has_rows && chunk_warp >= half && chunk_warp < 2 * half)
      mine.hand_over(shared.handed[group * kChunkWarps / 2 + chunk_warp - half]);
    __syncthreads();
    if (has_rows && chunk_warp < half) mine.take_over(shared.handed[group * kChunkWarps / 2 + chunk_warp]);
  }
  return has_rows && chunk_warp == 0;
}

/// Attends to split `split` of `splits` of the problem's run and writes the results of all its rows.
template <class T, int D, int R, class Problem>
__device__ void attend_tile_mma(const Problem& problem, const Heads& heads, const PagedKv& kv,
                                const Queries& q, float scale, int split, int splits, SplitTarget target) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<MmaShared<T, D, R>*>(shared_bytes);
  __syncthreads();  // the block may be done with an earlier problem only in part
  load_query_tile<T, D, R>(problem, heads, q, shared.q);
  __syncthreads();

  // Splits are whole stages.
  const int stages = ceil_div(problem.tokens(), kStageTokens), split_stages = ceil_div(stages, splits);
  const int first_stage = split * split_stages, stage_end = min(stages, first_stage + split_stages);
  WarpAttention<T, D, kGroupTiles<R>> mine;
  if (!attend_stages<kMmaThreads<R>>(problem, heads, kv, scale, first_stage, stage_end, shared, mine)) return;
  const int group = threadIdx.x / 32 / kChunkWarps, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kGroupTiles<R>; ++n)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int r = group * 16 + n * 8 + lane % 4 * 2 + row;
      if (r >= problem.rows()) continue;
      const int64_t item = split * target.items + problem.row(r).item;
      const float max = mine.max[n][row], sum = mine.sum[n][row];
      const float normaliser = sum > 0 ? 1.0f / sum : 0.0f;
      mine.for_each_result(n, row,
                           [&](int, int c, float result) { target.out[item * D + c] = result * normaliser; });
      if (lane < 4) target.lse[item] = sum > 0 ? max * kLn2 + logf(sum) : -INFINITY;
    }
}

}  // namespace hindsight::kernels
