#pragma once
// The loops of column_product.h for one width of vectors. Everything here belongs to the file that includes
// it, which may be compiled for other processors than the rest of the program: nothing is included that has
// functions.

#include "backend/cpu/column_product.h"
#include "backend/cpu/vector_type.h"

namespace hindsight::cpu {
namespace {

/// `vectors` vectors of rows from `row` on, and `columns` values of j from `j` on: all sums stay in
/// registers.
template <int bytes, int vectors, int columns, class Real>
void multiply_part(const ColumnProduct<Real>& product, int64_t row, int64_t j) {
  using V = typename Vector<Real, bytes>::type;
  constexpr int lanes = bytes / static_cast<int>(sizeof(Real));
  V sum[columns][vectors] = {};
  const Real* a = product.a + row;
  const Real* b = product.b + j * product.b_row;
  for (int64_t k = 0; k < product.depth; ++k, a += product.rows, b += product.b_column)
#pragma GCC unroll 8
    for (int x = 0; x < columns; ++x)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v)
        sum[x][v] += *reinterpret_cast<const V*>(a + v * lanes) * b[x * product.b_row];
#pragma GCC unroll 8
  for (int x = 0; x < columns; ++x)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      V* const c = reinterpret_cast<V*>(product.c + (j + x) * product.rows + row + v * lanes);
      *c = product.adds ? *c + sum[x][v] : sum[x][v];
    }
}

/// All rows, for `columns` values of j.
template <int bytes, int columns, class Real>
void multiply_columns(const ColumnProduct<Real>& product, int64_t j) {
  constexpr int64_t lanes = bytes / static_cast<int64_t>(sizeof(Real));
  int64_t row = 0;
  for (; row + 2 * lanes <= product.rows; row += 2 * lanes) multiply_part<bytes, 2, columns>(product, row, j);
  for (; row + lanes <= product.rows; row += lanes) multiply_part<bytes, 1, columns>(product, row, j);
  if (row < product.rows) multiply_part<32, 1, columns>(product, row, j);
}

/// As many columns at once as there are registers for their sums.
template <int bytes, class Real>
void multiply_columns_with(const ColumnProduct<Real>& product) {
  constexpr int columns = bytes / 8;
  int64_t j = 0;
  for (; j + columns <= product.count; j += columns) multiply_columns<bytes, columns>(product, j);
  for (; j < product.count; ++j) multiply_columns<bytes, 1>(product, j);
}

}  // namespace
}  // namespace hindsight::cpu
