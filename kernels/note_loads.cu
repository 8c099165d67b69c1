// Bookkeeping of loads: a block per (sequence, unit) walks that sequence's steps in order, a thread per
// listed page. Where the unit's last loads fit into shared memory they are walked through there, and the
// next step's pages are on their way meanwhile: a step then costs a barrier, not two trips to memory.

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void note_loads_kernel(NoteLoadsParams params, bool in_shared) {
  extern __shared__ int32_t shared_loads[];
  const int sequence = blockIdx.x, unit = blockIdx.y;
  int32_t* const kept =
      params.last_loaded + (static_cast<int64_t>(sequence) * params.n_units + unit) * params.n_pages;
  int32_t* const last_loaded = in_shared ? shared_loads : kept;
  if (in_shared)
    for (int page = threadIdx.x; page < params.n_pages; page += kThreads) shared_loads[page] = kept[page];
  __syncthreads();

  // Of the step at hand: its list, and the thread's first page of it (-1 for none).
  const auto row = [&](int i) { return static_cast<int64_t>(i) * params.n_units + unit; };
  const auto listed = [&](int i) {
    return i < params.n_steps && params.steps[i].sequence == sequence ? params.lists.count[row(i)] : 0;
  };
  const auto page_of = [&](int i, int c, int count) {
    return c < count ? params.lists.pages[row(i) * params.lists.capacity + c] : -1;
  };
  const int own = threadIdx.x;
  int count = listed(0), page = page_of(0, own, count), next_count = listed(1);
  for (int i = 0; i < params.n_steps; ++i) {
    const int next_page = page_of(i + 1, own, next_count), after_next = listed(i + 2);
    const int32_t position = params.steps[i].position;
    int32_t* const previous = params.previous + row(i) * params.lists.capacity;
    for (int c = own; c < count; c += kThreads) {
      if (c != own) page = page_of(i, c, count);
      previous[c] = last_loaded[page];
      last_loaded[page] = position;
    }
    // The next step's thread for a page may be another one.
    __syncthreads();
    count = next_count;
    page = next_page;
    next_count = after_next;
  }
  if (in_shared)
    for (int p = threadIdx.x; p < params.n_pages; p += kThreads) kept[p] = shared_loads[p];
}

}  // namespace

cudaError_t note_loads(const NoteLoadsParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  constexpr int64_t most = 48 * 1024;  // that a block gets without asking
  const int64_t bytes = static_cast<int64_t>(params.n_pages) * static_cast<int64_t>(sizeof(int32_t));
  const bool in_shared = bytes <= most && params.n_steps > 1;
  note_loads_kernel<<<dim3(params.n_sequences, params.n_units), kThreads,
                      in_shared ? static_cast<size_t>(bytes) : 0, stream>>>(params, in_shared);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
