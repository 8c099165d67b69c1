// Bookkeeping of loads: a block per (sequence, unit) walks that sequence's steps in order, a thread per
// listed page.

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void note_loads_kernel(NoteLoadsParams params) {
  const int sequence = blockIdx.x, unit = blockIdx.y;
  int32_t* last_loaded =
      params.last_loaded + (static_cast<int64_t>(sequence) * params.n_units + unit) * params.n_pages;
  for (int i = 0; i < params.n_steps; ++i) {
    const Step step = params.steps[i];
    if (step.sequence != sequence) continue;
    const int64_t row = static_cast<int64_t>(i) * params.n_units + unit;
    const int32_t* pages = params.lists.pages + row * params.lists.capacity;
    int32_t* previous = params.previous + row * params.lists.capacity;
    for (int c = threadIdx.x; c < params.lists.count[row]; c += kThreads) {
      const int page = pages[c];
      previous[c] = last_loaded[page];
      last_loaded[page] = step.position;
    }
    // The next step's thread for a page may be another one.
    __syncthreads();
  }
}

}  // namespace

cudaError_t note_loads(const NoteLoadsParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  note_loads_kernel<<<dim3(params.n_sequences, params.n_units), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
