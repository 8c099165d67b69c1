// Attention over page lists for a window of queries: a block takes one (row, unit), and up to 64 of its w*G
// query rows (of streams, 16); on tensor cores where it can, else (float, wide heads, odd pages) without.

#include <algorithm>
#include <climits>

#include "kernels/mma_attention.cuh"
#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

/// Query row r of a unit is head r % heads of slot r / heads.
struct WindowProblem {
  const AttendParams& params;
  Step step;
  int64_t list_row;  ///< i * U + unit
  int unit_heads;    ///< query heads of the unit
  int first_q_head;
  int first_row, n_rows;
  int listed;  ///< pages
  int i;

  __device__ int rows() const { return n_rows; }
  __device__ QueryRow row(int r) const {
    const int slot = (first_row + r) / unit_heads, q_head = first_q_head + (first_row + r) % unit_heads;
    const int position = step.position - slot;
    return {step.sequence,
            position,
            q_head,
            slot < step.window_rows ? position : -1,
            slot == 0 ? INT_MAX : position,
            (static_cast<int64_t>(i) * params.window + slot) * params.heads.n_q_heads + q_head};
  }
  __device__ int tokens() const { return listed * params.kv.page_size; }
  __device__ Token token(int x) const {
    const int c = x / params.kv.page_size, offset = x % params.kv.page_size;
    const int64_t at = list_row * params.lists.capacity + c;
    const int page = params.lists.pages[at];
    return {page * params.kv.page_size + offset, params.window > 1 ? params.previous[at] : -1, page};
  }
  __device__ int last_position() const { return step.position; }
  __device__ int sequence() const { return step.sequence; }
  __device__ int kv_head() const { return first_q_head / (params.heads.n_q_heads / params.heads.n_kv_heads); }
};

constexpr int kMostWindowRows = kMaxGroup * kMaxWindow;

/// Tokens that a block attends to in the time that combining splits takes.
constexpr int64_t kCombinedTokens = 256;

int unit_heads(const AttendParams& params) {
  return params.per_kv_head ? params.heads.n_q_heads / params.heads.n_kv_heads : 1;
}
int64_t items(const AttendParams& params) {
  return static_cast<int64_t>(params.n_steps) * params.window * params.heads.n_q_heads;
}

/// What a block of M query rows has to do.
template <int M>
__device__ WindowProblem window_problem(const AttendParams& params) {
  const int unit_heads = params.per_kv_head ? params.heads.n_q_heads / params.heads.n_kv_heads : 1;
  const int n_units = params.heads.n_q_heads / unit_heads;
  const int i = blockIdx.x, unit = blockIdx.y % n_units, first_row = blockIdx.y / n_units * M;
  const int64_t list_row = static_cast<int64_t>(i) * n_units + unit;
  return {params,
          params.steps[i],
          list_row,
          unit_heads,
          unit * unit_heads,
          first_row,
          min(M, params.window * unit_heads - first_row),
          params.lists.count[list_row],
          i};
}

template <class T, int D, int M>
__global__ __launch_bounds__(kAttentionThreads) void attend_kernel(
    const __grid_constant__ AttendParams params, SplitTarget target) {
  attend_tile<T, D, M>(window_problem<M>(params), params.heads, params.kv, params.q, params.scale, blockIdx.z,
                       gridDim.z, target);
}

template <class T, int D, int R>
__global__ __launch_bounds__(kMmaThreads<R>) void attend_mma_kernel(
    const __grid_constant__ AttendParams params, SplitTarget target) {
  attend_tile_mma<T, D, R>(window_problem<R>(params), params.heads, params.kv, params.q, params.scale,
                           blockIdx.z, gridDim.z, target);
}

/// Asks the L2 cache, which shows what is written later, for what a block looks up first.
template <class T, int D>
__device__ void prefetch_inputs(const AttendParams& params) {
  constexpr int line = 128;
  const int heads = params.per_kv_head ? params.heads.n_q_heads / params.heads.n_kv_heads : 1;
  const int units = params.heads.n_q_heads / heads, unit = blockIdx.y % units, x = threadIdx.x;
  const Step step = params.steps[blockIdx.x];
  const int64_t list = static_cast<int64_t>(blockIdx.x) * units + unit;
  constexpr int row_lines = ceil_div(D * static_cast<int>(sizeof(T)), line);
  if (params.q.rows_are_old && x < kStreamRows * row_lines) {
    const int row = blockIdx.y / units * kStreamRows + x / row_lines, slot = row / heads;
    if (slot < min(params.window, step.window_rows))
      prefetch(
          query<T>(params.q, params.heads, step.sequence, step.position - slot, unit * heads + row % heads) +
          x % row_lines * (line / static_cast<int>(sizeof(T))));
  }
  if (x * line < params.lists.capacity * static_cast<int>(sizeof(int32_t)))
    prefetch(params.lists.pages + list * params.lists.capacity + x * (line / 4));
  if (x == 0) prefetch(params.lists.count + list);
}

