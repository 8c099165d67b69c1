// True mass of pages. Two ways:
// - without tensor cores, a half-warp takes a page and reads each of its keys once for all query rows of a
//   tile; lane r keeps the sum of query row r, so 16 rows need one exponential per token;
// - with them (page_mass_mma), a block has up to 64 query rows and four chunks of 16 tokens at a time, a warp
//   a chunk.

#include "kernels/dispatch.cuh"
#include "kernels/mma_attention.cuh"
#include "kernels/query_tile.cuh"
#include "kernels/softmax_state.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPagesPerBlock = 64;
static_assert(kQueryTileRows <= kGroupLanes, "a lane per query row");

/// Mass of `page` for steps [first, last), all of one sequence, whose first query row in the tile is
/// `row_begin`.
template <class T, int D>
__device__ void mass_of_page(const PageMassParams& params, int page, int kv_head, int first, int last,
                             const float (*queries)[kPaddedRow<T, D>]) {
  const int p = params.kv.page_size, group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int rows = (last - first) * group, lane = group_lane();
  const int sequence = params.steps[first].sequence;
  const int last_position = params.steps[last - 1].position;

  int position = -1;  // of this lane's query row
  float lse = 0, sum = 0;
  if (lane < rows) {
    position = params.steps[first + lane / group].position;
    lse = params.lse[static_cast<int64_t>(first + lane / group) * params.heads.n_q_heads + kv_head * group +
                     lane % group];
  }
  const int held = min(p, last_position + 1 - page * p);
  if (held > 0) {
    const T* keys =
        static_cast<const T*>(params.kv.k) +
        token_row(params.kv, params.heads.n_kv_heads, pool_page(params.kv, sequence, page), kv_head, 0) * D;
    for (int token = 0; token < held; ++token) {
      float key[kLaneElements<T, D>];
      load_row<T, D>(keys + token * D, key);
      float logit = -INFINITY;
      for (int row = 0; row < rows; ++row) {
        float q[kLaneElements<T, D>];
        load_shared_row<T, D>(queries[row], q);
        float dot = 0;
#pragma unroll
        for (int c = 0; c < kLaneElements<T, D>; ++c) dot += q[c] * key[c];
        dot = group_sum(dot);
        if (row == lane) logit = params.scale * dot;
      }
      if (page * p + token <= position) sum += normal_exp(logit - lse);
    }
  }

  const int units = params.per_kv_head ? params.heads.n_kv_heads : params.heads.n_q_heads;
  if (params.per_kv_head) {
    // The first row of a step adds up its heads, in their order.
    float total = 0;
    for (int g = 0; g < group; ++g) {
      const float other = __shfl_down_sync(group_mask(), sum, g, kGroupLanes);
      if (lane + g < rows) total += other;
    }
    sum = total;
  }
  if (lane >= rows || (params.per_kv_head && lane % group != 0)) return;
  const int i = first + lane / group, unit = params.per_kv_head ? kv_head : kv_head * group + lane % group;
  params.mass[(static_cast<int64_t>(i) * units + unit) * params.n_pages + page] =
      page * p <= position ? sum : -INFINITY;
}

template <class T, int D>
__global__ __launch_bounds__(kThreads) void page_mass_kernel(PageMassParams params, int steps_per_tile) {
  __shared__ __align__(16) float queries[kQueryTileRows][kPaddedRow<T, D>];
  const int kv_head = blockIdx.y, group = params.heads.n_q_heads / params.heads.n_kv_heads;
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  load_queries<T, D>(params.q, params.heads, params.steps, first, last, kv_head, queries);

  const int page_end = min(static_cast<int>(blockIdx.z + 1) * kPagesPerBlock, params.n_pages);
  for (int page = blockIdx.z * kPagesPerBlock + threadIdx.x / kGroupLanes; page < page_end;
       page += kThreads / kGroupLanes) {
    for (int begin = first; begin < last;) {
      int end = begin + 1;
      while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
      mass_of_page<T, D>(params, page, kv_head, begin, end, queries + (begin - first) * group);
      begin = end;
    }
  }
}

