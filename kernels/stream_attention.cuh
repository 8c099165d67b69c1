#pragma once
// A warp's attention of few rows, where keys stream: tokens and elements of a head are the long side of the
// tensor cores' instructions, rows the short one, so that up to eight rows cost half of what sixteen do.

#include "kernels/mma_attention.cuh"

namespace hindsight::kernels {

/// What a lane's rows 8n + 2t and 8n + 2t + 1 (t = lane % 4) may see: tokens up to last_visible, of pages
/// that were last loaded before unseen_before.
template <int N>
struct VisibleRows {
  int last_visible[N][2], unseen_before[N][2];
};

/// A warp's part of the attention of N tiles of eight rows. With g = lane / 4 and t = lane % 4 a lane has
/// tokens g and g + 8 of a chunk and rows 2t and 2t + 1 of a tile. A row's bits do not depend on N.
template <class T, int D, int N>
struct StreamAttention {
  float out[N][D / 16][4] = {};     ///< elements g (0, 1) and g + 8 (2, 3) of every sixteen; rows 2t, 2t + 1
  float max[N][2], sum[N][2] = {};  ///< base 2; sums of the lane's own tokens

  __device__ StreamAttention() {
#pragma unroll
    for (int n = 0; n < N; ++n) max[n][0] = max[n][1] = -INFINITY;
  }

  /// The rows' queries, in shared memory: few of them are kept in registers.
  __device__ void take_queries(const T (*q)[kMmaStride<D>]) {
    const int lane = threadIdx.x % 32;
    if constexpr (N == 1) {
#pragma unroll
      for (int c = 0; c < D / 16; ++c)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          kept_[c][half] = *reinterpret_cast<const uint32_t*>(&q[lane / 4][c * 16 + half * 8 + lane % 4 * 2]);
    } else {
      static_assert(N == 2);
      queries_ = shared_address(&q[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    }
  }

  /// Logits of a chunk of keys in shared memory: [n][row 2t, 2t + 1 of token g, then of g + 8].
  __device__ void multiply_keys(uint32_t k, float (&logit)[N][4]) const {
    const int lane = threadIdx.x % 32;
    const uint32_t k_at = k + lane % 16 * stride + lane / 16 * 16;
    // Two sums, so that an instruction need not wait for the one before.
    float sums[2][N][4] = {};
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t keys[4], queries[4];
      load_matrices(keys, k_at + c * 32);
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

  __device__ void add_values(uint32_t v, const Weights& weights) {
    const int lane = threadIdx.x % 32;
    const uint32_t v_at = v + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16;
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t values[4];
      load_matrices_transposed(values, v_at + c * 32);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        mma(out[n][c], values, weights.high[n][0], weights.high[n][1], T{});
        mma(out[n][c], values, weights.low[n][0], weights.low[n][1], T{});
      }
    }
  }

  /// Results, weighted by 2^(logit - max) and not normalised, to to[row], and (max, sum) of the rows to
  /// state. Rows that saw nothing have sum 0 and no results.
  __device__ void leave(float (*to)[kMmaStride<D>], float2* state) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float total = sum[n][row];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) total += __shfl_xor_sync(~0u, total, offset);
        const int r = n * 8 + t * 2 + row;
        if (g == 0) state[r] = make_float2(max[n][row], total);
        if (!(total > 0)) continue;
#pragma unroll
        for (int c = 0; c < D / 16; ++c) {
          to[r][c * 16 + g] = out[n][c][row];
          to[r][c * 16 + 8 + g] = out[n][c][2 + row];
        }
      }
  }

 private:
  static constexpr int stride = kMmaStride<D> * static_cast<int>(sizeof(T));

  /// The chunk's largest logits become part of the maxima; all that was summed is scaled to them.
  __device__ void raise(float (&largest)[N][2]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          largest[n][row] = fmaxf(largest[n][row], __shfl_xor_sync(~0u, largest[n][row], offset));
        const float raised = fmaxf(max[n][row], largest[n][row]);
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
  }

  uint32_t kept_[N == 1 ? D / 16 : 1][2];  ///< queries
  uint32_t queries_ = 0;                   ///< where they lie instead
};

}  // namespace hindsight::kernels
