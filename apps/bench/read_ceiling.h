#pragma once
// What this GPU takes to read: the ceiling that memory-bound kernels are held against.

#include <cstdint>

namespace hindsight {

/// Microseconds per read of `bytes` contiguous bytes that are not in the L2 cache: median of a graph of reads
/// of different memory. Measured once per size and kept. Throws std::runtime_error where a CUDA call fails.
double read_us(int64_t bytes);

}  // namespace hindsight
