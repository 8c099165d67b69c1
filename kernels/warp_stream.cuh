#pragma once
// Attention of few rows over many tokens, as a decode step has it: a warp streams chunks of 16 tokens through
// buffers of its own, with no barrier among warps, and several chunks under way. In the end the warps of 16
// rows leave their results in the buffers, to be added up.

#include <climits>

#include "kernels/cluster.cuh"
#include "kernels/divisor.cuh"
#include "kernels/early.cuh"
#include "kernels/warp_attention.cuh"

namespace hindsight::kernels {

/// Rows of results: four lanes' rows and eight lanes' elements meet all banks.
template <int D>
inline constexpr int kResultStride = D + 4;

/// A warp's chunk of keys and values; in the end its result.
template <class T, int D>
union WarpBuffer {
  struct {
    ChunkTile<T, D> k, v;
  };
  float out[16][kResultStride<D>];
};

/// A chunk to attend to: its number (INT_MAX: there is none), its first token's position, the last load of
/// its page before this step, the pool page, and the first token's place in the page.
struct Place {
  int chunk, position, previous, pool, offset;
};
inline constexpr Place kNoPlace{INT_MAX, 0, 0, 0, 0};

/// Attends to the places that next(chunk) gives for chunk, chunk + stride, ... until kNoPlace; next may skip
/// places. `q` holds `held` rows. `buffers` are Ahead pointers. Tokens of a place exist up to last_position.
/// Once the first places are being read, calls ready(), after which the queries must be there.
template <int Ahead, class T, int D, int N, class Next, class Ready>
__device__ void stream_chunks(WarpAttention<T, D, N>& mine, const T (*q)[kMmaStride<D>], int held,
                              const Heads& heads, const PagedKv& kv, int kv_head, int last_position,
                              float scale, const VisibleRows<N>& rows,
                              WarpBuffer<T, D>* const (&buffers)[Ahead], int chunk, int stride, Next&& next,
                              Ready&& ready) {
  static_assert(Ahead == 1 || Ahead == 2);
  constexpr int row_vectors = D / kVec<T>;
  constexpr float log2_e = 1.4426950408889634f;
  const int lane = threadIdx.x % 32;
  const auto read = [&](const Place& place, const void* from, ChunkTile<T, D>& to) {
    if (place.chunk != INT_MAX) {
      const int tokens = last_position + 1 - place.position;
      const T* rows_of_place = static_cast<const T*>(from) +
                               token_row(kv, heads.n_kv_heads, place.pool, kv_head, place.offset) * D;
#pragma unroll
      for (int x = 0; x < kChunk * row_vectors / 32; ++x) {
        const int vector = x * 32 + lane, n = vector / row_vectors;
        // Weights of tokens that do not exist are 0, but 0 times whatever lies there could be NaN.
        copy_async(to.address(n, vector % row_vectors), rows_of_place + vector * kVec<T>, n < tokens);
      }
    }
    commit_copies();  // also an empty group: the number of groups tells what has arrived
  };
  static_assert(kChunk * row_vectors % 32 == 0);

  Place place[Ahead];
#pragma unroll
  for (int x = 0; x < Ahead; ++x) {
    place[x] = x > 0 && place[0].chunk == INT_MAX ? kNoPlace : next(x == 0 ? chunk : place[0].chunk + stride);
    read(place[x], kv.k, buffers[x]->k);
    read(place[x], kv.v, buffers[x]->v);
  }
  ready();
  mine.take_queries(q, held);
#pragma unroll 1
  for (int turn = 0; place[0].chunk != INT_MAX; ++turn) {
    const Place now = place[0], last = place[Ahead - 1];
    const Place after = last.chunk == INT_MAX ? kNoPlace : next(last.chunk + stride);
    WarpBuffer<T, D>& buffer = *(Ahead == 1 || turn % 2 == 0 ? buffers[0] : buffers[Ahead - 1]);
    int visible[N][2];
#pragma unroll
    for (int x = 0; x < 2 * N; ++x)
      visible[x / 2][x % 2] = now.previous < rows.unseen_before[x / 2][x % 2]
                                  ? rows.last_visible[x / 2][x % 2] - now.position
                                  : -1;
    wait_for_copies<2 * Ahead - 1>();
    __syncwarp();
    float logit[N][4];
    mine.multiply_keys(buffer.k, logit);
    __syncwarp();
    read(after, kv.k, buffer.k);
    const auto weights = mine.weigh(logit, visible, scale * log2_e);
    wait_for_copies<2 * Ahead - 1>();
    __syncwarp();
    mine.add_values(buffer.v, weights);
    __syncwarp();
    read(after, kv.v, buffer.v);
    place[0] = place[Ahead - 1];
    place[Ahead - 1] = after;
  }
  wait_for_copies<0>();
  __syncwarp();
}

/// The warp's results into its buffer, weighted by 2^(logit - max) and not normalised, and maxima (base 2)
/// and sums of its rows into state. Rows that saw nothing have sum 0 and no results.
template <class T, int D, int N>
__device__ void leave_results(WarpAttention<T, D, N>& mine, WarpBuffer<T, D>& buffer, float2 (&state)[16]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  mine.gather_sums();
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      if (g == 0) state[n * 8 + t * 2 + row] = make_float2(mine.max[n][row], mine.sum[n][row]);
      if (mine.sum[n][row] > 0)
        mine.for_each_result(n, row, [&](int r, int c, float result) { buffer.out[r][c] = result; });
    }
}

