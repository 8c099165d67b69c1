// Append: a block takes one page of one range and KV head, a thread one element of the head dimension.

#include "kernels/dispatch.cuh"
#include "kernels/paged_kv.cuh"

namespace hindsight::kernels {
namespace {

template <class T>
__global__ void append_kernel(AppendParams params) {
  const TokenRange range = params.ranges[blockIdx.z];
  const int p = params.kv.page_size, d = params.heads.head_dim, n_kv_heads = params.heads.n_kv_heads;
  const int kv_head = blockIdx.y, c = threadIdx.x;
  const int64_t page = range.from / p + blockIdx.x;
  const int64_t begin = page * p;
  const int64_t end = begin + p < range.to ? begin + p : range.to;
  if (begin >= range.to || range.from >= range.to || c >= d) return;

  const int64_t pool = pool_page(params.kv, static_cast<int>(range.sequence), static_cast<int>(page));
  T* const k = static_cast<T*>(params.kv.k) + token_row(params.kv, n_kv_heads, pool, kv_head, 0) * d + c;
  T* const v = static_cast<T*>(params.kv.v) + token_row(params.kv, n_kv_heads, pool, kv_head, 0) * d + c;
  const int64_t first_row = params.first_row[range.sequence];
  float largest = -INFINITY, smallest = INFINITY;
  for (int64_t token = begin; token < end; ++token) {
    const int64_t at = (token - begin) * d;
    if (token >= range.from) {
      const int64_t source = ((first_row + token) * n_kv_heads + kv_head) * d + c;
      k[at] = static_cast<const T*>(params.k)[source];
      v[at] = static_cast<const T*>(params.v)[source];
    }
    const float key = to_float(k[at]);
    largest = fmaxf(largest, key);
    smallest = fminf(smallest, key);
  }
  // Exact: both are keys.
  T* const summary =
      static_cast<T*>(params.kv.summaries) + summary_row(n_kv_heads, pool, kv_head) * 2 * d + c;
  summary[0] = from_float<T>(largest);
  summary[d] = from_float<T>(smallest);
}

}  // namespace

cudaError_t append(const AppendParams& params, cudaStream_t stream) {
  if (params.n_ranges == 0 || params.longest == 0) return cudaSuccess;
  return dispatch_type(params.heads.type, [&](auto type) {
    using T = typename decltype(type)::type;
    // A range of m tokens touches one page more than it fills where it begins inside one.
    const dim3 grid(ceil_div(params.longest, params.kv.page_size) + 1, params.heads.n_kv_heads,
                    params.n_ranges);
    append_kernel<T><<<grid, ceil_div(params.heads.head_dim, 32) * 32, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

}  // namespace hindsight::kernels
