#pragma once
// Half-warps that hold a row of d elements in 16-byte pieces: lane l has pieces l, l + 16, ... What a
// half-warp does may diverge from its twin; shuffles therefore name its own lanes only.

#include "kernels/element.cuh"

namespace hindsight::kernels {

inline constexpr int kGroupLanes = 16;

__device__ inline int group_lane() { return static_cast<int>(threadIdx.x) % kGroupLanes; }
__device__ inline unsigned group_mask() { return 0xffffu << (threadIdx.x & 16u); }

/// Sum over the half-warp, the same bits in every lane.
__device__ inline float group_sum(float x) {
#pragma unroll
  for (int offset = kGroupLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(group_mask(), x, offset);
  return x;
}

/// Pieces of a lane, and elements of all of them.
template <class T, int D>
inline constexpr int kPieces = (D / kVec<T> + kGroupLanes - 1) / kGroupLanes;
template <class T, int D>
inline constexpr int kLaneElements = kPieces<T, D>* kVec<T>;

/// Element that lane-local element (piece, 0) is of the row; D or more where the lane has no such piece.
template <class T>
__device__ inline int piece_begin(int piece) {
  return (piece * kGroupLanes + group_lane()) * kVec<T>;
}

/// Loads the lane's part of a row; 0 where it has none.
template <class T, int D>
__device__ inline void load_row(const T* row, float (&part)[kLaneElements<T, D>]) {
#pragma unroll
  for (int piece = 0; piece < kPieces<T, D>; ++piece) {
    float values[kVec<T>] = {};
    const int begin = piece_begin<T>(piece);
    if (begin < D) load_vec<T>(row + begin, values);
#pragma unroll
    for (int c = 0; c < kVec<T>; ++c) part[piece * kVec<T> + c] = values[c];
  }
}

/// The same of a row of floats in shared memory, which must be zero-padded to kPaddedRow<T, D> elements.
template <class T, int D>
__device__ inline void load_shared_row(const float* row, float (&part)[kLaneElements<T, D>]) {
#pragma unroll
  for (int piece = 0; piece < kPieces<T, D>; ++piece)
#pragma unroll
    for (int c = 0; c < kVec<T>; c += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + piece_begin<T>(piece) + c);
      part[piece * kVec<T> + c] = four.x;
      part[piece * kVec<T> + c + 1] = four.y;
      part[piece * kVec<T> + c + 2] = four.z;
      part[piece * kVec<T> + c + 3] = four.w;
    }
}
template <class T, int D>
inline constexpr int kPaddedRow = kGroupLanes* kLaneElements<T, D>;

}  // namespace hindsight::kernels
