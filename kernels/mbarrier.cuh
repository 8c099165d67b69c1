#pragma once
// Barriers in shared memory that also count bytes, and the copies and stores that such a barrier tells the
// end of. Compute capability 9.0 and later. A function for each instruction.

#include <cstdint>

#include "kernels/mma.cuh"

namespace hindsight::kernels {

/// A phase ends when so many threads have arrived, and all bytes that they expect.
__device__ inline void init_barrier(uint64_t& barrier, int threads) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(threads)
               : "memory");
}
/// After init_barrier, by the same thread: copies see the barrier, and other blocks do once they have waited
/// for a cluster barrier at which this thread arrives next.
__device__ inline void show_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(uint64_t& barrier) {
  asm volatile(
      "{.reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0];}" ::"r"(shared_address(&barrier))
      : "memory");
}
/// The phase does not end before `bytes` more have come; some may have come already.
__device__ inline void arrive_expecting(uint64_t& barrier, int bytes) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;}" ::"r"(
                   shared_address(&barrier)),
               "r"(bytes)
               : "memory");
}
/// Waits until the phase of that parity has ended; a fresh barrier counts as one whose phase 1 has.
__device__ inline void wait_for_phase(uint64_t& barrier, uint32_t parity) {
  asm volatile(
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra "
      "again;}" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

/// Starts copying bytes, a multiple of 16 as both addresses are.
__device__ inline void copy_bulk(void* target, const void* source, int bytes, uint64_t& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(target)),
      "l"(source), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}

/// Starts storing into the shared memory of a block of the cluster, whose barrier counts the bytes.
__device__ inline void store_async(uint32_t address, float value, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(address),
               "f"(value), "r"(barrier)
               : "memory");
}
__device__ inline void store_async(uint32_t address, float2 value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address),
      "f"(value.x), "f"(value.y), "r"(barrier)
      : "memory");
}
__device__ inline void store_async(uint32_t address, float4 value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          address),
      "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier)
      : "memory");
}

}  // namespace hindsight::kernels
