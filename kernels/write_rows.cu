// Rows that a model computed, on their way into the pages and the queries of a layer, and from place to
// place.

#include "kernels/dispatch.cuh"
#include "kernels/paged_kv.cuh"

namespace hindsight::kernels {
namespace {

/// A block takes one page of one range and KV head, a thread one element of the head dimension.
template <class T>
__global__ void write_rows_kernel(WriteRowsParams params) {
  const RowRange range = params.ranges[blockIdx.z];
  const int p = params.kv.page_size, d = params.heads.head_dim, n_kv_heads = params.heads.n_kv_heads;
  const int kv_head = blockIdx.y, c = threadIdx.x;
  const int64_t from = range.first_position, to = from + range.n;
  const int64_t page = from / p + blockIdx.x, begin = page * p;
  if (begin >= to || range.n == 0 || c >= d) return;

  const int64_t pool = pool_page(params.kv, static_cast<int>(range.sequence), static_cast<int>(page));
  const int64_t first = token_row(params.kv, n_kv_heads, pool, kv_head, 0) * d + c;
  T* const k = static_cast<T*>(params.kv.k) + first;
  T* const v = static_cast<T*>(params.kv.v) + first;
  T* const summary =
      static_cast<T*>(params.kv.summaries) + summary_row(n_kv_heads, pool, kv_head) * 2 * d + c;
  const bool widens = params.widen && begin < range.had;
  float largest = -INFINITY, smallest = INFINITY;
  if (widens) {
    largest = to_float(summary[0]);
    smallest = to_float(summary[d]);
  }
  const int64_t has = range.had > to ? range.had : to;
  const int tokens = static_cast<int>(begin + p < has ? p : has - begin);
#pragma unroll 4
  for (int token = 0; token < tokens; ++token) {
    const int64_t position = begin + token;
    T* const key_at = k + static_cast<int64_t>(token) * d;
    const bool is_written = position >= from && position < to;
    if (is_written) {
      const int64_t source = ((range.first_row + position - from) * n_kv_heads + kv_head) * d + c;
      *key_at = from_float<T>(params.k[source]);
      v[static_cast<int64_t>(token) * d] = from_float<T>(params.v[source]);
    }
    if (is_written || !widens) {
      const float key = to_float(*key_at);
      largest = fmaxf(largest, key);
      smallest = fminf(smallest, key);
    }
  }
  // Exact: both are keys.
  summary[0] = from_float<T>(largest);
  summary[d] = from_float<T>(smallest);
}

template <class T>
__global__ void set_queries_kernel(SetQueriesParams params) {
  const RowRange range = params.ranges[blockIdx.y];
  const int64_t i = blockIdx.x;
  if (i >= range.n) return;
  const int width = params.heads.n_q_heads * params.heads.head_dim;
  const int64_t first = (range.first_row + i) * width;
  for (int c = threadIdx.x; c < width; c += blockDim.x)
    static_cast<T*>(params.queries)[first + c] = from_float<T>(params.q[first + c]);
  if (i == 0 && threadIdx.x == 0) params.first_row[range.sequence] = range.first_row - range.first_position;
}

__global__ void copy_rows_kernel(CopyRowsParams params) {
  const int64_t i = blockIdx.x;
  const int64_t from = params.from_rows ? params.from_rows[i] : i,
                to = params.to_rows ? params.to_rows[i] : i;
  for (int64_t c = threadIdx.x; c < params.width; c += blockDim.x)
    params.to[to * params.width + c] = params.from[from * params.width + c];
}

}  // namespace

cudaError_t write_rows(const WriteRowsParams& params, cudaStream_t stream) {
  if (params.n_ranges == 0 || params.longest == 0) return cudaSuccess;
  return dispatch_type(params.heads.type, [&](auto type) {
    using T = typename decltype(type)::type;
    // A range of m rows touches one page more than it fills where it begins inside one.
    const dim3 grid(ceil_div(params.longest, params.kv.page_size) + 1, params.heads.n_kv_heads,
                    params.n_ranges);
    write_rows_kernel<T><<<grid, ceil_div(params.heads.head_dim, 32) * 32, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

cudaError_t set_queries(const SetQueriesParams& params, cudaStream_t stream) {
  if (params.n_ranges == 0 || params.longest == 0) return cudaSuccess;
  return dispatch_type(params.heads.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(params.longest), params.n_ranges);
    set_queries_kernel<T><<<grid, 512, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

cudaError_t copy_rows(const CopyRowsParams& params, cudaStream_t stream) {
  if (params.n == 0 || params.width == 0) return cudaSuccess;
  copy_rows_kernel<<<static_cast<unsigned>(params.n), 256, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
