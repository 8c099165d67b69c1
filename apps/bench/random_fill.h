#pragma once
// Random values on the device, for benchmarks of sizes that the host would take minutes to fill.

#include <cstdint>

namespace hindsight {

/// n values of mean 0 and the given deviation, a hash of seed and index, in float or bfloat16. Waits for all
/// work before and after. Throws std::runtime_error where a CUDA call fails.
void fill_random(float* data, int64_t n, uint64_t seed, float deviation);
void fill_random_bfloat16(void* data, int64_t n, uint64_t seed, float deviation);
/// Bytes in use on the device, by whatever.
int64_t device_bytes_in_use();

}  // namespace hindsight
