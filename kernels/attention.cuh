#pragma once
// Attention of a tile of query rows over a run of tokens of one KV head: the core that dense attention and
// attention over page lists share. What differs between them, which rows and which tokens, is a Problem
// (below).
//
// A block holds up to M query rows. Keys and values come through shared memory, kTokens at a time, read once
// for all rows. A warp owns M/8 rows from logits to outputs, so that only the loads need block barriers: in
// the logits a lane is a token, in the outputs a half-warp has half of the rows and a lane every 16th
// element.

#include "kernels/dispatch.cuh"
#include "kernels/paged_kv.cuh"
#include "kernels/softmax_state.cuh"

namespace hindsight::kernels {

/// A query row of a tile. Token x of the run is visible if its position is <= last_visible and the last load
/// of its page before this step was before `unseen_before`.
struct QueryRow {
  int sequence, position, q_head;
  int last_visible;   ///< -1: nothing is visible
  int unseen_before;  ///< INT_MAX: whatever was loaded before
  int64_t item;       ///< index of the result in out [items, d] and lse [items]; < 0: none
};

/// A token of a run.
struct Token {
  int position, previous;  ///< previous: last load of its page before this step, or -1
  int page;
};

// A Problem, made by the block from its coordinates, answers:
//   int rows() const                 query rows of the tile, <= M
//   QueryRow row(int r) const
//   int tokens() const               length of the run
//   Token token(int x) const         x in [0, tokens)
//   int last_position() const        tokens after it may not exist yet: never read
//   int sequence() const; int kv_head() const

inline constexpr int kAttentionThreads = 256;
inline constexpr int kAttentionWarps = kAttentionThreads / 32;
inline constexpr int kTokens = 32;  ///< per tile: a lane each
/// Query rows of a tile: the small one for a single step, the large one where many rows share keys.
inline constexpr int kSmallTile = 16, kLargeTile = 64;

/// Partial results of splits, [splits, items(, d)].
struct SplitTarget {
  float* out;
  float* lse;
  int64_t items;
};

/// Rows of keys are padded by one 16-byte access, so that the lanes of a quarter-warp, a row each, meet
/// different banks.
template <int D>
inline constexpr int kKeyStride = D + 4;

template <int D, int M>
struct AttentionShared {
  alignas(16) float q[M][D];
  alignas(16) float k[kTokens][kKeyStride<D>];
  alignas(16) float v[kTokens][D];
  alignas(16) float p[M][kTokens];
  Token token[kTokens];
  int64_t token_row[kTokens];  ///< in the pool; -1: not to be read
};

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

/// Attends to split `split` of `splits` of the problem's run and writes the results of all its rows.
template <class T, int D, int M, class Problem>
__device__ void attend_tile(const Problem& problem, const Heads& heads, const PagedKv& kv, const Queries& q,
                            float scale, int split, int splits, SplitTarget target) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<AttentionShared<D, M>*>(shared_bytes);
  constexpr int kWarpRows = M / kAttentionWarps, kHalfRows = kWarpRows / 2;
  constexpr int kLaneDims = D / 16, kRowVecs = D / kVec<T>;
  static_assert(M % (2 * kAttentionWarps) == 0 && D % 16 == 0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = lane / 16, half_lane = lane % 16;
  const int rows = problem.rows(), warp_row = warp * kWarpRows;
  const bool warp_has_rows = warp_row < rows;

  __syncthreads();  // the block may be done with an earlier problem only in part
  for (int x = threadIdx.x; x < M * D; x += kAttentionThreads) {
    const int r = x / D, c = x % D;
    float value = 0;
    if (r < rows) {
      const QueryRow row = problem.row(r);
      if (row.last_visible >= 0)
        value = to_float(query<T>(q, heads, row.sequence, row.position, row.q_head)[c]);
    }
    shared.q[r][c] = value;
  }

  int last_visible[kWarpRows], unseen_before[kWarpRows];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    last_visible[r] = -1;
    unseen_before[r] = 0;
    if (warp_row + r < rows) {
      const QueryRow row = problem.row(warp_row + r);
      last_visible[r] = row.last_visible;
      unseen_before[r] = row.unseen_before;
    }
  }
  SoftmaxState state[kWarpRows];
  float out[kHalfRows][kLaneDims] = {};

