#include "backend/cpu/column_product.h"

#include "backend/cpu/column_product_512.h"
#include "backend/cpu/column_product_loops.h"

namespace hindsight::cpu {
namespace {

template <class Real>
void multiply_by_widest(const ColumnProduct<Real>& product) {
  static const bool is_wide = has_vectors_of_512_bits();
  if (is_wide)
    multiply_by_512_bits(product);
  else
    multiply_with<32>(product);
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

void multiply(const ColumnProduct<float>& product) { multiply_by_widest(product); }
void multiply(const ColumnProduct<double>& product) { multiply_by_widest(product); }

}  // namespace hindsight::cpu
