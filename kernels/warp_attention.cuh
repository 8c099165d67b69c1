#pragma once
// A warp's attention of few rows on tensor cores. Tokens, and elements of a head, are the long side of the
// instructions and rows the short one: up to eight rows cost half of what sixteen do.
//
// Weights are used as the sum of two 16-bit numbers. One would do for a server; here errors of 1e-4 are
// measured, and the tensor cores wait for memory anyway.

#include "kernels/attention.cuh"
#include "kernels/mma.cuh"

namespace hindsight::kernels {

inline constexpr int kChunk = 16;  ///< tokens of an instruction
inline constexpr float kLn2 = 0.6931471805599453f;

/// Rows are padded by 16 bytes: the eight rows that ldmatrix reads at a time meet different banks.
template <int D>
inline constexpr int kMmaStride = D + 8;

/// What the tensor-core path takes: types and head dimensions, and sizes of pages.
template <class T, int D>
inline constexpr bool kMmaTakes = sizeof(T) == 2 && D <= 128;
inline bool takes_mma(const PagedKv& kv) { return kv.page_size % kChunk == 0; }

/// Groups of sixteen rows of a tile of R, and tiles of eight rows in a group.
template <int R>
inline constexpr int kRowGroups = (R + 15) / 16;
template <int R>
inline constexpr int kGroupTiles = R < 16 ? 1 : 2;

/// Calls f(integral_constant<R>) with the tile that holds the rows best.
template <class F>
cudaError_t dispatch_mma_rows(int rows, F&& f) {
  if (rows <= 8) return f(std::integral_constant<int, 8>{});
  if (rows <= 16) return f(std::integral_constant<int, 16>{});
  if (rows <= 32) return f(std::integral_constant<int, 32>{});
  return f(std::integral_constant<int, 64>{});
}

/// Keys or values of a chunk. Pieces of 16 bytes change places within a row, so that the same piece of eight
/// rows, as ldmatrix reads it, meets all banks. Padding would do that too, but rows would then lie across
/// lines of 128 bytes, and asynchronous copies take 6 % longer to write them.
template <class T, int D>
struct ChunkTile {
  static constexpr int pieces = D * static_cast<int>(sizeof(T)) / 16;
  static constexpr int changing = pieces % 8 == 0 ? 8 : pieces % 4 == 0 ? 4 : 2;
  static_assert(pieces % changing == 0);
  alignas(128) T at[kChunk][D];

  /// What a piece's number is to be combined with by exclusive or.
  static __device__ int change(int row) { return row / (8 / changing) % changing; }
  __device__ uint32_t row_address(int row) const { return shared_address(at[row]); }
  __device__ uint32_t address(int row, int piece) const {
    return row_address(row) + (piece ^ change(row)) * 16;
  }
};

/// What a lane's rows 8n + 2t and 8n + 2t + 1 (t = lane % 4) may see: tokens up to last_visible, of pages
/// that were last loaded before unseen_before.
template <int N>
struct VisibleRows {
  int last_visible[N][2], unseen_before[N][2];
};

/// The same of rows first .. first + 8N - 1 of a problem.
template <int N, class Problem>
__device__ VisibleRows<N> visible_rows(const Problem& problem, int first = 0) {
  VisibleRows<N> rows;
#pragma unroll
  for (int x = 0; x < 2 * N; ++x) {
    const int r = first + x / 2 * 8 + threadIdx.x % 4 * 2 + x % 2;
    rows.last_visible[x / 2][x % 2] = -1;
    rows.unseen_before[x / 2][x % 2] = 0;
    if (r < problem.rows()) {
      const QueryRow row = problem.row(r);
      rows.last_visible[x / 2][x % 2] = row.last_visible;
      rows.unseen_before[x / 2][x % 2] = row.unseen_before;
    }
  }
  return rows;
}

/// A warp's part of the attention of N tiles of eight rows. With g = lane / 4 and t = lane % 4 a lane has
/// tokens g and g + 8 of a chunk and rows 2t and 2t + 1 of a tile. A row's bits do not depend on N.
template <class T, int D, int N>
struct WarpAttention {
  float out[N][D / 16][4] = {};     ///< elements g (0, 1) and g + 8 (2, 3) of every sixteen; rows 2t, 2t + 1
  float max[N][2], sum[N][2] = {};  ///< base 2; sums of the lane's own tokens

  __device__ WarpAttention() {
#pragma unroll
    for (int n = 0; n < N; ++n) max[n][0] = max[n][1] = -INFINITY;
  }

  /// The rows' queries, in shared memory: few of them are kept in registers. There are `held`; the last one
  /// stands for those after it, which see nothing.
  __device__ void take_queries(const T (*q)[kMmaStride<D>], int held) {
    const int lane = threadIdx.x % 32;
    if constexpr (N == 1) {
#pragma unroll
      for (int c = 0; c < D / 16; ++c)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          kept_[c][half] = *reinterpret_cast<const uint32_t*>(
              &q[min(lane / 4, held - 1)][c * 16 + half * 8 + lane % 4 * 2]);
    } else {
      static_assert(N == 2);
      queries_ = shared_address(&q[min(lane % 8 + lane / 16 * 8, held - 1)][lane / 8 % 2 * 8]);
    }
  }