constexpr int kMassRows = 64;
constexpr int kMassThreads = kChunkWarps * 32;
constexpr int kStagesPerBlock = 16;

template <class T, int D>
struct MassShared {
  alignas(16) T q[kMassRows][kMmaStride<D>];
  alignas(16) T k[kStages][kStageTokens][kMmaStride<D>];
  float row_mass[kChunkWarps][kMassRows];  ///< of a stage's chunks
  float lse[kMassRows];
  int position[kMassRows];
};

/// Mass of a chunk's tokens for the first `rows` of the tile, into row_mass.
template <class T, int D>
__device__ void mass_of_chunk(MassShared<T, D>& shared, uint32_t k, int rows, int first_token, float scale,
                              float (&row_mass)[kMassRows]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  constexpr int stride = kMmaStride<D> * sizeof(T);
  uint32_t b[D / 16][4];
#pragma unroll
  for (int c = 0; c < D / 16; ++c)
    load_matrices(b[c], k + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16 + c * 32);
#pragma unroll
  for (int tile = 0; tile < kMassRows / 16; ++tile) {
    if (tile * 16 >= rows) break;
    const uint32_t q = shared_address(&shared.q[tile * 16][0]) + (lane % 16) * stride + lane / 16 * 16;
    float logit[2][4] = {};
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      uint32_t a[4];
      load_matrices(a, q + c * 32);
      mma(logit[0], a, b[c][0], b[c][1], T{});
      mma(logit[1], a, b[c][2], b[c][3], T{});
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * 16 + half * 8 + lane / 4;
      float sum = 0;
#pragma unroll
      for (int x = 0; x < 4; ++x)
        if (first_token + x / 2 * 8 + 2 * t + x % 2 <= shared.position[row])
          sum += normal_exp(scale * logit[x / 2][half * 2 + x % 2] - shared.lse[row]);
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (t == 0) row_mass[row] = sum;
    }
  }
}

/// Steps [first, last) of the block's, all of one sequence.
template <class T, int D>
__device__ void masses_of_steps(const PageMassParams& params, MassShared<T, D>& shared, int first, int last) {
  const int group = params.heads.n_q_heads / params.heads.n_kv_heads, rows = (last - first) * group;
  const int kv_head = blockIdx.y, p = params.kv.page_size, sequence = params.steps[first].sequence;
  const int last_position = params.steps[last - 1].position;
  constexpr int pieces = D / 8;

  __syncthreads();  // the block may be done with other steps only in part
  for (int x = threadIdx.x; x < kMassRows * pieces; x += kMassThreads) {
    const int row = x / pieces, c = x % pieces * 8;
    uint4 piece{};
    if (row < rows) {
      const Step step = params.steps[first + row / group];
      piece = *reinterpret_cast<const uint4*>(
          query<T>(params.q, params.heads, sequence, step.position, kv_head * group + row % group) + c);
    }
    *reinterpret_cast<uint4*>(&shared.q[row][c]) = piece;
  }
  for (int row = threadIdx.x; row < kMassRows; row += kMassThreads) {
    const int i = first + row / group;
    shared.position[row] = row < rows ? params.steps[i].position : -1;
    shared.lse[row] =
        row < rows
            ? params.lse[static_cast<int64_t>(i) * params.heads.n_q_heads + kv_head * group + row % group]
            : 0.0f;
  }

  const auto read_stage = [&](int stage, int end) {
    if (stage < end) {
#pragma unroll
      for (int i = 0; i < ceil_div(kStageTokens * pieces, kMassThreads); ++i) {
        const int x = threadIdx.x + i * kMassThreads, n = x / pieces, c = x % pieces * 8;
        if (kStageTokens * pieces % kMassThreads != 0 && x >= kStageTokens * pieces) break;
        const int token = stage * kStageTokens + n;
        const bool read = token <= last_position;
        int64_t from = 0;
        if (read)
          from = token_row(params.kv, params.heads.n_kv_heads, pool_page(params.kv, sequence, token / p),
                           kv_head, token % p) *
                     D +
                 c;
        copy_async(shared_address(&shared.k[stage % kStages][n][c]),
                   static_cast<const T*>(params.kv.k) + from, read);
      }
    }
    commit_copies();
  };
  const int stages = ceil_div(static_cast<int64_t>(params.n_pages) * p, kStageTokens);
  const int first_stage = blockIdx.z * kStagesPerBlock, end = min(stages, first_stage + kStagesPerBlock);
  const int warp = threadIdx.x / 32, units = params.per_kv_head ? 1 : group, stage_pages = kStageTokens / p;
  for (int stage = first_stage; stage < first_stage + kStages - 1; ++stage) read_stage(stage, end);
  for (int stage = first_stage; stage < end; ++stage) {
    read_stage(stage + kStages - 1, end);
    wait_for_copies<kStages - 1>();
    __syncthreads();
    mass_of_chunk<T, D>(shared, shared_address(&shared.k[stage % kStages][warp * kChunk][0]), rows,
                        stage * kStageTokens + warp * kChunk, params.scale, shared.row_mass[warp]);
    __syncthreads();
    // The chunks of a page and the heads of a unit are added up in their order.
    for (int x = threadIdx.x; x < (last - first) * units * stage_pages; x += kMassThreads) {
      const int in_stage = x % stage_pages, unit = x / stage_pages % units, i = x / stage_pages / units;
      const int page = stage * stage_pages + in_stage;
      if (page >= params.n_pages) continue;
      float sum = 0;
      for (int head = 0; head < group / units; ++head)
        for (int chunk = 0; chunk < p / kChunk; ++chunk)
          sum += shared.row_mass[in_stage * (p / kChunk) + chunk][i * group + unit + head];
      params
          .mass[(static_cast<int64_t>(first + i) * params.heads.n_kv_heads * units + kv_head * units + unit) *
                    params.n_pages +
                page] = page * p <= shared.position[i * group] ? sum : -INFINITY;
    }
  }
  wait_for_copies<0>();
}

