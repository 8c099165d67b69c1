// What a transformer's layer does around attention and its products: memory-bound, a block for a row.

#include "kernels/dispatch.cuh"
#include "kernels/early.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kRowThreads = 512;
constexpr int kPieceThreads = 128;

/// Element of an operand: rounded, and in the second part what that lost.
template <class T>
__device__ inline void store(const Operand& to, int64_t at, float value) {
  T* const data = static_cast<T*>(to.data);
  const T first = from_float<T>(value);
  data[at] = first;
  if (to.parts == 2) data[to.part_stride + at] = from_float<T>(value - to_float(first));
}

template <class T>
__device__ inline void store_operand(const Operand& to, int64_t at, float4 x) {
  T* const data = static_cast<T*>(to.data) + at;
  store_four(data, x);
  if (to.parts == 1) return;
  const float4 first = load_four(data);
  store_four(data + to.part_stride, {x.x - first.x, x.y - first.y, x.z - first.z, x.w - first.w});
}

/// Sum over the block, in all threads, always in the same order. `shared` has room for 32.
__device__ inline float block_sum(float value, float* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  const int warps = (blockDim.x + 31) / 32;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += shared[warp];
  return sum;
}

template <class T>
__global__ void embed_kernel(EmbedParams params) {
  wait_after_early_launch();
  const int64_t i = blockIdx.x, from = params.tokens[i] * params.width;
  for (int64_t c = threadIdx.x; c < params.width; c += blockDim.x)
    params.x[i * params.width + c] = to_float(static_cast<const T*>(params.embedding)[from + c]);
}

template <class T>
__global__ void norm_rows_kernel(NormRowsParams params) {
  __shared__ float shared[32];
  constexpr int held = 4;  // vectors of a thread: rows of up to 8192 elements are read once
  wait_after_early_launch();
  const int64_t first = blockIdx.x * params.width;
  const float* const x = params.x + first;
  const bool is_held = params.width % 4 == 0 && params.width <= 4 * held * kRowThreads;
  float4 own[held];
  float squares = 0;
  if (is_held) {
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const int64_t c = 4 * (i * kRowThreads + static_cast<int64_t>(threadIdx.x));
      own[i] = c < params.width ? load_four(x + c) : float4{};
      squares += own[i].x * own[i].x + own[i].y * own[i].y + own[i].z * own[i].z + own[i].w * own[i].w;
    }
  } else {
    for (int64_t c = threadIdx.x; c < params.width; c += kRowThreads) squares += x[c] * x[c];
  }
  const float mean = block_sum(squares, shared) / static_cast<float>(params.width);
  const float scale = 1 / sqrtf(mean + params.epsilon);
  if (!is_held) {
    for (int64_t c = threadIdx.x; c < params.width; c += kRowThreads)
      store<T>(params.to, first + c, x[c] * scale * params.weight[c]);
    return;
  }
#pragma unroll
  for (int i = 0; i < held; ++i) {
    const int64_t c = 4 * (i * kRowThreads + static_cast<int64_t>(threadIdx.x));
    if (c >= params.width) continue;
    const float4 weight = load_four(params.weight + c);
    store_operand<T>(params.to, first + c,
                     {own[i].x * scale * weight.x, own[i].y * scale * weight.y, own[i].z * scale * weight.z,
                      own[i].w * scale * weight.w});
  }
}

/// Four elements a thread; widths are multiples of four, as head dimensions are.
template <class T>
__global__ void round_rows_kernel(RoundRowsParams params) {
  wait_after_early_launch();
  const int64_t i = blockIdx.x, c = 4 * (static_cast<int64_t>(blockIdx.y) * kPieceThreads + threadIdx.x);
  if (c >= params.width) return;
  const float* const x = params.x + (params.rows ? params.rows[i] : i) * params.width;
  store_operand<T>(params.to, i * params.width + c, load_four(x + c));
}

template <class T>
__global__ void gate_rows_kernel(GateRowsParams params) {
  wait_after_early_launch();
  const int64_t i = blockIdx.y, c = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (c >= params.width) return;
  const float gate = params.gate_up[2 * i * params.width + c];
  const float up = params.gate_up[(2 * i + 1) * params.width + c];
  store<T>(params.to, i * params.width + c, gate / (1 + expf(-gate)) * up);
}