  /// Logits of a chunk of keys: [n][row 2t, 2t + 1 of token g, then of g + 8].
  __device__ void multiply_keys(const ChunkTile<T, D>& k, float (&logit)[N][4]) const {
    const int lane = threadIdx.x % 32, token = lane % 16;
    const uint32_t k_at = k.row_address(token);
    const int piece = lane / 16 ^ k.change(token);
    // Two sums, so that an instruction need not wait for the one before.
    float sums[2][N][4] = {};
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t keys[4], queries[4];
      load_matrices(keys, k_at + (2 * c ^ piece) * 16);
      if constexpr (N == 1) {
        queries[0] = kept_[c][0];
        queries[1] = kept_[c][1];
      } else {
        load_matrices(queries, queries_ + c * 32);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) mma(sums[c % 2][n], keys, queries[2 * n], queries[2 * n + 1], T{});
    }
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int x = 0; x < 4; ++x) logit[n][x] = sums[0][n][x] + sums[1][n][x];
  }

  /// Weights of a chunk as the second operand of a product: their rounded part, and what rounding left.
  struct Weights {
    uint32_t high[N][2], low[N][2];
  };

  /// last_visible: of the lane's rows, relative to the chunk's first token.
  __device__ Weights weigh(float (&logit)[N][4], const int (&last_visible)[N][2], float scale_log2) {
    const int g = threadIdx.x % 32 / 4;
    float largest[N][2];
    bool grows = false;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& value = logit[n][half * 2 + row];
          value = half * 8 + g <= last_visible[n][row] ? value * scale_log2 : -INFINITY;
        }
        largest[n][row] = fmaxf(logit[n][row], logit[n][2 + row]);
        grows |= largest[n][row] > max[n][row];
      }
    if (__any_sync(~0u, grows)) raise(largest);
    Weights weights;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float w[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const float value = logit[n][half * 2 + row];
          w[row] = value == -INFINITY ? 0.0f : exp2f(value - max[n][row]);
          sum[n][row] += w[row];
        }
        const uint32_t high = pack(w[0], w[1], T{});
        const float2 rounded = unpack(high, T{});
        weights.high[n][half] = transpose(high);
        weights.low[n][half] = transpose(pack(w[0] - rounded.x, w[1] - rounded.y, T{}));
      }
    return weights;
  }

  __device__ void add_values(const ChunkTile<T, D>& v, const Weights& weights) {
    const int lane = threadIdx.x % 32, token = lane % 8 + lane / 16 * 8;
    const uint32_t v_at = v.row_address(token);
    const int piece = lane / 8 % 2 ^ v.change(token);
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t values[4];
      load_matrices_transposed(values, v_at + (2 * c ^ piece) * 16);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        mma(out[n][c], values, weights.high[n][0], weights.high[n][1], T{});
        mma(out[n][c], values, weights.low[n][0], weights.low[n][1], T{});
      }
    }
  }

  /// Sums of the lane's own tokens become those of all lanes' tokens.
  __device__ void gather_sums() {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int row = 0; row < 2; ++row)
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          sum[n][row] += __shfl_xor_sync(~0u, sum[n][row], offset);
  }

  /// Calls f(row, element, result) for what the lane holds.
  template <class F>
  __device__ void for_each_result(int n, int row, F&& f) const {
    const int g = threadIdx.x % 32 / 4, r = n * 8 + threadIdx.x % 4 * 2 + row;
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      f(r, c * 16 + g, out[n][c][row]);
      f(r, c * 16 + 8 + g, out[n][c][2 + row]);
    }
  }

  /// What a warp hands to another one, as its lanes hold it.
  struct Handed {
    float out[N][D / 16][4][32];
    float max[N][2][32], sum[N][2][32];
  };
  __device__ void hand_over(Handed& to) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int x = 0; x < D / 4; ++x) to.out[n][x / 4][x % 4][lane] = out[n][x / 4][x % 4];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        to.max[n][row][lane] = max[n][row];
        to.sum[n][row][lane] = sum[n][row];
      }
    }
  }
  __device__ void take_over(const Handed& from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float factor[2];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float theirs = from.max[n][row][lane];
        raise(n, row, theirs);
        factor[row] = theirs == -INFINITY ? 0.0f : exp2f(theirs - max[n][row]);
        sum[n][row] += factor[row] * from.sum[n][row][lane];
      }
#pragma unroll
      for (int x = 0; x < D / 4; ++x) out[n][x / 4][x % 4] += factor[x % 2] * from.out[n][x / 4][x % 4][lane];
    }
  }

 private:
  /// The chunk's largest logits become part of the maxima.
  __device__ void raise(float (&largest)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          largest[n][row] = fmaxf(largest[n][row], __shfl_xor_sync(~0u, largest[n][row], offset));
        raise(n, row, largest[n][row]);
      }
  }
  /// A maximum is raised; all that was summed is scaled to it.
  __device__ void raise(int n, int row, float largest) {
    const float raised = fmaxf(max[n][row], largest);
    // Where both are -inf there is nothing to scale.
    const float factor = raised == max[n][row] ? 1.0f : exp2f(max[n][row] - raised);
    max[n][row] = raised;
    sum[n][row] *= factor;
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      out[n][c][row] *= factor;
      out[n][c][2 + row] *= factor;
    }
  }

  uint32_t kept_[N == 1 ? D / 16 : 1][2];  ///< queries
  uint32_t queries_ = 0;                   ///< where they lie instead
};

}  // namespace hindsight::kernels
