// Products of a few rows with keys and values of pages: against sums in their plain order, and the same bits
// by vectors of any width.

#include "backend/cpu/page_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backend/cpu/page_product_loops.h"

namespace hindsight::cpu {
namespace {

template <class Real>
std::vector<Real> filled(int64_t size) {
  static std::mt19937 random(20250811);
  std::normal_distribution<Real> normal;
  std::vector<Real> values(static_cast<size_t>(size));
  for (Real& value : values) value = normal(random);
  return values;
}

/// What every width writes; all the same. NaN where nothing is to be written.
template <class Product, class Real>
std::vector<Real> out_of(Product product, int64_t size, Real) {
  const auto written = [&](auto&& multiply_by) {
    std::vector<Real> out(static_cast<size_t>(size), std::numeric_limits<Real>::quiet_NaN());
    product.out = out.data();
    multiply_by(product);
    return out;
  };
  const std::vector<Real> narrow = written([](const Product& p) { multiply_pages_with<32>(p); });
  const auto expect_same = [&](const std::vector<Real>& other) {
    for (size_t i = 0; i < narrow.size(); ++i)
      ASSERT_TRUE(narrow[i] == other[i] || (std::isnan(narrow[i]) && std::isnan(other[i]))) << i;
  };
  expect_same(written([](const Product& p) { multiply(p); }));
  // Two narrow vectors for a wide one where there are none: another way through keys and elements.
  expect_same(written([](const Product& p) { multiply_pages_with<64>(p); }));
  return narrow;
}

template <class Real>
void expect_logits(int rows, int64_t count, int64_t d) {
  const std::vector<Real> q = filled<Real>(rows * d), keys = filled<Real>(count * d);
  const int64_t stride = count + 3;
  const std::vector<Real> out =
      out_of(KeyProduct<Real>{rows, q.data(), keys.data(), count, d, nullptr, stride}, rows * stride, Real());
  for (int h = 0; h < rows; ++h)
    for (int64_t x = 0; x < stride; ++x) {
      if (x >= count) {
        ASSERT_TRUE(std::isnan(out[h * stride + x])) << "beyond the last key";
        continue;
      }
      double sum = 0;
      for (int64_t c = 0; c < d; ++c) sum += static_cast<double>(q[h * d + c]) * keys[x * d + c];
      ASSERT_NEAR(out[h * stride + x], sum, 1e-4) << h << " " << x;
    }
}

template <class Real>
void expect_outputs(int rows, const std::vector<TokenPiece>& pieces, int64_t d) {
  int64_t tokens = 0, end = 1;
  for (const TokenPiece& piece : pieces) {
    tokens += piece.count;
    end = std::max(end, piece.first + piece.count);
  }
  const int64_t stride = tokens + 1;
  const std::vector<Real> weights = filled<Real>(rows * stride), values = filled<Real>(end * d);
  const std::vector<Real> out =
      out_of(ValueProduct<Real>{rows, weights.data(), stride, values.data(), pieces.data(),
                                static_cast<int64_t>(pieces.size()), d, nullptr},
             rows * d, Real());
  for (int h = 0; h < rows; ++h)
    for (int64_t c = 0; c < d; ++c) {
      double sum = 0;
      const Real* weight = weights.data() + h * stride;
      for (const TokenPiece& piece : pieces)
        for (int64_t x = 0; x < piece.count; ++x)
          sum += static_cast<double>(*weight++) * values[(piece.first + x) * d + c];
      ASSERT_NEAR(out[h * d + c], sum, 1e-4) << h << " " << c;
    }
}

TEST(PageProduct, LogitsAreSumsWhateverTheShape) {
  for (int rows = 1; rows <= kMostPageRows; ++rows)
    for (const int64_t count : {1, 2, 3, 4, 5, 16, 19})
      for (const int64_t d : {1, 7, 8, 80, 128}) {
        expect_logits<float>(rows, count, d);
        expect_logits<double>(rows, count, d);
      }
}

TEST(PageProduct, OutputsAreSumsOverPiecesWhateverTheShape) {
  for (int rows = 1; rows <= kMostPageRows; ++rows)
    for (const std::vector<TokenPiece>& pieces :
         {std::vector<TokenPiece>{}, {{0, 1}}, {{3, 5}}, {{0, 16}, {48, 16}, {80, 3}}})
      for (const int64_t d : {1, 7, 20, 80, 128, 256}) {
        expect_outputs<float>(rows, pieces, d);
        expect_outputs<double>(rows, pieces, d);
      }
}

}  // namespace
}  // namespace hindsight::cpu
