// Bookkeeping of loads: a block per (sequence, unit) walks that sequence's steps in order, a thread per
// listed page. Where the unit's last loads fit into shared memory they are walked through there, and the
// next steps' pages are on their way meanwhile: a step then costs a barrier, not two trips to memory.

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kRun = 256;  // steps whose counts are read at once
constexpr int kAhead = 8;  // steps whose pages are read at once, while as many are walked through

template <bool in_shared>
__global__ __launch_bounds__(kThreads) void note_loads_kernel(NoteLoadsParams params) {
  extern __shared__ int32_t shared_loads[];
  const int sequence = blockIdx.x, unit = blockIdx.y;
  int32_t* const kept =
      params.last_loaded + (static_cast<int64_t>(sequence) * params.n_units + unit) * params.n_pages;
  int32_t* const last_loaded = in_shared ? shared_loads : kept;
  if (in_shared)
    for (int page = threadIdx.x; page < params.n_pages; page += kThreads) shared_loads[page] = kept[page];
  __syncthreads();

  const auto row = [&](int i) { return static_cast<int64_t>(i) * params.n_units + unit; };
  __shared__ int count[kRun], position[kRun];
  for (int run = 0; run < params.n_steps; run += kRun) {
    const int run_steps = min(kRun, params.n_steps - run);
    __syncthreads();
    for (int x = threadIdx.x; x < run_steps; x += kThreads) {
      const Step step = params.steps[run + x];
      count[x] = step.sequence == sequence ? params.lists.count[row(run + x)] : 0;
      position[x] = step.position;
    }
    __syncthreads();
    // A thread's first page of each of the steps from `from` on.
    const auto look_ahead = [&](int from, int(&pages)[kAhead]) {
#pragma unroll
      for (int x = 0; x < kAhead; ++x)
        if (from + x < run_steps && static_cast<int>(threadIdx.x) < count[from + x])
          pages[x] = params.lists.pages[row(run + from + x) * params.lists.capacity + threadIdx.x];
    };
    int ahead[kAhead];
    look_ahead(0, ahead);
    for (int begin = 0; begin < run_steps; begin += kAhead) {
      int pages[kAhead];
#pragma unroll
      for (int x = 0; x < kAhead; ++x) pages[x] = ahead[x];
      look_ahead(begin + kAhead, ahead);
      int before[kAhead];
#pragma unroll
      for (int x = 0; x < kAhead; ++x) {
        if (begin + x >= run_steps) break;
        if (static_cast<int>(threadIdx.x) < count[begin + x]) {
          before[x] = last_loaded[pages[x]];
          last_loaded[pages[x]] = position[begin + x];
        }
        const int64_t list = row(run + begin + x) * params.lists.capacity;
        for (int c = threadIdx.x + kThreads; c < count[begin + x]; c += kThreads) {
          const int page = params.lists.pages[list + c];
          params.previous[list + c] = last_loaded[page];
          last_loaded[page] = position[begin + x];
        }
        // The next step's thread for a page may be another one.
        __syncthreads();
      }
      // Not before: a barrier waits for what was written to memory.
#pragma unroll
      for (int x = 0; x < kAhead; ++x)
        if (begin + x < run_steps && static_cast<int>(threadIdx.x) < count[begin + x])
          params.previous[row(run + begin + x) * params.lists.capacity + threadIdx.x] = before[x];
    }
  }
  if (in_shared)
    for (int p = threadIdx.x; p < params.n_pages; p += kThreads) kept[p] = shared_loads[p];
}

}  // namespace

cudaError_t note_loads(const NoteLoadsParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  constexpr int64_t most = 48 * 1024 - 2 * kRun * sizeof(int);  // that a block gets without asking
  const int64_t bytes = static_cast<int64_t>(params.n_pages) * static_cast<int64_t>(sizeof(int32_t));
  const bool in_shared = bytes <= most && params.n_steps > 1;
  const dim3 grid(params.n_sequences, params.n_units);
  if (in_shared)
    note_loads_kernel<true><<<grid, kThreads, static_cast<size_t>(bytes), stream>>>(params);
  else
    note_loads_kernel<false><<<grid, kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
