#include "bench/read_ceiling.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace hindsight {
namespace {

constexpr int threads = 512, loads = 8;

/// Every thread has several loads of 16 bytes under way. The sum is written only if it is a value that does
/// not occur: the loads must happen.
__global__ __launch_bounds__(threads) void read(const uint4* data, int64_t n, uint32_t* never) {
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t x = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; x < n; x += loads * stride) {
    uint4 value[loads];
#pragma unroll
    for (int i = 0; i < loads; ++i) value[i] = x + i * stride < n ? __ldcs(data + x + i * stride) : uint4{};
#pragma unroll
    for (int i = 0; i < loads; ++i) sum |= value[i].x | value[i].y | value[i].z | value[i].w;
  }
  if (sum == 0x12345678u) *never = sum;
}

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("read ceiling: ") + cudaGetErrorString(status));
}

double measure(int64_t bytes) {
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int64_t reads = std::clamp<int64_t>(300'000'000 / bytes + 1, 2, 64), n = (bytes + 15) / 16;
  uint4* data = nullptr;
  check(cudaMalloc(&data, static_cast<size_t>(reads * n * 16)));
  check(cudaMemset(data, 0, static_cast<size_t>(reads * n * 16)));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  const int64_t wanted = (n + threads * loads - 1) / (threads * loads);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(wanted, 4 * multiprocessors));
  check(cudaDeviceSynchronize());
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int64_t i = 0; i < reads; ++i)
    read<<<blocks, threads, 0, stream>>>(data + i * n, n, reinterpret_cast<uint32_t*>(data));
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int replay = 0; replay < 20; ++replay) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (replay >= 5) times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaFree(data);
  return 1000.0 * times[times.size() / 2] / static_cast<double>(reads);
}

}  // namespace

double read_us(int64_t bytes) {
  static std::map<int64_t, double> measured;
  if (!measured.contains(bytes)) measured[bytes] = measure(bytes);
  return measured[bytes];
}

}  // namespace hindsight
