#pragma once
// Products of the few query rows of a unit with keys and values of pages, which are read where they lie. A
// general matrix product packs the larger operand first, which for four rows takes as long as the product
// itself. An element is summed up in the same order whatever the width of vectors: its bits are the same.

#include <cstdint>

namespace hindsight::cpu {

/// Query rows of a product at most: their sums stay in registers.
inline constexpr int kMostPageRows = 4;

/// out[h * stride + x] = q_h . k_x for `rows` rows of queries and `count` rows of keys, d elements each.
template <class Real>
struct KeyProduct {
  int rows;  ///< 1 to kMostPageRows
  const Real* q;
  const Real* keys;
  int64_t count, d;
  Real* out;
  int64_t stride;
};

/// Tokens [first, first + count) of a sequence, whose weights stand side by side.
struct TokenPiece {
  int64_t first = 0, count = 0;
};

/// out[h * d + c] = sum over the pieces' tokens of weights[h * stride + x] * values[token * d + c].
template <class Real>
struct ValueProduct {
  int rows;  ///< 1 to kMostPageRows
  const Real* weights;
  int64_t stride;
  const Real* values;
  const TokenPiece* pieces;
  int64_t n_pieces, d;
  Real* out;
};

/// With the widest vectors that this processor has.
void multiply(const KeyProduct<float>& product);
void multiply(const KeyProduct<double>& product);
void multiply(const ValueProduct<float>& product);
void multiply(const ValueProduct<double>& product);

}  // namespace hindsight::cpu
