#pragma once
// Attention of a tile of query rows over a run of tokens of one KV head on tensor cores: what attention.cuh
// does, for 16-bit types and pages of whole chunks of 16 tokens. A Problem is as described there.
//
// A block holds up to R query rows, in groups of 16 that are the tile of an instruction, and four chunks of
// tokens at a time, read once for all rows. A warp has one group of rows and every fourth chunk, with a
// softmax state of its own; at the end the four are merged, in a fixed order. Which chunks are a warp's does
// not depend on R: with more past queries beside it, a row's result keeps its bits.
//
// Weights are used as the sum of two 16-bit numbers. One would do for a server; here errors of 1e-4 are
// measured, and the tensor cores wait for memory anyway.

#include "kernels/attention.cuh"
#include "kernels/mma.cuh"

namespace hindsight::kernels {

inline constexpr int kChunk = 16;      ///< tokens of an instruction
inline constexpr int kChunkWarps = 4;  ///< chunks in a stage, and warps of a group of rows
inline constexpr int kStageTokens = kChunkWarps * kChunk;
inline constexpr int kStages = 2;       ///< one is read while the other is used: what fits into 99 KB
inline constexpr int kRunChunks = 128;  ///< of which a block looks the pages up at once
inline constexpr float kLn2 = 0.6931471805599453f;

/// A chunk of tokens: position of its first, last load of its page before this step, how many of its tokens
/// exist (the last page may be filled in part), and where its first row of keys, and of values, begins in the
/// pool (elements).
struct Chunk {
  int position, previous, tokens;
  int64_t begin;
};

/// Rows are padded by 16 bytes: the eight rows that ldmatrix reads at a time meet different banks.
template <int D>
inline constexpr int kMmaStride = D + 8;

template <class T, int D, int R>
struct MmaShared {
  struct Stage {
    alignas(16) T k[kChunkWarps * kChunk][kMmaStride<D>];
    alignas(16) T v[kChunkWarps * kChunk][kMmaStride<D>];
  };
  /// What half of a group's warps hand to the other half: outputs and softmax states as their lanes hold
  /// them.
  struct Handed {
    float out[D / 8 * 4][32];
    float max[2][32], sum[2][32];
  };
  union {
    Stage stage[kStages];
    Handed handed[R / 16 * kChunkWarps / 2];
  };
  alignas(16) T q[R][kMmaStride<D>];
  Chunk chunk[kRunChunks];
};

template <int R>
inline constexpr int kMmaThreads = R / 16 * kChunkWarps * 32;

/// What the tensor-core path takes: types and head dimensions, and sizes of pages.
template <class T, int D>
inline constexpr bool kMmaTakes = sizeof(T) == 2 && D <= 128;
inline bool takes_mma(const PagedKv& kv) { return kv.page_size % kChunk == 0; }

/// Calls f(integral_constant<R>) with the tile of tensor cores that holds the rows best.
template <class F>
cudaError_t dispatch_mma_rows(int rows, F&& f) {
  if (rows <= 16) return f(std::integral_constant<int, 16>{});
  if (rows <= 32) return f(std::integral_constant<int, 32>{});
  return f(std::integral_constant<int, 64>{});
}

/// A warp's part of the attention of 16 rows.
template <class T, int D>
struct WarpAttention {
  float out[D / 8][4] = {};  ///< n-tiles of 8 elements, as mma's c
  float max[2] = {-INFINITY, -INFINITY},
        sum[2] = {0, 0};  ///< rows g and g + 8; sums of the lane's own tokens

  /// Attends to a chunk in shared memory. last_visible: per row g and g + 8, position of the last token that
  /// is visible, relative to the chunk's first.
  __device__ void attend(uint32_t q, uint32_t k, uint32_t v, const int (&last_visible)[2], float scale_log2) {
    float logit[2][4] = {};
    multiply_keys(q, k, logit);
    uint32_t high[4], low[4];
    weigh(logit, last_visible, scale_log2, high, low);
    add_values(v, high, low);
  }

  static __device__ void multiply_keys(uint32_t q, uint32_t k, float (&logit)[2][4]) {
    const int lane = threadIdx.x % 32;
    constexpr int stride = kMmaStride<D> * sizeof(T);
    // Rows of the matrices whose addresses a lane gives: of Q, and tokens of K.
    const uint32_t q_at = q + (lane % 16) * stride + lane / 16 * 16;
    const uint32_t k_at = k + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16;
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t a[4], b[4];
      load_matrices(a, q_at + c * 32);
      load_matrices(b, k_at + c * 32);
      mma(logit[0], a, b[0], b[1], T{});
      mma(logit[1], a, b[2], b[3], T{});
    }
  }

