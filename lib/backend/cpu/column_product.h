#pragma once
// Products of a tile of query rows with all keys or all values, which are read where they lie. Rows stand
// side by side, one to a lane of a vector: so a general matrix product's packing of keys and values, which
// are much larger than the tile, is not needed, nor are sums across lanes. An element is summed up in the
// same order whatever the width of vectors and whichever rows are beside it: its bits are the same.

#include <cstdint>

namespace hindsight::cpu {

/// c[j][m] = sum over k of a[k][m] * b_jk, or that added to c[j][m]. a [depth][rows], c [count][rows].
template <class Real>
struct ColumnProduct {
  const Real* a;
  const Real* b;
  int64_t b_row, b_column;  ///< elements from b_jk to that of the next j, of the next k
  Real* c;
  int64_t rows;  ///< a multiple of kRowLanes
  int64_t count, depth;
  bool adds;
};

/// Elements of a vector of 32 bytes.
template <class Real>
inline constexpr int64_t kRowLanes = 32 / static_cast<int64_t>(sizeof(Real));

/// With the widest vectors that this processor has.
void multiply(const ColumnProduct<float>& product);
void multiply(const ColumnProduct<double>& product);

}  // namespace hindsight::cpu
