#include "bench/random_fill.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace hindsight {
namespace {

__device__ inline float uniform(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + index;  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<float>((x ^ (x >> 31)) >> 40) * 0x1p-24f;
}

__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

template <class T>
__global__ void fill(T* data, int64_t n, uint64_t seed, float deviation) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const float width = deviation * 3.4641016f;  // of a uniform distribution
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride)
    store(data + i, (uniform(seed, static_cast<uint64_t>(i)) - 0.5f) * width);
}

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("random fill: ") + cudaGetErrorString(status));
}

template <class T>
void fill_and_wait(T* data, int64_t n, uint64_t seed, float deviation) {
  // The backend's stream waits for nobody else's.
  check(cudaDeviceSynchronize());
  fill<<<2048, 512>>>(data, n, seed, deviation);
  check(cudaGetLastError());
  check(cudaDeviceSynchronize());
}

}  // namespace

void fill_random(float* data, int64_t n, uint64_t seed, float deviation) {
  fill_and_wait(data, n, seed, deviation);
}

void fill_random_bfloat16(void* data, int64_t n, uint64_t seed, float deviation) {
  fill_and_wait(static_cast<__nv_bfloat16*>(data), n, seed, deviation);
}

int64_t device_bytes_in_use() {
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(total_bytes - free_bytes);
}

}  // namespace hindsight
