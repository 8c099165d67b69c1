// Dense attention: a block takes a KV head and the G heads of a few neighbouring steps, which share the keys
// they read.

#include <algorithm>
#include <climits>

#include "kernels/mma_attention.cuh"
#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

/// Query row r is head r % G of step first + r / G; steps [first, last) belong to one sequence, ascending.
struct DenseProblem {
  const DenseParams& params;
  int first, last, kv;
  int group;

  __device__ int rows() const { return (last - first) * group; }
  __device__ QueryRow row(int r) const {
    const int i = first + r / group, q_head = kv * group + r % group;
    const int position = params.steps[i].position;
    return {params.steps[i].sequence,
            position,
            q_head,
            position,
            INT_MAX,
            static_cast<int64_t>(i) * params.heads.n_q_heads + q_head};
  }
  __device__ int tokens() const { return last_position() + 1; }
  __device__ Token token(int x) const { return {x, -1, x / params.kv.page_size}; }
  __device__ int last_position() const { return params.steps[last - 1].position; }
  __device__ int sequence() const { return params.steps[first].sequence; }
  __device__ int kv_head() const { return kv; }
};

/// Calls attend(problem) for every sequence of the block's steps.
template <class F>
__device__ void for_each_sequence(const DenseParams& params, F&& attend) {
  const int first = blockIdx.x * params.steps_per_tile;
  const int last = min(first + params.steps_per_tile, params.n_steps);
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
  for (int begin = first; begin < last;) {
    int end = begin + 1;
    while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
    attend(DenseProblem{params, begin, end, static_cast<int>(blockIdx.y), group});
    begin = end;
  }
}

template <class T, int D, int M>
__global__ __launch_bounds__(kAttentionThreads) void dense_kernel(const __grid_constant__ DenseParams params,
                                                                  SplitTarget target) {
  for_each_sequence(params, [&](const DenseProblem& problem) {
    attend_tile<T, D, M>(problem, params.heads, params.kv, params.q, params.scale, blockIdx.z, gridDim.z,
                         target);
  });
}

template <class T, int D, int R>
__global__ __launch_bounds__(kMmaThreads<R>) void dense_mma_kernel(const __grid_constant__ DenseParams params,
                                                                   SplitTarget target) {
  for_each_sequence(params, [&](const DenseProblem& problem) {
    attend_tile_mma<T, D, R>(problem, params.heads, params.kv, params.q, params.scale, blockIdx.z, gridDim.z,
                             target);
  });
}

__device__ int chunks_of(const Step& step) { return step.position / kChunk + 1; }

/// The chunks of all steps and KV heads, one after another, shared out evenly: a block may end one problem
/// and begin the next, so that all have the same to do whatever the lengths.
struct SharedChunks {
  int share;  ///< of a block
  int total;

  /// All lanes of a warp call. A problem is met by at most `splits` blocks.
  __device__ SharedChunks(const DenseParams& params, int blocks) {
    const int lane = threadIdx.x % 32;
    int sum = 0, longest = 0, shortest = INT_MAX;
    for (int i = lane; i < params.n_steps; i += 32) {
      const int chunks = chunks_of(params.steps[i]);
      sum += chunks;
      longest = max(longest, chunks);
      shortest = min(shortest, chunks);
    }
    total = static_cast<int>(__reduce_add_sync(~0u, sum)) * params.heads.n_kv_heads;
    longest = __reduce_max_sync(~0u, longest);
    shortest = __reduce_min_sync(~0u, shortest);
    share = max(ceil_div(total, blocks), kStreamWarps);
    if (params.splits > 2) share = max(share, ceil_div(longest, params.splits - 2));
    // To begin a problem costs a block about as much as a few chunks: equal problems may rather be cut
    // evenly.
    const int parts = blocks / (params.n_steps * params.heads.n_kv_heads);
    if (parts > 0 && longest == shortest && ceil_div(longest, parts) <= share + kProblemChunks)
      share = max(share, ceil_div(longest, parts));
    if (params.splits <= 2) share = max(share, longest);
  }
  static constexpr int kProblemChunks = 8;
};