__global__ void add_bias_kernel(AddBiasParams params) {
  wait_after_early_launch();
  float* const x = params.x + static_cast<int64_t>(blockIdx.x) * params.width;
  for (int64_t c = threadIdx.x; c < params.width; c += blockDim.x) x[c] += params.bias[c];
}

/// A block takes one head of one row, a thread one pair of elements that are rotated against each other.
__global__ void split_heads_kernel(SplitHeadsParams params) {
  __shared__ float shared[32];
  wait_after_early_launch();
  const int heads = params.n_q_heads, kv_heads = params.n_kv_heads, d = params.head_dim;
  const int64_t i = blockIdx.x;
  const int head = blockIdx.y, c = threadIdx.x, half = d / 2;
  const int64_t width = static_cast<int64_t>(heads + 2 * kv_heads) * d, at = static_cast<int64_t>(head) * d;
  const bool is_pair = c < half;
  float a = 0, b = 0;
  if (is_pair) {
    a = params.rows[i * width + at + c];
    b = params.rows[i * width + at + half + c];
    if (params.bias != nullptr) {
      a += params.bias[at + c];
      b += params.bias[at + half + c];
    }
  }
  const bool is_q = head < heads, is_v = head >= heads + kv_heads;
  float* const target = is_q   ? params.q + (i * heads + head) * d
                        : is_v ? params.v + (i * kv_heads + head - heads - kv_heads) * d
                               : params.k + (i * kv_heads + head - heads) * d;
  if (!is_v) {
    const float* const norm = is_q ? params.q_norm : params.k_norm;
    if (norm != nullptr) {
      const float mean = block_sum(a * a + b * b, shared) / static_cast<float>(d);
      const float scale = 1 / sqrtf(mean + params.epsilon);
      if (is_pair) {
        a *= scale * norm[c];
        b *= scale * norm[half + c];
      }
    }
    if (is_pair) {
      // Rounded to float, as where the models were trained. Large arguments need the accurate functions.
      const float angle = static_cast<float>(params.positions[i]) * params.frequencies[c];
      float sine, cosine;
      sincosf(angle, &sine, &cosine);
      const float rotated = a * cosine - b * sine;
      b = b * cosine + a * sine;
      a = rotated;
    }
  }
  if (is_pair) {
    target[c] = a;
    target[half + c] = b;
  }
}

}  // namespace

cudaError_t embed(const EmbedParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return dispatch_type(params.type, [&](auto type) {
    return launch_early(embed_kernel<typename decltype(type)::type>, dim3(static_cast<unsigned>(params.n)),
                        dim3(kRowThreads), params, stream);
  });
}

cudaError_t norm_rows(const NormRowsParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return dispatch_type(params.to.type, [&](auto type) {
    return launch_early(norm_rows_kernel<typename decltype(type)::type>,
                        dim3(static_cast<unsigned>(params.n)), dim3(kRowThreads), params, stream);
  });
}

cudaError_t round_rows(const RoundRowsParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  if (params.width % 4 != 0) return cudaErrorInvalidValue;
  return dispatch_type(params.to.type, [&](auto type) {
    const dim3 grid(static_cast<unsigned>(params.n), ceil_div(params.width, 4 * kPieceThreads));
    return launch_early(round_rows_kernel<typename decltype(type)::type>, grid, dim3(kPieceThreads), params,
                        stream);
  });
}

cudaError_t gate_rows(const GateRowsParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return dispatch_type(params.to.type, [&](auto type) {
    const dim3 grid(ceil_div(params.width, kRowThreads), static_cast<unsigned>(params.n));
    return launch_early(gate_rows_kernel<typename decltype(type)::type>, grid, dim3(kRowThreads), params,
                        stream);
  });
}

cudaError_t add_bias(const AddBiasParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return launch_early(add_bias_kernel, dim3(static_cast<unsigned>(params.n)), dim3(kRowThreads), params,
                      stream);
}

cudaError_t split_heads(const SplitHeadsParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  if (params.head_dim % 2 != 0 || params.head_dim > 2 * 1024) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(params.n), params.n_q_heads + 2 * params.n_kv_heads);
  return launch_early(split_heads_kernel, grid, dim3(ceil_div(params.head_dim / 2, 32) * 32), params, stream);
}

}  // namespace hindsight::kernels
