#pragma once
// column_product.h and page_product.h with vectors of 64 bytes.

#include "backend/cpu/column_product.h"
#include "backend/cpu/page_product.h"

namespace hindsight::cpu {

/// Whether this program and this processor have them.
bool has_vectors_of_512_bits();

// Only where that is so.
void multiply_by_512_bits(const ColumnProduct<float>& product);
void multiply_by_512_bits(const ColumnProduct<double>& product);
void multiply_by_512_bits(const KeyProduct<float>& product);
void multiply_by_512_bits(const KeyProduct<double>& product);
void multiply_by_512_bits(const ValueProduct<float>& product);
void multiply_by_512_bits(const ValueProduct<double>& product);

}  // namespace hindsight::cpu
