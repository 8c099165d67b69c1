// Products with few rows, whose time is that of reading the weights once. A block takes 32 outputs; its warps
// take chunks of 64 inputs in turns, two chunks of weights in registers ahead, and add up what they have in
// the end, always in the same order: a row's result has the same bits whatever rows are beside it.
//
// Tensor cores sum over inputs in any order that both operands share, so a lane reads whole 16-byte pieces of
// both. Weights are no result of the kernel ahead: the first are read before it has ended.

#include "kernels/dispatch.cuh"
#include "kernels/early.cuh"
#include "kernels/mma.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kOutputs = 32, kInputs = 64;  ///< of a block, and of a chunk
constexpr int kWarps = 8, kAhead = 2;

/// Past the L1 cache: weights are read once.
__device__ inline uint4 read_weights(const void* address) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

/// Weights of a chunk: rows g, g+8, g+16, g+24 of the block's, 16 bytes of each half.
struct Weights {
  uint4 piece[4][2];
};

template <class T, int Tiles>
__global__ __launch_bounds__(32 * kWarps, 2) void few_rows_product_kernel(FewRowsProductParams params) {
  __shared__ float partial[kWarps][8 * Tiles][kOutputs + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int64_t inputs = params.inputs;
  const int chunks = static_cast<int>(inputs / kInputs);
  const T* const weights = static_cast<const T*>(params.weights) +
                           (static_cast<int64_t>(blockIdx.x) * kOutputs + g) * inputs + t * 8;
  const auto read = [&](Weights& to, int chunk) {
    if (chunk >= chunks) return;
#pragma unroll
    for (int row = 0; row < 4; ++row)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        to.piece[row][half] =
            read_weights(weights + row * 8 * inputs + static_cast<int64_t>(chunk) * kInputs + half * 32);
  };
  Weights ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) read(ahead[i], warp + i * kWarps);
  wait_after_early_launch();

  const T* const x = static_cast<const T*>(params.x) + t * 8;
  float sums[2][Tiles][4] = {};
#pragma unroll 1
  for (int first = warp; first < chunks; first += kAhead * kWarps) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int chunk = first + i * kWarps;
      if (chunk >= chunks) break;
      const Weights now = ahead[i];
      read(ahead[i], chunk + kAhead * kWarps);
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) {
          const int row = tile * 8 + g;
          uint4 b{};
          if (row < params.n)
            b = *reinterpret_cast<const uint4*>(x + row * inputs + static_cast<int64_t>(chunk) * kInputs +
                                                half * 32);
#pragma unroll
          for (int outputs = 0; outputs < 2; ++outputs) {
            const uint4 low = now.piece[2 * outputs][half], high = now.piece[2 * outputs + 1][half];
            mma(sums[outputs][tile], {low.x, high.x, low.y, high.y}, b.x, b.y, T{});
            mma(sums[outputs][tile], {low.z, high.z, low.w, high.w}, b.z, b.w, T{});
          }
        }
    }
  }
#pragma unroll
  for (int outputs = 0; outputs < 2; ++outputs)
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        partial[warp][tile * 8 + 2 * t + c % 2][outputs * 16 + c / 2 * 8 + g] = sums[outputs][tile][c];
  __syncthreads();
  for (int i = threadIdx.x; i < params.n * kOutputs; i += 32 * kWarps) {
    const int row = i / kOutputs, output = i % kOutputs;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][row][output];
    float* const y = params.y + row * params.outputs + static_cast<int64_t>(blockIdx.x) * kOutputs + output;
    *y = params.add ? *y + sum : sum;
  }
}

}  // namespace

bool takes_few_rows_product(const FewRowsProductParams& params, const DeviceLimits& device) {
  return device.compute_capability >= 80 && params.type != ElementType::float32 && params.n <= 16 &&
         params.outputs % kOutputs == 0 && params.inputs % kInputs == 0;
}

cudaError_t few_rows_product(const FewRowsProductParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return dispatch_type(params.type, [&](auto type) -> cudaError_t {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      const dim3 grid(static_cast<unsigned>(params.outputs / kOutputs));
      if (params.n <= 8)
        return launch_early(few_rows_product_kernel<T, 1>, grid, dim3(32 * kWarps), params, stream);
      if (params.n <= 16)
        return launch_early(few_rows_product_kernel<T, 2>, grid, dim3(32 * kWarps), params, stream);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace hindsight::kernels