template <class T, int D, int N>
__global__ __launch_bounds__(kStreamThreads) void dense_stream_kernel(
    const __grid_constant__ DenseParams params, StreamTarget target, Divisor page_chunks) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<StreamShared<T, D>*>(shared_bytes);
  let_next_grid_start();
  const int heads = params.heads.n_kv_heads, group = params.heads.n_q_heads / heads;
  // Heads of a single sequence have blocks of their own, (part, head) of the grid; else blocks are in a row.
  const bool single = params.n_steps == 1;
  int at, end, share, step = 0, before = 0;  // before: chunks of earlier steps, of all heads
  if (single) {
    const int chunks = chunks_of(params.steps[0]), first = static_cast<int>(blockIdx.y) * chunks;
    share = max(ceil_div(chunks, static_cast<int>(gridDim.x)), kStreamWarps);
    at = first + static_cast<int>(blockIdx.x) * share;
    end = min(at + share, first + chunks);
  } else {
    const SharedChunks all(params, gridDim.x);
    share = all.share;
    at = static_cast<int>(blockIdx.x) * share;
    end = min(at + share, all.total);
    if (at < end)
      for (int chunks; before + (chunks = chunks_of(params.steps[step]) * heads) <= at; ++step)
        before += chunks;
  }
  wait_for_previous_grid();
  while (at < end) {
    const int chunks = chunks_of(params.steps[step]),
              head = single ? static_cast<int>(blockIdx.y) : (at - before) / chunks;
    const int problem_begin = before + head * chunks, problem_end = problem_begin + chunks;
    const int first_block = single ? 0 : problem_begin / share,
              end_block = single ? ceil_div(chunks, share) : (problem_end - 1) / share + 1;
    const StreamPart part{at - problem_begin, min(end, problem_end) - problem_begin,
                          static_cast<int>(blockIdx.x) - first_block, end_block - first_block,
                          step * heads + head};
    const DenseProblem problem{params, step, step + 1, head, group};
    const int32_t* const table = params.kv.table + problem.sequence() * params.kv.table_stride;
    // A chunk's pool page is looked up a chunk earlier: the table may be as far away as the keys.
    const auto look_up = [&](int chunk) { return table[page_chunks.divide(min(chunk, part.end - 1))]; };
    int upcoming = look_up(part.first + static_cast<int>(threadIdx.x) / 32);
    __syncthreads();  // the block may be done with an earlier problem only in part
    attend_stream<N>(
        problem, params.heads, params.kv, params.q, params.scale, part, target, shared, [] {},
        [&](int chunk) {
          if (chunk >= part.end) return kNoPlace;
          const int pool = upcoming, offset = chunk - page_chunks.divide(chunk) * page_chunks.divisor;
          upcoming = look_up(chunk + kStreamWarps);
          return Place{chunk, chunk * kChunk, -1, pool, offset * kChunk};
        });
    at = problem_begin + part.end;
    if (head == heads - 1 && at == problem_end) {
      before = problem_end;
      ++step;
    }
  }
}

int group(const DenseParams& params) { return params.heads.n_q_heads / params.heads.n_kv_heads; }
int64_t items(const DenseParams& params) {
  return static_cast<int64_t>(params.n_steps) * params.heads.n_q_heads;
}

dim3 stream_grid(const DenseParams& params) {
  if (params.n_steps > 1) return dim3(params.stream_blocks);
  const int parts = std::clamp(params.stream_blocks / params.heads.n_kv_heads, 1, params.splits);
  return dim3(parts, params.heads.n_kv_heads);
}

}  // namespace

DensePlan plan_dense(const DenseParams& params, int64_t longest, bool adjacent_share_sequence,
                     int32_t multiprocessors) {
  const int64_t problems = static_cast<int64_t>(params.n_steps) * params.heads.n_kv_heads;
  if (!adjacent_share_sequence && group(params) <= 16 && problems <= kStreamProblems &&
      streams(params.heads, params.kv)) {
    // The longest sequence may have nearly all chunks, and every block of its heads begin and end in another.
    const int splits = std::min(kMostSplits, multiprocessors / params.heads.n_kv_heads + 2);
    return {1, multiprocessors, split_plan(splits, items(params), params.heads.head_dim)};
  }
  const int steps_per_tile = adjacent_share_sequence ? kLargeTile / group(params) : 1;
  const int64_t blocks =
      static_cast<int64_t>(ceil_div(params.n_steps, steps_per_tile)) * params.heads.n_kv_heads;
  return {steps_per_tile, 0,
          plan_splits(blocks, longest, items(params), params.heads.head_dim, multiprocessors)};
}

cudaError_t dense(const DenseParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  const dim3 grid(ceil_div(params.n_steps, params.steps_per_tile), params.heads.n_kv_heads, params.splits);
  const bool small = params.steps_per_tile * group(params) <= kSmallTile;
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    const auto launch_tile = [&](auto tile) {
      constexpr int M = tile();
      if constexpr (kMmaTakes<T, D>) {
        if (params.stream_blocks > 0)
          return dispatch_stream_tiles(group(params), [&](auto tiles) {
            return launch_stream(dense_stream_kernel<T, D, tiles()>, stream_grid(params),
                                 static_cast<int>(sizeof(StreamShared<T, D>)), params,
                                 static_cast<int64_t>(params.n_steps) * params.heads.n_kv_heads,
                                 items(params), D, stream);
          });
        if (takes_mma(params.kv))
          return launch_with_splits(dense_mma_kernel<T, D, M>, grid, kMmaThreads<M>,
                                    static_cast<int>(sizeof(MmaShared<T, D, M>)), params, items(params), D,
                                    stream);
      }
      return launch_attention<D, M>(dense_kernel<T, D, M>, grid, params, items(params), stream);
    };
    if (small) return launch_tile(std::integral_constant<int, kSmallTile>{});
    return launch_tile(std::integral_constant<int, kLargeTile>{});
  });
}

}  // namespace hindsight::kernels
