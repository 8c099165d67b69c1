// column_product.h and page_product.h, with the widest vectors that the processor has.

#include "backend/cpu/column_product_loops.h"
#include "backend/cpu/page_product_loops.h"
#include "backend/cpu/products_512.h"

namespace hindsight::cpu {
namespace {

bool is_wide() {
  static const bool answer = has_vectors_of_512_bits();
  return answer;
}

template <class Product>
void multiply_page(const Product& product) {
  if (is_wide())
    multiply_by_512_bits(product);
  else
    multiply_pages_with<32>(product);
}
template <class Real>
void multiply_all(const ColumnProduct<Real>& product) {
  if (is_wide())
    multiply_by_512_bits(product);
  else
    multiply_columns_with<32>(product);
}

}  // namespace

// Asked here: what is compiled for AVX-512 must not run before the answer is known. It fuses sums of
// products; where this file does not, results would depend on the processor.
bool has_vectors_of_512_bits() {
#if defined(HINDSIGHT_HAS_512_BITS) && defined(__FMA__)
  return __builtin_cpu_supports("avx512f") != 0;
#else
  return false;
#endif
}

void multiply(const ColumnProduct<float>& product) { multiply_all(product); }
void multiply(const ColumnProduct<double>& product) { multiply_all(product); }
void multiply(const KeyProduct<float>& product) { multiply_page(product); }
void multiply(const KeyProduct<double>& product) { multiply_page(product); }
void multiply(const ValueProduct<float>& product) { multiply_page(product); }
void multiply(const ValueProduct<double>& product) { multiply_page(product); }

}  // namespace hindsight::cpu