template <class T, int D>
__global__ __launch_bounds__(kMassThreads) void page_mass_mma_kernel(PageMassParams params,
                                                                     int steps_per_tile) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<MassShared<T, D>*>(shared_bytes);
  const int first = blockIdx.x * steps_per_tile, last = min(first + steps_per_tile, params.n_steps);
  for (int begin = first; begin < last;) {
    int end = begin + 1;
    while (end < last && params.steps[end].sequence == params.steps[begin].sequence) ++end;
    masses_of_steps(params, shared, begin, end);
    begin = end;
  }
}

}  // namespace

cudaError_t page_mass(const PageMassParams& params, cudaStream_t stream) {
  if (params.n_steps == 0 || params.n_pages == 0) return cudaSuccess;
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kMmaTakes<T, D>) {
      if (takes_mma(params.kv) && kStageTokens % params.kv.page_size == 0) {
        // No more than the longest run has: a block goes through the sequences of its tile one after another.
        const int steps =
            min(kMassRows / (params.heads.n_q_heads / params.heads.n_kv_heads), params.longest_run);
        const int64_t tokens = static_cast<int64_t>(params.n_pages) * params.kv.page_size;
        const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                        ceil_div(tokens, kStageTokens * kStagesPerBlock));
        constexpr int shared_bytes = sizeof(MassShared<T, D>);
        const auto kernel = page_mass_mma_kernel<T, D>;
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
        if (error != cudaSuccess) return error;
        kernel<<<grid, kMassThreads, shared_bytes, stream>>>(params, steps);
        return cudaGetLastError();
      }
    }
    const int steps = query_tile_steps(params.n_steps, params.heads.n_q_heads / params.heads.n_kv_heads);
    const dim3 grid(ceil_div(params.n_steps, steps), params.heads.n_kv_heads,
                    ceil_div(params.n_pages, kPagesPerBlock));
    page_mass_kernel<T, D><<<grid, kThreads, 0, stream>>>(params, steps);
    return cudaGetLastError();
  });
}

}  // namespace hindsight::kernels
