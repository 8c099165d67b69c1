// Products with few rows, whose time is that of reading the weights once. A block takes 32 outputs; each of
// its warps streams chunks of 64 inputs through buffers of its own and never waits for another warp; in the
// end they add up what they have, always in the same order: a row's result has the same bits whatever rows
// are beside it.
//
// Tensor cores sum over inputs in any order that both operands share, so a lane takes whole 16-byte pieces of
// both. Weights are no result of the kernel ahead: the first are on their way before it has ended.

#include "kernels/dispatch.cuh"
#include "kernels/early.cuh"
#include "kernels/mma.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kOutputs = 32, kInputs = 64;  ///< of a block, and of a chunk
constexpr int kWarps = 8, kBuffers = 3;

/// Weights of a chunk: a line of 128 bytes for every output. Lines of odd outputs have their halves
/// exchanged, so that the eight lanes that read two lines meet all banks.
struct Chunk {
  uint4 piece[kOutputs][8];
};

template <int Tiles>
struct ProductShared {
  union {
    Chunk chunk[kWarps][kBuffers];
    float partial[kWarps][8 * Tiles][kOutputs + 1];
  };
};

template <class T, int Tiles>
__global__ __launch_bounds__(32 * kWarps, 2) void few_rows_product_kernel(FewRowsProductParams params) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ProductShared<Tiles>*>(shared_bytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int64_t inputs = params.inputs;
  const int chunks = static_cast<int>(inputs / kInputs);
  const T* const weights = static_cast<const T*>(params.weights) +
                           (static_cast<int64_t>(blockIdx.x) * kOutputs + lane / 8) * inputs + lane % 8 * 8;
  const auto fetch = [&](int buffer, int chunk) {
    if (chunk < chunks) {
#pragma unroll
      for (int i = 0; i < kOutputs / 4; ++i) {
        const int output = i * 4 + lane / 8;
        copy_async(shared_address(&shared.chunk[warp][buffer].piece[output][lane % 8 ^ output % 2 * 4]),
                   weights + static_cast<int64_t>(i) * 4 * inputs + chunk * kInputs, true);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int buffer = 0; buffer < kBuffers; ++buffer) fetch(buffer, warp + buffer * kWarps);
  wait_after_early_launch();

  const T* const x = static_cast<const T*>(params.x) + g * inputs + t * 8;
  uint4 next_x[2][Tiles];
  const auto read_x = [&](int chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile)
        next_x[half][tile] =
            chunk < chunks && tile * 8 + g < params.n
                ? *reinterpret_cast<const uint4*>(x + tile * 8 * inputs + chunk * kInputs + half * 32)
                : uint4{};
  };
  float sums[2][Tiles][4] = {};
  read_x(warp);
  int buffer = 0;
#pragma unroll 1
  for (int chunk = warp; chunk < chunks; chunk += kWarps) {
    uint4 b[2][Tiles];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) b[half][tile] = next_x[half][tile];
    read_x(chunk + kWarps);
    wait_for_copies<kBuffers - 1>();
    __syncwarp();
    const Chunk& now = shared.chunk[warp][buffer];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int piece = half * 4 + t ^ g % 2 * 4;
#pragma unroll
      for (int outputs = 0; outputs < 2; ++outputs) {
        const uint4 low = now.piece[outputs * 16 + g][piece], high = now.piece[outputs * 16 + 8 + g][piece];
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) {
          mma(sums[outputs][tile], {low.x, high.x, low.y, high.y}, b[half][tile].x, b[half][tile].y, T{});
          mma(sums[outputs][tile], {low.z, high.z, low.w, high.w}, b[half][tile].z, b[half][tile].w, T{});
        }
      }
    }
    __syncwarp();
    fetch(buffer, chunk + kBuffers * kWarps);
    buffer = buffer + 1 == kBuffers ? 0 : buffer + 1;
  }
  wait_for_copies<0>();
  __syncthreads();
#pragma unroll
  for (int outputs = 0; outputs < 2; ++outputs)
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        shared.partial[warp][tile * 8 + 2 * t + c % 2][outputs * 16 + c / 2 * 8 + g] = sums[outputs][tile][c];
  __syncthreads();
  for (int i = threadIdx.x; i < params.n * kOutputs; i += 32 * kWarps) {
    const int row = i / kOutputs, output = i % kOutputs;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.partial[w][row][output];
    float* const y = params.y + row * params.outputs + static_cast<int64_t>(blockIdx.x) * kOutputs + output;
    *y = params.add ? *y + sum : sum;
  }
}

template <class T, int Tiles>
cudaError_t launch_product(const FewRowsProductParams& params, cudaStream_t stream) {
  const auto kernel = few_rows_product_kernel<T, Tiles>;
  constexpr auto shared_bytes = static_cast<int>(sizeof(ProductShared<Tiles>));
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  return launch_early(kernel, dim3(static_cast<unsigned>(params.outputs / kOutputs)), dim3(32 * kWarps),
                      params, stream, shared_bytes);
}

}  // namespace

bool takes_few_rows_product(const FewRowsProductParams& params, const DeviceLimits& device) {
  return device.compute_capability >= 80 && params.type != ElementType::float32 && params.n <= 16 &&
         params.outputs % kOutputs == 0 && params.inputs % kInputs == 0 &&
         static_cast<int64_t>(sizeof(ProductShared<2>)) <= device.shared_bytes_per_block;
}

cudaError_t few_rows_product(const FewRowsProductParams& params, cudaStream_t stream) {
  if (params.n == 0) return cudaSuccess;
  return dispatch_type(params.type, [&](auto type) -> cudaError_t {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      if (params.n <= 8) return launch_product<T, 1>(params, stream);
      if (params.n <= 16) return launch_product<T, 2>(params, stream);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace hindsight::kernels
