// Counts of page sets: a block per (row, unit). Sums are of integers, so their order does not matter.

#include <cmath>

#include "kernels/dispatch.cuh"
#include "kernels/score_order.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxColumns = kSelectionShown + kMaxWindow;

/// A set of pages as bits in shared memory.
struct PageBits {
  uint32_t* words;
  __device__ void add(int page) const { atomicOr(&words[page / 32], 1u << page % 32); }
  __device__ bool has(int page) const { return words[page / 32] >> page % 32 & 1; }
};

/// Ranks of new pages among the scores of the step before. The new pages are put in order; every page then
/// finds by halving how many of them it beats, and a new page's rank is how many beat it.
struct NewPages {
  int n;
  uint64_t order[kThreads];   ///< as they came
  uint64_t sorted[kThreads];  ///< the worst first
  int beaten[kThreads + 1];   ///< pages that beat so many of them and no more

  /// All threads call; `add(rank)` by one thread for each new page.
  template <class F>
  __device__ void rank(const float* scores, int n_pages, const F& add) {
    const int own = threadIdx.x;
    int worse = 0;
    if (own < n)
      for (int x = 0; x < n; ++x) worse += order[x] < order[own];
    if (own < n) sorted[worse] = order[own];
    for (int x = own; x <= n; x += kThreads) beaten[x] = 0;
    __syncthreads();
    int halves = 1;
    while (halves <= n) halves *= 2;
    for (int page = own; page < n_pages; page += kThreads) {
      const uint64_t key = score_order(scores[page], page);
      int beats = 0;
      for (int step = halves / 2; step > 0; step /= 2)
        if (beats + step <= n && sorted[beats + step - 1] < key) beats += step;
      if (beats > 0) atomicAdd(&beaten[beats], 1);
    }
    __syncthreads();
    if (own < n) {
      int better = 0;
      for (int x = own + 1; x <= n; ++x) better += beaten[x];
      add(better);
    }
  }
};

__global__ __launch_bounds__(kThreads) void count_selection_kernel(CountSelectionParams params) {
  extern __shared__ uint32_t bits[];
  __shared__ int counts[kMaxColumns];
  __shared__ NewPages fresh;
  const int i = blockIdx.x, unit = blockIdx.y, words = ceil_div(params.n_pages, 32);
  const int64_t row = static_cast<int64_t>(i) * params.n_units + unit;
  const Step step = params.steps[i];
  const PageBits own{bits}, lower{bits + words};
  const int first_unit = unit / params.units_per_kv_head * params.units_per_kv_head;
  const auto listed = [&](const PageLists& lists, int64_t at) { return lists.pages + at * lists.capacity; };
  const auto visible = [&](int page, int position) {
    return min(max(position + 1 - page * params.page_size, 0), params.page_size);
  };

  for (int x = threadIdx.x; x < 2 * words; x += kThreads) bits[x] = 0;
  for (int x = threadIdx.x; x < kMaxColumns; x += kThreads) counts[x] = 0;
  __syncthreads();
  const int loaded = params.loaded.count[row];
  const int32_t* const pages = listed(params.loaded, row);
  for (int c = threadIdx.x; c < loaded; c += kThreads) own.add(pages[c]);
  for (int other = first_unit; other < unit; ++other) {
    const int64_t at = row - unit + other;
    for (int c = threadIdx.x; c < params.loaded.count[at]; c += kThreads)
      lower.add(listed(params.loaded, at)[c]);
  }
  __syncthreads();

  const int before = params.count_before[row];
  const float* const scores =
      params.scores_before == nullptr ? nullptr : params.scores_before + row * params.n_pages;
  const int slots = min(params.window, step.window_rows);
  for (int begin = 0; begin < loaded; begin += kThreads) {
    if (threadIdx.x == 0) fresh.n = 0;
    __syncthreads();
    const int c = begin + static_cast<int>(threadIdx.x);
    const bool mine = c < loaded;
    const int page = mine ? pages[c] : 0;
    const int previous = mine ? params.previous[row * params.loaded.capacity + c] : step.position;
    const auto add = [&](int column, int value) {
      const int sum = __reduce_add_sync(~0u, value);
      if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(&counts[column], sum);
    };
    const bool kept = mine && before > 0 && previous == step.position - 1;
    add(kSelectionKept, kept);
    add(kSelectionOwnTokens, mine && !lower.has(page) ? visible(page, step.position) : 0);
    for (int s = 0; s < slots; ++s) {
      const int position = step.position - s;
      const bool shown = mine && (s == 0 || previous < position);
      add(kSelectionShown + s, shown ? visible(page, position) : 0);
    }
    if (scores != nullptr && before > 0 && mine && !kept && scores[page] != -INFINITY)
      fresh.order[atomicAdd(&fresh.n, 1)] = score_order(scores[page], page);
    __syncthreads();
    if (fresh.n > 0)
      fresh.rank(scores, params.n_pages, [&](int better) {
        atomicAdd(&counts[kSelectionLateRanks + min(better / before, kLateRankBins - 1)], 1);
      });
    __syncthreads();
  }

  const int best = params.best.count[row];
  for (int begin = 0; begin < best; begin += kThreads) {
    const int c = begin + static_cast<int>(threadIdx.x);
    const int found = __reduce_add_sync(~0u, c < best && own.has(listed(params.best, row)[c]));
    if (threadIdx.x % 32 == 0 && found != 0) atomicAdd(&counts[kSelectionBestLoaded], found);
  }
  if (threadIdx.x == 0) {
    counts[kSelectionLoaded] = loaded;
    counts[kSelectionBest] = best;
  }
  __syncthreads();
  const int columns = kSelectionShown + params.window;
  for (int x = threadIdx.x; x < columns; x += kThreads) params.counts[row * columns + x] = counts[x];
}

}  // namespace

cudaError_t count_selection(const CountSelectionParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.window < 1 || params.window > kMaxWindow) return cudaErrorInvalidValue;
  const int shared_bytes = 2 * ceil_div(params.n_pages, 32) * static_cast<int>(sizeof(uint32_t));
  count_selection_kernel<<<dim3(params.n_steps, params.n_units), kThreads, shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace hindsight::kernels
