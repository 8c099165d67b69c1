// Products with keys and values: against sums in their plain order, and the same bits by vectors of any
// width.

#include "backend/cpu/column_product.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "backend/cpu/column_product_loops.h"

namespace hindsight::cpu {
namespace {

template <class Real>
void expect_products(int64_t rows, int64_t count, int64_t depth, bool by_columns, bool adds) {
  std::mt19937 random(20250811);
  std::normal_distribution<Real> normal;
  const auto filled = [&](int64_t size) {
    std::vector<Real> values(static_cast<size_t>(size));
    for (Real& value : values) value = normal(random);
    return values;
  };
  const std::vector<Real> a = filled(depth * rows), b = filled(count * depth), before = filled(count * rows);
  std::vector<Real> widest = before, narrow = before, wide = before;
  ColumnProduct<Real> product{
      a.data(), b.data(), by_columns ? 1 : depth, by_columns ? count : 1, widest.data(), rows, count,
      depth,    adds};
  multiply(product);
  product.c = narrow.data();
  multiply_columns_with<32>(product);
  EXPECT_EQ(widest, narrow);
  // Two narrow vectors for a wide one where there are none: other ways through the rows and columns.
  product.c = wide.data();
  multiply_columns_with<64>(product);
  EXPECT_EQ(wide, narrow);
  // A column is the same alone.
  std::vector<Real> alone = before;
  for (int64_t j = 0; j < count; ++j) {
    ColumnProduct<Real> column = product;
    column.b += j * product.b_row;
    column.c = alone.data() + j * rows;
    column.count = 1;
    multiply(column);
  }
  EXPECT_EQ(alone, narrow);
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t m = 0; m < rows; ++m) {
      double sum = adds ? before[j * rows + m] : 0;
      for (int64_t k = 0; k < depth; ++k)
        sum += static_cast<double>(a[k * rows + m]) * b[j * product.b_row + k * product.b_column];
      ASSERT_NEAR(narrow[j * rows + m], sum, 1e-4) << j << " " << m;
    }
  }
}

TEST(ColumnProduct, IsTheSumWhateverTheShape) {
  for (const int64_t vectors : {1, 2, 3, 5, 8})
    for (const int64_t count : {1, 5, 8, 19})
      for (const int64_t depth : {0, 1, 80})
        for (const bool by_columns : {false, true})
          for (const bool adds : {false, true}) {
            expect_products<float>(vectors * kRowLanes<float>, count, depth, by_columns, adds);
            expect_products<double>(vectors * kRowLanes<double>, count, depth, by_columns, adds);
          }
}

}  // namespace
}  // namespace hindsight::cpu
