#pragma once
// Tensor cores and asynchronous copies of compute capability 8.0 and later, a function for each instruction.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace hindsight::kernels {

/// 16 x 8 += (16 x 16) (16 x 8), float accumulation. With g = lane / 4 and t = lane % 4 a lane holds
///   a: rows g, g+8 of columns 2t, 2t+1 (a[0], a[1]) and 2t+8, 2t+9 (a[2], a[3]);
///   b: rows 2t, 2t+1 (b[0]) and 2t+8, 2t+9 (b[1]) of column g;
///   c: row g, columns 2t, 2t+1 (c[0], c[1]); row g+8 (c[2], c[3]).
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Four 8 x 8 matrices of 16-bit elements; lanes 8i..8i+7 give the addresses of the rows of matrix i.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// A warp's 8 x 8 matrix of 16-bit elements, transposed: lane 4g + t has elements 2t and 2t + 1 of row g.
__device__ inline uint32_t transpose(uint32_t both) {
  uint32_t transposed;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(both));
  return transposed;
}

/// Copies 16 bytes to shared memory past the L1 cache, or writes zeros and reads nothing. The L2 cache
/// fetches whole lines: neighbours are read too.
__device__ inline void copy_async(uint32_t target, const void* source, bool read) {
  const int bytes = read ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `pending` of the thread's committed groups are under way.
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Two floats rounded to 16 bits as a register of a fragment holds them, the first in the low half.
__device__ inline uint32_t pack(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ inline uint32_t pack(float low, float high, __half) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ inline float2 unpack(uint32_t both, __nv_bfloat16) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both));
}
__device__ inline float2 unpack(uint32_t both, __half) {
  return __half22float2(*reinterpret_cast<const __half2*>(&both));
}

}  // namespace hindsight::kernels