  /// Logits become weights against the raised maximum: their rounded part, and what rounding left.
  __device__ void weigh(float (&logit)[2][4], const int (&last_visible)[2], float scale_log2,
                        uint32_t (&high)[4], uint32_t (&low)[4]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float largest = -INFINITY;
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        float& value = logit[x / 2][row * 2 + x % 2];
        value = x / 2 * 8 + 2 * t + x % 2 <= last_visible[row] ? value * scale_log2 : -INFINITY;
        largest = fmaxf(largest, value);
      }
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      raise(row, largest);
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        float& value = logit[x / 2][row * 2 + x % 2];
        value = value == -INFINITY ? 0.0f : exp2f(value - max[row]);
        sum[row] += value;
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const float w0 = logit[x / 2][x % 2 * 2], w1 = logit[x / 2][x % 2 * 2 + 1];
      high[x] = pack(w0, w1, T{});
      const float2 rounded = unpack(high[x], T{});
      low[x] = pack(w0 - rounded.x, w1 - rounded.y, T{});
    }
  }

  __device__ void add_values(uint32_t v, const uint32_t (&high)[4], const uint32_t (&low)[4]) {
    const int lane = threadIdx.x % 32;
    const uint32_t v_at = v + (lane % 16) * kMmaStride<D> * static_cast<int>(sizeof(T)) + lane / 16 * 16;
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t b[4];
      load_matrices_transposed(b, v_at + c * 32);
      mma(out[2 * c], high, b[0], b[1], T{});
      mma(out[2 * c], low, b[0], b[1], T{});
      mma(out[2 * c + 1], high, b[2], b[3], T{});
      mma(out[2 * c + 1], low, b[2], b[3], T{});
    }
  }

  /// A tile's maximum becomes part of the state's; all that was summed is scaled to it.
  __device__ void raise(int row, float largest) {
    const float raised = fmaxf(max[row], largest);
    if (raised == max[row]) return;  // also where both are -inf
    const float factor = exp2f(max[row] - raised);
    max[row] = raised;
    sum[row] *= factor;
#pragma unroll
    for (int c = 0; c < D / 8; ++c) {
      out[c][row * 2] *= factor;
      out[c][row * 2 + 1] *= factor;
    }
  }

  template <class Handed>
  __device__ void hand_over(Handed& to) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
#pragma unroll
      for (int x = 0; x < 4; ++x) to.out[c * 4 + x][lane] = out[c][x];
    for (int row = 0; row < 2; ++row) {
      to.max[row][lane] = max[row];
      to.sum[row][lane] = sum[row];
    }
  }

  template <class Handed>
  __device__ void take_over(const Handed& from) {
    const int lane = threadIdx.x % 32;
    float factor[2];
    for (int row = 0; row < 2; ++row) {
      const float theirs = from.max[row][lane];
      raise(row, theirs);
      factor[row] = theirs == -INFINITY ? 0.0f : exp2f(theirs - max[row]);
      sum[row] += factor[row] * from.sum[row][lane];
    }
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
#pragma unroll
      for (int x = 0; x < 4; ++x) out[c][x] += factor[x / 2] * from.out[c * 4 + x][lane];
  }
};

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
                              WarpAttention<T, D>& mine) {
  static_assert(Threads >= kMmaThreads<R>);
  constexpr int pieces = D / 8;
  constexpr float log2_e = 1.4426950408889634f;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = warp / kChunkWarps, chunk_warp = warp % kChunkWarps;
  const bool has_rows = group < R / 16;

  int last_visible[2], unseen_before[2];
  for (int half = 0; half < 2; ++half) {
    const int r = group * 16 + half * 8 + lane / 4;
    last_visible[half] = -1;
    unseen_before[half] = 0;
    if (r < problem.rows()) {
      const QueryRow row = problem.row(r);
      last_visible[half] = row.last_visible;
      unseen_before[half] = row.unseen_before;
    }
  }

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
          copy_async(shared_address(&to.k[n][c]), static_cast<const T*>(kv.k) + from, read);
          copy_async(shared_address(&to.v[n][c]), static_cast<const T*>(kv.v) + from, read);
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
      int visible[2];
      for (int half = 0; half < 2; ++half)
        visible[half] = chunk.tokens > 0 && chunk.previous < unseen_before[half]
                            ? last_visible[half] - chunk.position
                            : -1;
      // Past queries have seen most pages: a warp of theirs often has nothing to do.
      if (has_rows && __any_sync(~0u, visible[0] >= 0 || visible[1] >= 0)) {
        const auto& from = shared.stage[(stage - run) % kStages];
        mine.attend(shared_address(&shared.q[group * 16][0]), shared_address(&from.k[chunk_warp * kChunk][0]),
                    shared_address(&from.v[chunk_warp * kChunk][0]), visible, scale * log2_e);
      }
      __syncthreads();  // all warps are done with the stage that is read into next
    }
  }

  // Sums of a row are spread over four lanes.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mine.sum[half] += __shfl_xor_sync(~0u, mine.sum[half], 1);
    mine.sum[half] += __shfl_xor_sync(~0u, mine.sum[half], 2);
  }
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
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<MmaShared<T, D, R>*>(shared_bytes);
  __syncthreads();  // the block may be done with an earlier problem only in part
  load_query_tile<T, D, R>(problem, heads, q, shared.q);
  __syncthreads();

  // Splits are whole stages.
  const int stages = ceil_div(problem.tokens(), kStageTokens), split_stages = ceil_div(stages, splits);
  const int first_stage = split * split_stages, stage_end = min(stages, first_stage + split_stages);
  WarpAttention<T, D> mine;
  if (!attend_stages<kMmaThreads<R>>(problem, heads, kv, scale, first_stage, stage_end, shared, mine)) return;
  const int group = threadIdx.x / 32 / kChunkWarps, lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = group * 16 + half * 8 + lane / 4;
    if (r >= problem.rows()) continue;
    const int64_t item = split * target.items + problem.row(r).item;
    const float normaliser = mine.sum[half] > 0 ? 1.0f / mine.sum[half] : 0.0f;
#pragma unroll
    for (int c = 0; c < D / 8; ++c) {
      const float2 two =
          make_float2(mine.out[c][half * 2] * normaliser, mine.out[c][half * 2 + 1] * normaliser);
      *reinterpret_cast<float2*>(&target.out[item * D + c * 8 + lane % 4 * 2]) = two;
    }
    if (lane % 4 == 0)
      target.lse[item] = mine.sum[half] > 0 ? mine.max[half] * kLn2 + logf(mine.sum[half]) : -INFINITY;
  }
}

}  // namespace hindsight::kernels