/// A row of partial results added up, as `Lanes` neighbouring lanes hold it: out is weighted by
/// 2^(logit - largest) and not normalised.
template <int D, int Lanes = 32>
struct RowSum {
  static constexpr int pieces = (D / 4 + Lanes - 1) / Lanes;
  float largest, sum;
  float4 out[pieces];
  /// The first of the four elements of a lane's piece; not below D: there is no such piece.
  static __device__ int element(int piece) {
    return (piece * Lanes + static_cast<int>(threadIdx.x) % Lanes) * 4;
  }
  __device__ float lse() const { return sum > 0 ? largest * kLn2 + logf(sum) : -INFINITY; }
  __device__ float4 normalised(int piece) const {
    const float normaliser = sum > 0 ? 1.0f / sum : 0.0f;
    const float4 x = out[piece];
    return {normaliser * x.x, normaliser * x.y, normaliser * x.z, normaliser * x.w};
  }
};

/// Adds up n partial results of a row, by so many lanes: state_of(x) and out_of(x) are the x-th's maximum and
/// sum, and where its elements are.
template <int D, int Lanes = 32, class State, class Out>
__device__ RowSum<D, Lanes> add_up(int n, State&& state_of, Out&& out_of) {
  RowSum<D, Lanes> row{-INFINITY, 0, {}};
#pragma unroll 8
  for (int x = 0; x < n; ++x) row.largest = fmaxf(row.largest, state_of(x).x);
#pragma unroll 4
  for (int x = 0; x < n; ++x) {
    const float2 state = state_of(x);
    const float factor = state.y > 0 ? exp2f(state.x - row.largest) : 0.0f;
    row.sum += factor * state.y;
#pragma unroll
    for (int piece = 0; piece < row.pieces; ++piece) {
      const int c = row.element(piece);
      float4 out{};  // what has no weight may never have been written
      if (factor != 0 && c < D) out = *reinterpret_cast<const float4*>(out_of(x) + c);
      row.out[piece].x += factor * out.x;
      row.out[piece].y += factor * out.y;
      row.out[piece].z += factor * out.z;
      row.out[piece].w += factor * out.w;
    }
  }
  return row;
}

/// A block of sixteen warps, all that a multiprocessor has registers for, attends for up to 16 rows: split
/// `split` of `splits` of the problem's chunks.
inline constexpr int kStreamWarps = 16, kStreamThreads = kStreamWarps * 32, kStreamRows = 16;

template <class T, int D>
struct StreamShared {
  alignas(16) T q[kStreamRows][kMmaStride<D>];
  WarpBuffer<T, D> buffer[kStreamWarps];
  float2 state[kStreamWarps][kStreamRows];
  bool is_last;  ///< of the problem's blocks to have its result ready
};

/// Where a launch of streams writes: results, and partial results of problems that are split.
struct StreamTarget {
  float *out, *lse, *partial_out, *partial_lse;  ///< partial ones as in CombineParams
  int64_t items;
  int32_t* arrived;  ///< per problem, how many of its parts have been written; 0 at rest
};

/// A page of a block's list, looked up before the first one is read; and how many of them a block can have.
struct StreamPage {
  int page, previous, pool;
};
inline constexpr int kStreamPages = 1024;

