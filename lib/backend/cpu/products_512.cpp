// Compiled for processors with AVX-512, where there are such (lib/backend/CMakeLists.txt).

#include "backend/cpu/products_512.h"

#include "backend/cpu/column_product_loops.h"
#include "backend/cpu/page_product_loops.h"

namespace hindsight::cpu {

void multiply_by_512_bits(const ColumnProduct<float>& product) { multiply_columns_with<64>(product); }
void multiply_by_512_bits(const ColumnProduct<double>& product) { multiply_columns_with<64>(product); }
void multiply_by_512_bits(const KeyProduct<float>& product) { multiply_pages_with<64>(product); }
void multiply_by_512_bits(const KeyProduct<double>& product) { multiply_pages_with<64>(product); }
void multiply_by_512_bits(const ValueProduct<float>& product) { multiply_pages_with<64>(product); }
void multiply_by_512_bits(const ValueProduct<double>& product) { multiply_pages_with<64>(product); }

}  // namespace hindsight::cpu