  // Splits are whole tiles, so that their number changes the order of sums and nothing else.
  const int tiles = ceil_div(problem.tokens(), kTokens), split_tiles = ceil_div(tiles, splits);
  const int tile_end = min(tiles, (split + 1) * split_tiles);
  for (int tile = split * split_tiles; tile < tile_end; ++tile) {
    __syncthreads();  // all warps are done with the previous tile
    if (threadIdx.x < kTokens) {
      const int x = tile * kTokens + threadIdx.x;
      Token token{INT_MAX, -1, 0};
      int64_t row = -1;
      if (x < problem.tokens()) {
        token = problem.token(x);
        if (token.position <= problem.last_position())
          row = token_row(kv, heads.n_kv_heads, pool_page(kv, problem.sequence(), token.page),
                          problem.kv_head(), token.position - token.page * kv.page_size);
      }
      shared.token[threadIdx.x] = token;
      shared.token_row[threadIdx.x] = row;
    }
    __syncthreads();
    for (int x = threadIdx.x; x < kTokens * kRowVecs; x += kAttentionThreads) {
      const int n = x / kRowVecs, c = x % kRowVecs * kVec<T>;
      const int64_t row = shared.token_row[n];
      // Weights of tokens that are not read are 0, but 0 times whatever lies there could be NaN.
      float key[kVec<T>] = {}, value[kVec<T>] = {};
      if (row >= 0) {
        load_vec<T>(static_cast<const T*>(kv.k) + row * D + c, key);
        load_vec<T>(static_cast<const T*>(kv.v) + row * D + c, value);
      }
#pragma unroll
      for (int e = 0; e < kVec<T>; e += 4) {
        *reinterpret_cast<float4*>(&shared.k[n][c + e]) =
            make_float4(key[e], key[e + 1], key[e + 2], key[e + 3]);
        *reinterpret_cast<float4*>(&shared.v[n][c + e]) =
            make_float4(value[e], value[e + 1], value[e + 2], value[e + 3]);
      }
    }
    __syncthreads();

    const Token token = shared.token[lane];
    bool visible[kWarpRows], any_visible = false;
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      visible[r] = token.position <= last_visible[r] && token.previous < unseen_before[r];
      any_visible |= visible[r];
    }
    // Past queries have seen most pages: a warp of theirs often has nothing to do.
    if (!warp_has_rows || !__any_sync(~0u, any_visible)) continue;

    float logit[kWarpRows] = {};
    for (int c = 0; c < D; c += 4) {
      const float4 key = *reinterpret_cast<const float4*>(&shared.k[lane][c]);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const float4 query = *reinterpret_cast<const float4*>(&shared.q[warp_row + r][c]);
        logit[r] += query.x * key.x + query.y * key.y + query.z * key.z + query.w * key.w;
      }
    }
    float rescale[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float masked = visible[r] ? scale * logit[r] : minus_infinity();
      rescale[r] = state[r].raise(warp_max(masked));
      const float weight = state[r].weight(masked);
      state[r].sum += warp_sum(weight);
      shared.p[warp_row + r][lane] = weight;
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kHalfRows; ++r) {
      const float factor = half == 0 ? rescale[r] : rescale[kHalfRows + r];
#pragma unroll
      for (int c = 0; c < kLaneDims; ++c) out[r][c] *= factor;
    }
    const int half_row = warp_row + half * kHalfRows;
    for (int n = 0; n < kTokens; n += 4) {
      float4 weight[kHalfRows];
#pragma unroll
      for (int r = 0; r < kHalfRows; ++r)
        weight[r] = *reinterpret_cast<const float4*>(&shared.p[half_row + r][n]);
#pragma unroll
      for (int c = 0; c < kLaneDims; ++c) {
        const float* value = &shared.v[n][c * 16 + half_lane];
#pragma unroll
        for (int r = 0; r < kHalfRows; ++r)
          out[r][c] += weight[r].x * value[0] + weight[r].y * value[D] + weight[r].z * value[2 * D] +
                       weight[r].w * value[3 * D];
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kHalfRows; ++r) {
    const int row = warp_row + half * kHalfRows + r;
    if (row >= rows) continue;
    const int64_t item = split * target.items + problem.row(row).item;
    const float normaliser = half == 0 ? state[r].normaliser() : state[kHalfRows + r].normaliser();
#pragma unroll
    for (int c = 0; c < kLaneDims; ++c) target.out[item * D + c * 16 + half_lane] = out[r][c] * normaliser;
    if (half_lane == 0) target.lse[item] = half == 0 ? state[r].lse() : state[kHalfRows + r].lse();
  }
}

