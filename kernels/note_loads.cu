// Bookkeeping of loads: a block takes the pages of a (sequence, unit), or a slice of them. It notes which of
// up to 256 steps lists which page, a bit each; the step before that loaded a page is then the next lower
// bit, found for all steps at once. To walk from step to step instead took a barrier for each.

#include <algorithm>

#include "kernels/dispatch.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kRun = 256;        // steps that are noted at once
constexpr int kRunWords = 4096;  // of bits, in shared memory
constexpr int kPagesAtOnce = 4;  // that a thread reads before it looks at any

/// Which steps of a run list which pages of a slice.
struct RunBits {
  uint32_t* words;  ///< [step / 32][page]: a warp has pages of one step, in banks of their own
  int slice_pages;

  __device__ void add(int step, int page) const {
    atomicOr(&words[step / 32 * slice_pages + page], 1u << step % 32);
  }
  /// The last step before `end` that lists the page; -1 if none does.
  __device__ int last_before(int end, int page) const {
    for (int word = ceil_div(end, 32) - 1; word >= 0; --word) {
      const int held = min(32, end - word * 32);
      const uint32_t steps = words[word * slice_pages + page] & (~0u >> (32 - held));
      if (steps != 0) return word * 32 + 31 - __clz(static_cast<int>(steps));
    }
    return -1;
  }
};

__global__ __launch_bounds__(kThreads) void note_loads_kernel(NoteLoadsParams params, int slice_pages) {
  __shared__ uint32_t words[kRunWords];
  __shared__ int32_t last_loaded[kRunWords];  // before the run; a slice has as many pages at most
  __shared__ int count[kRun], position[kRun];
  const int sequence = blockIdx.x, unit = blockIdx.y;
  const int first_page = static_cast<int>(blockIdx.z) * slice_pages;
  const int n_pages = min(slice_pages, params.n_pages - first_page);
  int32_t* const kept = params.last_loaded +
                        (static_cast<int64_t>(sequence) * params.n_units + unit) * params.n_pages +
                        first_page;
  const RunBits bits{words, slice_pages};
  for (int page = threadIdx.x; page < n_pages; page += kThreads) last_loaded[page] = kept[page];

  for (int run = 0; run < params.n_steps; run += kRun) {
    const int run_steps = min(kRun, params.n_steps - run);
    for (int x = threadIdx.x; x < ceil_div(run_steps, 32) * slice_pages; x += kThreads) words[x] = 0;
    for (int x = threadIdx.x; x < run_steps; x += kThreads) {
      const Step step = params.steps[run + x];
      count[x] = step.sequence == sequence
                     ? params.lists.count[static_cast<int64_t>(run + x) * params.n_units + unit]
                     : 0;
      position[x] = step.position;
    }
    __syncthreads();

    // Calls f(step, page of the slice, where it is listed).
    const auto for_listed_pages = [&](auto&& f) {
      for (int step = threadIdx.x / 32; step < run_steps; step += kWarps) {
        const int64_t list =
            (static_cast<int64_t>(run + step) * params.n_units + unit) * params.lists.capacity;
        for (int begin = threadIdx.x % 32; begin < count[step]; begin += 32 * kPagesAtOnce) {
          int pages[kPagesAtOnce];
#pragma unroll
          for (int x = 0; x < kPagesAtOnce; ++x)
            pages[x] =
                begin + 32 * x < count[step] ? params.lists.pages[list + begin + 32 * x] - first_page : -1;
#pragma unroll
          for (int x = 0; x < kPagesAtOnce; ++x)
            if (pages[x] >= 0 && pages[x] < n_pages) f(step, pages[x], list + begin + 32 * x);
        }
      }
    };
    for_listed_pages([&](int step, int page, int64_t) { bits.add(step, page); });
    __syncthreads();
    for_listed_pages([&](int step, int page, int64_t at) {
      const int before = bits.last_before(step, page);
      params.previous[at] = before >= 0 ? position[before] : last_loaded[page];
    });
    __syncthreads();
    for (int page = threadIdx.x; page < n_pages; page += kThreads)
      if (const int last = bits.last_before(run_steps, page); last >= 0) last_loaded[page] = position[last];
    __syncthreads();
  }
  for (int page = threadIdx.x; page < n_pages; page += kThreads) kept[page] = last_loaded[page];
}

}  // namespace

cudaError_t note_loads(const NoteLoadsParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  const int slice_pages = kRunWords / ceil_div(std::min(params.n_steps, kRun), 32);
  note_loads_kernel<<<dim3(params.n_sequences, params.n_units, ceil_div(params.n_pages, slice_pages)),
                      kThreads, 0, stream>>>(params, slice_pages);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
