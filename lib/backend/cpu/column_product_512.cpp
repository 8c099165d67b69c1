// Compiled for processors with AVX-512, where there are such (lib/backend/CMakeLists.txt).

#include "backend/cpu/column_product_512.h"

#include "backend/cpu/column_product_loops.h"

namespace hindsight::cpu {

void multiply_by_512_bits(const ColumnProduct<float>& product) { multiply_with<64>(product); }
void multiply_by_512_bits(const ColumnProduct<double>& product) { multiply_with<64>(product); }

}  // namespace hindsight::cpu
