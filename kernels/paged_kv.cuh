#pragma once
// Where a token or a page summary lies in the pool. Offsets are 64-bit: pools exceed 2^31 elements.

#include "kernels/kernels.h"

namespace hindsight::kernels {

__device__ inline int64_t pool_page(const PagedKv& kv, int sequence, int page) {
  return kv.table[sequence * kv.table_stride + page];
}

/// Row of d elements in k and v of token `offset` of a pool page.
__device__ inline int64_t token_row(const PagedKv& kv, int n_kv_heads, int64_t pool, int kv_head,
                                    int offset) {
  return (pool * n_kv_heads + kv_head) * kv.page_size + offset;
}

/// Row of 2d elements (maximum, minimum) in the summaries.
__device__ inline int64_t summary_row(int n_kv_heads, int64_t pool, int kv_head) {
  return pool * n_kv_heads + kv_head;
}

/// The query of a head at a position: d elements.
template <class T>
__device__ inline const T* query(const Queries& q, const Heads& heads, int sequence, int position,
                                 int q_head) {
  const int64_t row = q.first_row[sequence] + position;
  return static_cast<const T*>(q.data) + (row * heads.n_q_heads + q_head) * heads.head_dim;
}

}  // namespace hindsight::kernels