/// A block's part of a problem: chunks [first, end), the split-th of `splits` parts of problem `number` of
/// the launch.
struct StreamPart {
  int first, end, split, splits, number;
};

/// Counts one up: what the block wrote before is seen by whoever counts later, and the other way round.
__device__ inline int arrive(int32_t* counter) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

/// look_up() prepares the pages, by all threads; next(chunk) then gives the place of a chunk of the part, or
/// of a later one of the warp's, or kNoPlace beyond the part. Writes the results of all rows, up to 8N; the
/// block that is last to do so combines the splits, always in their order.
template <int N, class T, int D, class Problem, class LookUp, class Next>
__device__ void attend_stream(const Problem& problem, const Heads& heads, const PagedKv& kv, const Queries& q,
                              float scale, const StreamPart& part, StreamTarget target,
                              StreamShared<T, D>& shared, LookUp&& look_up, Next&& next) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Queries into registers, a piece for a thread: on their way while the pages are looked up.
  constexpr int pieces = D / kVec<T>;
  static_assert(kStreamRows * pieces <= kStreamThreads && kStreamRows <= kStreamWarps);
  const int tile_row = threadIdx.x / pieces, c = threadIdx.x % pieces * kVec<T>;
  uint4 piece{};
  if (tile_row < problem.rows()) {
    const QueryRow row = problem.row(tile_row);
    if (row.last_visible >= 0)
      piece = *reinterpret_cast<const uint4*>(query<T>(q, heads, row.sequence, row.position, row.q_head) + c);
  }
  const VisibleRows<N> rows = visible_rows<N>(problem);
  look_up();
  __syncthreads();
  WarpBuffer<T, D>* const buffers[] = {&shared.buffer[warp]};
  WarpAttention<T, D, N> mine;
  stream_chunks<1>(mine, shared.q, kStreamRows, heads, kv, problem.kv_head(), problem.last_position(), scale,
                   rows, buffers, part.first + warp, kStreamWarps, next, [&] {
                     if (tile_row < kStreamRows) *reinterpret_cast<uint4*>(&shared.q[tile_row][c]) = piece;
                     __syncthreads();
                   });
  leave_results(mine, *buffers[0], shared.state[warp]);
  __syncthreads();
  const bool alone = part.splits == 1;
  if (warp < problem.rows()) {
    const auto row = add_up<D>(
        kStreamWarps, [&](int x) { return shared.state[x][warp]; },
        [&](int x) { return shared.buffer[x].out[warp]; });
    static_assert(row.pieces == 1);
    const int64_t item = problem.row(warp).item, at = alone ? item : part.split * target.items + item;
    if (lane * 4 < D)
      *reinterpret_cast<float4*>((alone ? target.out : target.partial_out) + at * D + lane * 4) =
          row.normalised(0);
    if (lane == 0) (alone ? target.lse : target.partial_lse)[at] = row.lse();
  }
  if (alone) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.is_last = arrive(target.arrived + part.number) == part.splits - 1;
    if (shared.is_last) target.arrived[part.number] = 0;
  }
  __syncthreads();
  if (shared.is_last && warp < problem.rows())
    combine_item(
        {target.partial_out, target.partial_lse, target.out, target.lse, target.items, part.splits, D},
        problem.row(warp).item);
}

/// Calls f(integral_constant<N>) with the tiles of eight rows that a block needs.
template <class F>
cudaError_t dispatch_stream_tiles(int rows, F&& f) {
  if (rows <= 8) return f(std::integral_constant<int, 1>{});
  return f(std::integral_constant<int, 2>{});
}

/// Launches a kernel that calls attend_stream for `problems` problems, allowing it the shared memory it
/// needs.
template <class Params>
cudaError_t launch_stream(void (*kernel)(Params, StreamTarget, Divisor), dim3 grid, int shared_bytes,
                          const Params& params, int64_t problems, int64_t items, int head_dim,
                          cudaStream_t stream) {
  if (problems > kStreamProblems) return cudaErrorInvalidValue;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  float* const partial_out = static_cast<float*>(params.workspace);
  const StreamTarget target{params.out,  params.lse,
                            partial_out, partial_out + params.splits * items * head_dim,
                            items,       params.arrived};
  return launch_early_with(kernel, grid, dim3(kStreamThreads), shared_bytes, stream, params, target,
                           Divisor(params.kv.page_size / kChunk));
}

}  // namespace hindsight::kernels
