#pragma once
// Clusters of blocks, and dependent launches: compute capability 9.0 and later. A function for each
// instruction; those of dependent launches do nothing below 9.0, where launches do not overlap (early.cuh).

#include <cstdint>

namespace hindsight::kernels {

inline constexpr int kMaxCluster = 16;

/// A barrier of all threads of a cluster in two halves. It says only that threads have come so far: what they
/// wrote need not be seen after `wait`. The warp must have converged.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// Where an address in shared memory lies in block `rank` of the cluster.
__device__ inline uint32_t in_block(uint32_t address, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// Waits until the grid before in the stream has ended and what it wrote is seen.
__device__ inline void wait_for_previous_grid() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets the next grid's blocks take places that are free; it waits as above before it reads anything.
__device__ inline void let_next_grid_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Starts fetching the line of an address into L2.
__device__ inline void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
/// The same of some bytes, a multiple of 16 as the address is.
__device__ inline void prefetch(const void* address, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes) : "memory");
}

}  // namespace hindsight::kernels
