#pragma once
// Products of the few query rows of a unit with keys and values where they lie. A general matrix product
// packs the larger operand first, which for four rows takes as long as the product itself.

#include <span>
#include <type_traits>

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Elements of a vector of 32 bytes.
template <class Real>
inline constexpr int kLanes = 32 / static_cast<int>(sizeof(Real));
template <class Real>
using Lanes = Eigen::Array<Real, kLanes<Real>, 1>;
template <class Real>
using LanesAt = Eigen::Map<const Lanes<Real>>;

/// out[h * stride + x] = q_h . k_x for H rows of queries and `count` rows of keys, d elements each.
template <int H, class Real>
void multiply_keys(const Real* q, const Real* keys, int64_t count, int64_t d, Real* out, int64_t stride) {
  constexpr int lanes = kLanes<Real>, pair = 2;  // tokens that share a read of the queries
  const int64_t whole = d / lanes * lanes;
  for (int64_t x = 0; x < count; x += pair) {
    const int tokens = static_cast<int>(std::min<int64_t>(pair, count - x));
    // The last token alone is computed twice: the same bits either way.
    const Real* const k[pair] = {keys + x * d, keys + (x + tokens - 1) * d};
    Lanes<Real> sum[H][pair];
    for (auto& row : sum)
      for (auto& lane_sums : row) lane_sums.setZero();
    for (int64_t c = 0; c < whole; c += lanes) {
      const Lanes<Real> k0 = LanesAt<Real>(k[0] + c), k1 = LanesAt<Real>(k[1] + c);
      for (int h = 0; h < H; ++h) {
        const Lanes<Real> own = LanesAt<Real>(q + h * d + c);
        sum[h][0] += own * k0;
        sum[h][1] += own * k1;
      }
    }
    for (int h = 0; h < H; ++h)
      for (int t = 0; t < tokens; ++t) {
        Real total = sum[h][t].sum();
        for (int64_t c = whole; c < d; ++c) total += q[h * d + c] * k[t][c];
        out[h * stride + x + t] = total;
      }
  }
}

/// Tokens [first, first + count) of a sequence, whose weights stand side by side.
struct TokenPiece {
  int64_t first = 0, count = 0;
};

/// out[h * d + c] = sum over the pieces' tokens of weight[h * stride + x] * v[token * d + c] for H rows.
template <int H, class Real>
void multiply_values(const Real* weights, int64_t stride, const Real* values,
                     std::span<const TokenPiece> pieces, int64_t d, Real* out) {
  constexpr int lanes = kLanes<Real>, wide = 2;  // vectors of a row that share a read of the weights
  int64_t c = 0;
  for (; c + wide * lanes <= d; c += wide * lanes) {
    Lanes<Real> sum[H][wide];
    for (auto& row : sum)
      for (auto& lane_sums : row) lane_sums.setZero();
    const Real* weight = weights;
    for (const TokenPiece& piece : pieces) {
      const Real* v = values + piece.first * d + c;
      for (int64_t x = 0; x < piece.count; ++x, v += d, ++weight) {
        const Lanes<Real> v0 = LanesAt<Real>(v), v1 = LanesAt<Real>(v + lanes);
        for (int h = 0; h < H; ++h) {
          sum[h][0] += weight[h * stride] * v0;
          sum[h][1] += weight[h * stride] * v1;
        }
      }
    }
    for (int h = 0; h < H; ++h)
      for (int w = 0; w < wide; ++w) Eigen::Map<Lanes<Real>>(out + h * d + c + w * lanes) = sum[h][w];
  }
  for (; c < d; ++c)
    for (int h = 0; h < H; ++h) {
      Real sum = 0;
      const Real* weight = weights + h * stride;
      for (const TokenPiece& piece : pieces)
        for (int64_t x = 0; x < piece.count; ++x) sum += *weight++ * values[(piece.first + x) * d + c];
      out[h * d + c] = sum;
    }
}

/// Calls f(first row, integral_constant<rows>) for groups of up to four of `rows` rows.
template <class F>
void for_groups_of_rows(int64_t rows, F&& f) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) f(row, std::integral_constant<int, 4>{});
  if (rows - row == 3) f(row, std::integral_constant<int, 3>{});
  if (rows - row == 2) f(row, std::integral_constant<int, 2>{});
  if (rows - row == 1) f(row, std::integral_constant<int, 1>{});
}

}  // namespace hindsight::cpu
