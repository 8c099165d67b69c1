// Rows that a model computed, on their way into the pages and the queries of a layer, and from place to
// place.

#include "kernels/dispatch.cuh"
#include "kernels/early.cuh"
#include "kernels/paged_kv.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kTokenThreads = 16;
constexpr int kLargestHeadDim = 256;
constexpr int kCopyThreads = 256;

__device__ inline float4 larger(float4 a, float4 b) {
  return {fmaxf(a.x, b.x), fmaxf(a.y, b.y), fmaxf(a.z, b.z), fmaxf(a.w, b.w)};
}
__device__ inline float4 smaller(float4 a, float4 b) {
  return {fminf(a.x, b.x), fminf(a.y, b.y), fminf(a.z, b.z), fminf(a.w, b.w)};
}

/// A block takes one page of one range and KV head, a thread four elements of every 16th token of it.
template <class T>
__global__ void write_rows_kernel(WriteRowsParams params) {
  __shared__ float4 shared_largest[kTokenThreads][kLargestHeadDim / 4];
  __shared__ float4 shared_smallest[kTokenThreads][kLargestHeadDim / 4];
  wait_after_early_launch();
  const RowRange range = params.ranges[blockIdx.z];
  const int p = params.kv.page_size, d = params.heads.head_dim, n_kv_heads = params.heads.n_kv_heads;
  const int kv_head = blockIdx.y, lane = threadIdx.x, c = 4 * lane;
  const int64_t from = range.first_position, to = from + range.n;
  const int64_t page = from / p + blockIdx.x, begin = page * p;
  if (begin >= to || range.n == 0) return;

  const int64_t pool = pool_page(params.kv, static_cast<int>(range.sequence), static_cast<int>(page));
  const int64_t first = token_row(params.kv, n_kv_heads, pool, kv_head, 0) * d + c;
  T* const k = static_cast<T*>(params.kv.k) + first;
  T* const v = static_cast<T*>(params.kv.v) + first;
  T* const summary =
      static_cast<T*>(params.kv.summaries) + summary_row(n_kv_heads, pool, kv_head) * 2 * d + c;
  const bool widens = params.widen && begin < range.had;
  float4 largest{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float4 smallest{INFINITY, INFINITY, INFINITY, INFINITY};
  const int64_t has = range.had > to ? range.had : to;
  const int tokens = static_cast<int>(begin + p < has ? p : has - begin);
  for (int token = threadIdx.y; token < tokens; token += kTokenThreads) {
    const int64_t position = begin + token, at = static_cast<int64_t>(token) * d;
    const bool is_written = position >= from && position < to;
    if (is_written) {
      const int64_t source = ((range.first_row + position - from) * n_kv_heads + kv_head) * d + c;
      store_four(k + at, load_four(params.k + source));
      store_four(v + at, load_four(params.v + source));
    }
    if (is_written || !widens) {
      const float4 key = load_four(k + at);
      largest = larger(largest, key);
      smallest = smaller(smallest, key);
    }
  }
  shared_largest[threadIdx.y][lane] = largest;
  shared_smallest[threadIdx.y][lane] = smallest;
#pragma unroll
  for (int half = kTokenThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half) continue;
    shared_largest[threadIdx.y][lane] =
        larger(shared_largest[threadIdx.y][lane], shared_largest[threadIdx.y + half][lane]);
    shared_smallest[threadIdx.y][lane] =
        smaller(shared_smallest[threadIdx.y][lane], shared_smallest[threadIdx.y + half][lane]);
  }
  if (threadIdx.y != 0) return;
  largest = shared_largest[0][lane];
  smallest = shared_smallest[0][lane];
  if (widens) {
    largest = larger(largest, load_four(summary));
    smallest = smaller(smallest, load_four(summary + d));
  }
  // Exact: both are keys.
  store_four(summary, largest);
  store_four(summary + d, smallest);
}

template <class T>
__global__ void set_queries_kernel(SetQueriesParams params) {
  wait_after_early_launch();
  const RowRange range = params.ranges[blockIdx.y];
  const int64_t i = blockIdx.x;
  if (i >= range.n) return;
  const int width = params.heads.n_q_heads * params.heads.head_dim;
  const int c = 4 * (blockIdx.z * kCopyThreads + threadIdx.x);
  const int64_t at = (range.first_row + i) * width + c;
  if (c < width) store_four(static_cast<T*>(params.queries) + at, load_four(params.q + at));
  if (i == 0 && c == 0) params.first_row[range.sequence] = range.first_row - range.first_position;
}

__global__ void copy_rows_kernel(CopyRowsParams params) {
  wait_after_early_launch();
  const int64_t i = blockIdx.x, c = static_cast<int64_t>(blockIdx.y) * kCopyThreads + threadIdx.x;
  if (c >= params.width) return;
  const int64_t from = params.from_rows ? params.from_rows[i] : i,
                to = params.to_rows ? params.to_rows[i] : i;
  params.to[to * params.width + c] = params.from[from * params.width + c];
}

}  // namespace

cudaError_t write_rows(const WriteRowsParams& params, cudaStream_t stream) {
  if (params.n_ranges == 0 || params.longest == 0) return cudaSuccess;
  const int d = params.heads.head_dim;
  if (d % 4 != 0 || d > kLargestHeadDim) return cudaErrorInvalidValue;
  return dispatch_type(params.heads.type, [&](auto type) {
    // A range of m rows touches one page more than it fills where it begins inside one.
    const dim3 grid(ceil_div(params.longest, params.kv.page_size) + 1, params.heads.n_kv_heads,
                    params.n_ranges);
    return launch_early(write_rows_kernel<typename decltype(type)::type>, grid, dim3(d / 4, kTokenThreads),
                        params, stream);
  });
}

cudaError_t set_queries(const SetQueriesParams& params, cudaStream_t stream) {
  if (params.n_ranges == 0 || params.longest == 0) return cudaSuccess;
  if (params.heads.head_dim % 4 != 0) return cudaErrorInvalidValue;
  return dispatch_type(params.heads.type, [&](auto type) {
    const dim3 grid(static_cast<unsigned>(params.longest), params.n_ranges,
                    ceil_div(params.heads.n_q_heads * params.heads.head_dim, 4 * kCopyThreads));
    return launch_early(set_queries_kernel<typename decltype(type)::type>, grid, dim3(kCopyThreads), params,
                        stream);
  });
}

cudaError_t copy_rows(const CopyRowsParams& params, cudaStream_t stream) {
  if (params.n == 0 || params.width == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(params.n), ceil_div(params.width, kCopyThreads));
  return launch_early(copy_rows_kernel, grid, dim3(kCopyThreads), params, stream);
}

}  // namespace hindsight::kernels