/// Partial results of splits that become one.
struct CombineParams {
  const float* partial_out;  ///< [splits, items, d]
  const float* partial_lse;  ///< [splits, items]
  float* out;                ///< [items, d]
  float* lse;                ///< [items]
  int64_t items;
  int32_t splits, head_dim;
};
inline constexpr int kMostSplits = 64;  ///< two for a lane

/// Merges the splits of an item in ascending order; all lanes of a warp call. Reads past the L1 cache: other
/// blocks of the same grid may have written.
__device__ inline void combine_item(const CombineParams& params, int64_t item) {
  const int lane = threadIdx.x % 32, d = params.head_dim;
  // Weights of the splits against their common maximum: lane s has those of splits s and s + 32.
  float weight[2];
#pragma unroll
  for (int x = 0; x < 2; ++x) {
    const int split = x * 32 + lane;
    weight[x] = split < params.splits ? __ldcg(params.partial_lse + split * params.items + item) : -INFINITY;
  }
  SoftmaxState state;
  state.raise(warp_max(fmaxf(weight[0], weight[1])));
#pragma unroll
  for (int x = 0; x < 2; ++x) weight[x] = state.weight(weight[x]);
  state.sum = warp_sum(weight[0] + weight[1]);
  const float normaliser = state.normaliser();
  // Head dimensions are multiples of four.
  for (int begin = 0; begin < d; begin += 128) {
    const int c = begin + 4 * lane;
    const float* from = params.partial_out + item * d + c;
    float4 sum{};
#pragma unroll 16
    for (int split = 0; split < params.splits; ++split) {
      const float factor = __shfl_sync(~0u, split < 32 ? weight[0] : weight[1], split % 32);
      float4 out{};
      if (c < d) out = __ldcg(reinterpret_cast<const float4*>(from + split * params.items * d));
      sum.x += factor * out.x;
      sum.y += factor * out.y;
      sum.z += factor * out.z;
      sum.w += factor * out.w;
    }
    if (c < d)
      *reinterpret_cast<float4*>(params.out + item * d + c) =
          make_float4(sum.x * normaliser, sum.y * normaliser, sum.z * normaliser, sum.w * normaliser);
  }
  if (lane == 0) params.lse[item] = state.lse();
}
cudaError_t combine_splits(const CombineParams& params, cudaStream_t stream);

/// How many splits give every multiprocessor a few blocks, of a run of `tokens` tokens at most.
SplitPlan plan_splits(int64_t blocks, int64_t tokens, int64_t items, int head_dim, int multiprocessors);
inline SplitPlan split_plan(int64_t splits, int64_t items, int head_dim) {
  const int64_t bytes =
      splits == 1 ? 0 : splits * items * (head_dim + 1) * static_cast<int64_t>(sizeof(float));
  return {static_cast<int32_t>(splits), bytes};
}
/// Whether a launch of few rows can be one of warp_stream.cuh.
bool streams(const Heads& heads, const PagedKv& kv);

/// Where a launch with `splits` splits writes: straight to the results if there is one, else to the
/// workspace.
inline SplitTarget split_target(float* out, float* lse, void* workspace, int splits, int64_t items,
                                int head_dim) {
  if (splits == 1) return {out, lse, items};
  float* partial_out = static_cast<float*>(workspace);
  return {partial_out, partial_out + splits * items * head_dim, items};
}

/// Launches a kernel of attention, allowing it the shared memory it needs, and combines its splits.
template <class Kernel, class Params>
cudaError_t launch_with_splits(Kernel kernel, dim3 grid, int threads, int shared_bytes, const Params& params,
                               int64_t items, int head_dim, cudaStream_t stream) {
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  const SplitTarget target =
      split_target(params.out, params.lse, params.workspace, params.splits, items, head_dim);
  kernel<<<grid, threads, shared_bytes, stream>>>(params, target);
  error = cudaGetLastError();
  if (error != cudaSuccess || params.splits == 1) return error;
  return combine_splits({target.out, target.lse, params.out, params.lse, items, params.splits, head_dim},
                        stream);
}

/// The same of a kernel that calls attend_tile<T, D, M>.
template <int D, int M, class Kernel, class Params>
cudaError_t launch_attention(Kernel kernel, dim3 grid, const Params& params, int64_t items,
                             cudaStream_t stream) {
  return launch_with_splits(kernel, grid, kAttentionThreads, static_cast<int>(sizeof(AttentionShared<D, M>)),
                            params, items, D, stream);
}

}  // namespace hindsight::kernels