template <class T, int D, int N>
__global__ __launch_bounds__(kStreamThreads) void attend_stream_kernel(
    const __grid_constant__ AttendParams params, StreamTarget target, Divisor chunks_of_page) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<StreamShared<T, D>*>(shared_bytes);
  auto* const pages = reinterpret_cast<StreamPage*>(shared_bytes + sizeof(StreamShared<T, D>));
  let_next_grid_start();
  prefetch_inputs<T, D>(params);
  wait_for_previous_grid();
  const WindowProblem problem = window_problem<kStreamRows>(params);
  const int page_chunks = chunks_of_page.divisor;
  const int split_chunks = ceil_div(problem.listed * page_chunks, static_cast<int>(gridDim.z));
  const StreamPart part{static_cast<int>(blockIdx.z) * split_chunks,
                        min(problem.listed * page_chunks, static_cast<int>(blockIdx.z + 1) * split_chunks),
                        static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z),
                        static_cast<int>(blockIdx.x * gridDim.y + blockIdx.y)};
  const int first = chunks_of_page.divide(part.first),
            end = chunks_of_page.divide(max(part.end, 0) + page_chunks - 1);
  // The youngest query of the rows: it has been shown the least, and may see the most.
  const QueryRow youngest = problem.row(0);
  attend_stream<N>(
      problem, params.heads, params.kv, params.q, params.scale, part, target, shared,
      [&] {
        for (int x = first + threadIdx.x; x < end; x += kStreamThreads) {
          const Token token = problem.token(x * params.kv.page_size);
          pages[x - first] = {token.page, token.previous,
                              static_cast<int>(pool_page(params.kv, problem.sequence(), token.page))};
        }
      },
      [&](int chunk) {
#pragma unroll 1
        for (; chunk < part.end; chunk += kStreamWarps) {
          const int place = chunks_of_page.divide(chunk);
          const StreamPage page = pages[place - first];
          const int offset = (chunk - place * page_chunks) * kChunk,
                    position = page.page * params.kv.page_size + offset;
          if (page.previous < youngest.unseen_before && position <= youngest.last_visible)
            return Place{chunk, position, page.previous, page.pool, offset};
        }
        return kNoPlace;
      });
}

}  // namespace

// The window must not count: with or without past queries, a row's own result is the same bit for bit.
AttendPlan plan_attend(const AttendParams& params, int32_t multiprocessors) {
  const int64_t blocks = static_cast<int64_t>(params.n_steps) * params.heads.n_q_heads / unit_heads(params);
  const int64_t tokens = static_cast<int64_t>(params.lists.capacity) * params.kv.page_size;
  const int64_t n_items = items(params);
  const int64_t most_problems = blocks * ceil_div(kMostWindowRows, kStreamRows);  // tiles of rows, whatever w
  if (blocks <= multiprocessors && most_problems <= kStreamProblems && streams(params.heads, params.kv)) {
    // A block has tokens for half of its warps at least; and to combine splits takes as long as to attend to
    // kCombinedTokens more.
    const int64_t fewest_tokens = kStreamWarps * kChunk / 2;
    int64_t splits =
        std::clamp<int64_t>(std::min(multiprocessors / blocks, tokens / fewest_tokens), 1, kMostSplits);
    if (tokens - tokens / splits <= kCombinedTokens) splits = 1;
    if (ceil_div(params.lists.capacity, splits) + 3 <= kStreamPages)
      return {true, split_plan(splits, n_items, params.heads.head_dim)};
  }
  return {false, plan_splits(blocks, tokens, n_items, params.heads.head_dim, multiprocessors)};
}

cudaError_t attend(const AttendParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  const int rows = params.window * unit_heads(params);
  const int n_units = params.heads.n_q_heads / unit_heads(params);
  const auto grid = [&](int tile_rows) {
    return dim3(params.n_steps, n_units * ceil_div(rows, tile_rows), params.splits);
  };
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kMmaTakes<T, D>) {
      if (params.is_stream)
        return dispatch_stream_tiles(rows, [&](auto tiles) {
          const dim3 blocks = grid(kStreamRows);
          const int shared_bytes =
              static_cast<int>(sizeof(StreamShared<T, D>) +
                               sizeof(StreamPage) * (ceil_div(params.lists.capacity, params.splits) + 3));
          return launch_stream(attend_stream_kernel<T, D, tiles()>, blocks, shared_bytes, params,
                               static_cast<int64_t>(blocks.x) * blocks.y, items(params), D, stream);
        });
      if (takes_mma(params.kv))
        return dispatch_mma_rows(rows, [&](auto tile) {
          constexpr int R = tile();
          return launch_with_splits(attend_mma_kernel<T, D, R>, grid(R), kMmaThreads<R>,
                                    static_cast<int>(sizeof(MmaShared<T, D, R>)), params, items(params), D,
                                    stream);
        });
    }
    if (rows <= kSmallTile)
      return launch_attention<D, kSmallTile>(attend_kernel<T, D, kSmallTile>, grid(kSmallTile), params,
                                             items(params), stream);
    return launch_attention<D, kLargeTile>(attend_kernel<T, D, kLargeTile>, grid(kLargeTile), params,
                                           items(params), stream);
  });
}

}  // namespace hindsight::kernels
