// Everything that looks at all keys, for blocks of many steps of one sequence: dense attention and the true
// mass of pages by warpgroup products (compute capability 9.0a, 16-bit types).
//
// Of dense attention a block of threads has a KV head and 128 query rows, the G heads of neighbouring steps.
// One warpgroup reads keys and values, 128 tokens at a time, three stages deep; two others have 64 rows each.
// While one of them turns logits into weights, the other has the tensor cores. Page masses need keys alone:
// four warpgroups have 64 rows each.

#include <algorithm>

#include "kernels/row_block.cuh"

namespace hindsight::kernels {
namespace {

// Code for other architectures leaves the kernels empty.
[[maybe_unused]] constexpr int kReaderRegisters = 56, kGroupRegisters = 224;
constexpr int kRows = 128, kThreads = kRowThreads<kRows>;
// Page masses wait for exponentials as long as for products: four warpgroups of rows keep both busy.
constexpr int kMassRows = 256, kMassThreads = kRowThreads<kMassRows>;
constexpr int kMassTiles = 32;  // that a block of page masses takes

template <class T, int D>
struct DenseShared {
  static constexpr int stages = 3;
  Swizzled<T, D, kRows> q;
  Swizzled<T, D, kTile> k[stages], v[stages];
  uint64_t k_full[stages], v_full[stages], empty[stages];
};

template <class T, int D>
struct MassShared {
  static constexpr int stages = 3;
  Swizzled<T, D, kMassRows> q;
  Swizzled<T, D, kTile> k[stages];
  uint64_t k_full[stages], empty[stages];
};

#ifdef HINDSIGHT_WGMMA

/// The reading warpgroup's way from pages to tiles.
template <class T, int D>
struct TileReader {
  static constexpr int pieces = D / 8, row_step = kGroupThreads / pieces, chunks = kTile / 16;
  const PagedKv& kv;
  const int32_t* table;
  int n_kv_heads, kv_head, last_position, piece, first_row;
  int chunk_begin[chunks];  ///< row of the pool where a chunk of 16 tokens, which no page divides, begins

  template <int Rows>
  __device__ TileReader(const RowsOfBlock<Rows>& rows, const PagedKv& kv)
      : kv(kv),
        table(kv.table + rows.sequence() * kv.table_stride),
        n_kv_heads(rows.heads.n_kv_heads),
        kv_head(rows.kv_head),
        last_position(rows.last_position()),
        piece(threadIdx.x % pieces),
        first_row(threadIdx.x / pieces) {}

  /// Looks the tile's pages up, all at once: one after another, each would be waited for.
  __device__ void find(int tile) {
#pragma unroll
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int first = min(tile * kTile + chunk * 16, last_position / 16 * 16);
      const int page = first / kv.page_size;
      chunk_begin[chunk] =
          static_cast<int>(token_row(kv, n_kv_heads, table[page], kv_head, first - page * kv.page_size));
    }
  }
  /// Begins to copy the tile that was found. Tokens after the last position are not read.
  __device__ void read(const void* pool, int tile, Swizzled<T, D, kTile>& to) const {
    const uint32_t target = piece_address(to, first_row, piece);
    static_assert(row_step % 8 == 0);  // a thread's rows share their place in the swizzle
#pragma unroll
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const T* const from =
          static_cast<const T*>(pool) + static_cast<int64_t>(chunk_begin[chunk]) * D + piece * 8;
#pragma unroll
      for (int x = 0; x < 16 / row_step; ++x) {
        const int row = first_row + x * row_step;
        const bool exists = tile * kTile + chunk * 16 + row <= last_position;
        copy_async(target + (chunk * 16 + x * row_step) * kColumn * sizeof(T), from + (exists ? row * D : 0),
                   exists);
      }
    }
    commit_copies();
  }
};

/// Weights of a tile as the sum of two 16-bit numbers, by 16 tokens as the instruction wants them.
struct Weights {
  uint32_t high[kTile / 16][4], low[kTile / 16][4];
};

template <class T>
__device__ Weights split_weights(const float (&weight)[kTile / 2]) {
  Weights result;
#pragma unroll
  for (int c = 0; c < kTile / 16; ++c)
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const float* const two = &weight[c * 8 + x * 2];
      result.high[c][x] = pack(two[0], two[1], T{});
      const float2 rounded = unpack(result.high[c][x], T{});
      result.low[c][x] = pack(two[0] - rounded.x, two[1] - rounded.y, T{});
    }
  return result;
}

/// A warpgroup's attention of 64 rows; a lane has rows g and g + 8 of its warp's 16.
template <class T, int D>
struct GroupAttention {
  float out[D / 2] = {};
  float factor[2];  ///< by which what was summed before the tile at hand is to be scaled
  float max[2] = {-INFINITY, -INFINITY},
        sum[2] = {0, 0};  ///< max of scaled logits to base 2; sums of own columns

  /// Logits become weights. `visible`: per row, the last visible token of the tile.
  __device__ void weigh(float (&logit)[kTile / 2], bool masked, const int (&visible)[2], float scale_log2) {
    const int t = threadIdx.x % 4;
    if (masked) {
#pragma unroll
      for (int x = 0; x < kTile / 2; ++x)
        if (x / 4 * 8 + 2 * t + x % 2 > visible[x / 2 % 2]) logit[x] = -INFINITY;
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float largest = -INFINITY;
#pragma unroll
      for (int x = 0; x < kTile / 8; ++x)
        largest = fmaxf(largest, fmaxf(logit[x * 4 + row * 2], logit[x * 4 + row * 2 + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2)) * scale_log2;
      factor[row] = 1;
      if (largest > max[row]) {
        factor[row] = exp2_flushed(max[row] - largest);
        max[row] = largest;
      }
      // A row that sees nothing has no maximum: all its weights are 0.
      const float shift = max[row] == -INFINITY ? 0.0f : max[row];
      float added = 0;
#pragma unroll
      for (int x = 0; x < kTile / 8; ++x)
#pragma unroll
        for (int y = 0; y < 2; ++y) {
          float& value = logit[x * 4 + row * 2 + y];
          value = exp2_flushed(fmaf(value, scale_log2, -shift));
          added += value;
        }
      sum[row] = sum[row] * factor[row] + added;
    }
  }

  /// Begins to weigh the values of a tile. The tensor cores cut off what they add to a sum, which over
  /// thousands of additions loses 1e-4 of it: a tile has a sum of its own.
  static __device__ void multiply_values(float (&tile_out)[D / 2], const Weights& weights, uint32_t v) {
#pragma unroll
    for (int c = 0; c < kTile / 16; ++c) {
      const uint64_t values =
          column_major_matrix(v + c * 16 * kColumn * sizeof(T), kTile * kColumn * sizeof(T));
      multiply_add_values(tile_out, weights.high[c], values, c > 0, T{});
      multiply_add_values(tile_out, weights.low[c], values, true, T{});
    }
  }
  __device__ void add(const float (&tile_out)[D / 2]) {
#pragma unroll
    for (int x = 0; x < D / 2; ++x) out[x] = fmaf(out[x], factor[x / 2 % 2], tile_out[x]);
  }
};

/// The warpgroups with rows take turns at the tensor cores: left to themselves they would share them, and
/// then all compute exponentials while they idle.
struct Turns {
  int own, next;
  __device__ void wait() const { asm volatile("bar.sync %0, 256;" ::"r"(own) : "memory"); }
  __device__ void pass() const { asm volatile("bar.arrive %0, 256;" ::"r"(next) : "memory"); }
};

#endif  // HINDSIGHT_WGMMA

template <class T, int D>
__global__ __launch_bounds__(kThreads, 1) void dense_block_kernel(const __grid_constant__ DenseParams params,
                                                                  SplitTarget target) {
#ifdef HINDSIGHT_WGMMA
  using Shared = DenseShared<T, D>;
  constexpr int stages = Shared::stages;
  auto& shared = aligned_shared<Shared>();
  const RowsOfBlock<kRows> rows(params.heads, params.steps, params.n_steps);
  const int tiles = rows.last_position() / kTile + 1, split_tiles = ceil_div(tiles, gridDim.z);
  const int first_tile = blockIdx.z * split_tiles, tile_end = min(tiles, first_tile + split_tiles);

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared.k_full[stage], kGroupThreads);
      init_barrier(shared.v_full[stage], kGroupThreads);
      init_barrier(shared.empty[stage], 2 * kGroupThreads);
    }
  }
  load_query_rows<T, D>(rows, params.q, shared.q);
  __syncthreads();

  const int warpgroup = uniform(threadIdx.x / kGroupThreads);
  if (warpgroup == 0) {
    shrink_registers<kReaderRegisters>();
    TileReader<T, D> reader(rows, params.kv);
    for (int tile = first_tile; tile < tile_end; ++tile) {
      const int turn = tile - first_tile, stage = turn % stages;
      reader.find(tile);
      wait_for_phase(shared.empty[stage], turn / stages % 2 ^ 1);
      reader.read(params.kv.k, tile, shared.k[stage]);
      if (turn > 0) {
        wait_for_copies<1>();
        show_to_products();
        arrive(shared.v_full[(turn - 1) % stages]);
      }
      reader.read(params.kv.v, tile, shared.v[stage]);
      wait_for_copies<1>();
      show_to_products();
      arrive(shared.k_full[stage]);
    }
    wait_for_copies<0>();
    show_to_products();
    if (tile_end > first_tile) arrive(shared.v_full[(tile_end - 1 - first_tile) % stages]);
  } else {
    grow_registers<kGroupRegisters>();
    constexpr float log2_e = 1.4426950408889634f;
    const float scale_log2 = params.scale * log2_e;
    const int lane = threadIdx.x % 32;
    const int first_row = (warpgroup - 1) * kGroupRows;
    const int row = first_row + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
    const int position[2] = {rows.position(row), rows.position(row + 8)};
    const int first_position = rows.first_position();
    const bool padded = rows.count() < kRows;
    const uint32_t q = shared_address(&shared.q.column[0][first_row][0]);
    GroupAttention<T, D> mine;
    const Turns turns{warpgroup, 3 - warpgroup};
    const int count = uniform(tile_end - first_tile);
    if (count > 0 && warpgroup == 2) turns.pass();  // the first one begins
    Weights weights;                                // of the tile before
    const auto add_values_of = [&](int turn) {
      float tile_out[D / 2];
      begin_products();
      GroupAttention<T, D>::multiply_values(tile_out, weights, shared_address(&shared.v[turn % stages]));
      commit_products();
      wait_for_products<0>();
      arrive(shared.empty[turn % stages]);
      mine.add(tile_out);
    };
    for (int turn = 0; turn < count; ++turn) {
      if (turn > 0) wait_for_phase(shared.v_full[(turn - 1) % stages], (turn - 1) / stages % 2);
      wait_for_phase(shared.k_full[turn % stages], turn / stages % 2);
      turns.wait();
      if (turn > 0) add_values_of(turn - 1);
      float logit[kTile / 2];
      begin_products();
      multiply_tile<T, D, kRows>(logit, q, shared_address(&shared.k[turn % stages]));
      commit_products();
      turns.pass();
      wait_for_products<0>();
      const int first_token = (first_tile + turn) * kTile;
      const int visible[2] = {position[0] - first_token, position[1] - first_token};
      mine.weigh(logit, padded || first_token + kTile - 1 > first_position, visible, scale_log2);
      weights = split_weights<T>(logit);
    }
    if (count > 0) {
      wait_for_phase(shared.v_full[(count - 1) % stages], (count - 1) / stages % 2);
      turns.wait();
      add_values_of(count - 1);
      if (warpgroup == 1) turns.pass();  // the last turn is nobody's
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = mine.sum[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const int r = row + half * 8;
      if (r >= rows.count()) continue;
      const int64_t item = blockIdx.z * target.items + rows.item(r);
      const float normaliser = sum > 0 ? 1.0f / sum : 0.0f;
#pragma unroll
      for (int c = 0; c < D / 8; ++c)
        *reinterpret_cast<float2*>(&target.out[item * D + c * 8 + lane % 4 * 2]) =
            make_float2(mine.out[c * 4 + half * 2] * normaliser, mine.out[c * 4 + half * 2 + 1] * normaliser);
      constexpr float ln2 = 0.6931471805599453f;
      if (lane % 4 == 0) target.lse[item] = sum > 0 ? mine.max[half] * ln2 + logf(sum) : -INFINITY;
    }
  }
#endif
}

#ifdef HINDSIGHT_WGMMA
/// Adds up the chunks of a row over the four lanes that have its columns: lane t gets chunks 2t and 2t + 1.
__device__ inline void share_chunks(const float (&mass)[8], float (&two)[2]) {
  const int t = threadIdx.x % 4;
  float four[4];
#pragma unroll
  for (int x = 0; x < 4; ++x) {
    const float given = t < 2 ? mass[x + 4] : mass[x], kept = t < 2 ? mass[x] : mass[x + 4];
    four[x] = kept + __shfl_xor_sync(~0u, given, 2);
  }
#pragma unroll
  for (int x = 0; x < 2; ++x) {
    const float given = t % 2 == 0 ? four[x + 2] : four[x], kept = t % 2 == 0 ? four[x] : four[x + 2];
    two[x] = kept + __shfl_xor_sync(~0u, given, 1);
  }
}
#endif

template <class T, int D>
__global__ __launch_bounds__(kMassThreads,
                             1) void mass_block_kernel(const __grid_constant__ PageMassParams params) {
#ifdef HINDSIGHT_WGMMA
  using Shared = MassShared<T, D>;
  constexpr int stages = Shared::stages;
  auto& shared = aligned_shared<Shared>();
  const RowsOfBlock<kMassRows> rows(params.heads, params.steps, params.n_steps);
  const int tiles = ceil_div(static_cast<int64_t>(params.n_pages) * params.kv.page_size, kTile);
  const int first_tile = blockIdx.z * kMassTiles, tile_end = min(tiles, first_tile + kMassTiles);
  // Tiles after the last position hold no token: their pages get -inf without a look.
  const int seen_end = min(tile_end, rows.last_position() / kTile + 1);

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      init_barrier(shared.k_full[stage], kGroupThreads);
      init_barrier(shared.empty[stage], kMassThreads - kGroupThreads);
    }
  }
  load_query_rows<T, D>(rows, params.q, shared.q);
  __syncthreads();

  const int warpgroup = uniform(threadIdx.x / kGroupThreads);
  if (warpgroup == 0) {
    TileReader<T, D> reader(rows, params.kv);
    read_tiles(
        seen_end - first_tile, shared.k_full, shared.empty, [&](int turn) { reader.find(first_tile + turn); },
        [&](int turn, int stage) { reader.read(params.kv.k, first_tile + turn, shared.k[stage]); });
  } else {
    constexpr float log2_e = 1.4426950408889634f;
    const float scale_log2 = params.scale * log2_e;
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int row = (warpgroup - 1) * kGroupRows + threadIdx.x % kGroupThreads / 32 * 16 + lane / 4;
    const int position[2] = {rows.position(row), rows.position(row + 8)};
    float lse_log2[2];
    for (int half = 0; half < 2; ++half)
      lse_log2[half] = row + half * 8 < rows.count() ? params.lse[rows.item(row + half * 8)] * log2_e : 0.0f;
    const int first_position = rows.first_position();
    const uint32_t q = shared_address(&shared.q.column[0][(warpgroup - 1) * kGroupRows][0]);
    const int unit_heads = params.per_kv_head ? rows.group() : 1;
    const int units = rows.heads.n_q_heads / unit_heads, p = params.kv.page_size;
    const int page_chunks = p / 16, tile_pages = kTile / p, page_in_tile = 2 * t / page_chunks;
    float* to[2];  // masses of a row's unit; null where the lane has nothing to write
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + half * 8, head = rows.kv_head * rows.group() + r % rows.group();
      const bool writes = r < rows.count() && r % unit_heads == 0 && 2 * t % page_chunks <= 1;
      const int64_t list = static_cast<int64_t>(rows.first + r / rows.group()) * units + head / unit_heads;
      to[half] = writes ? params.mass + list * params.n_pages : nullptr;
    }
    constexpr int groups = kMassRows / kGroupRows;
    const Turns turns{warpgroup, warpgroup % groups + 1};
    if (seen_end > first_tile && warpgroup == groups) turns.pass();  // the first one begins
    for (int tile = first_tile; tile < tile_end; ++tile) {
      float mass[2][kTile / 16] = {};  // of the lane's own columns, by chunks of 16 tokens
      if (tile < seen_end) {
        const int turn = tile - first_tile, stage = turn % stages;
        float logit[kTile / 2];
        wait_for_phase(shared.k_full[stage], turn / stages % 2);
        turns.wait();
        begin_products();
        multiply_tile<T, D, kMassRows>(logit, q, shared_address(&shared.k[stage]));
        commit_products();
        if (warpgroup < groups || tile + 1 < seen_end) turns.pass();  // the last turn is nobody's
        wait_for_products<0>();
        arrive(shared.empty[stage]);
#pragma unroll
        for (int x = 0; x < kTile / 2; ++x)
          logit[x] = exp2_flushed(fmaf(logit[x], scale_log2, -lse_log2[x / 2 % 2]));
        if (tile * kTile + kTile - 1 > first_position) {
#pragma unroll
          for (int x = 0; x < kTile / 2; ++x)
            if (tile * kTile + x / 4 * 8 + 2 * t + x % 2 > position[x / 2 % 2]) logit[x] = 0;
        }
#pragma unroll
        for (int x = 0; x < kTile / 2; ++x) mass[x / 2 % 2][x / 8] += logit[x];
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float two[2];
        share_chunks(mass[half], two);
        // Rows of a unit's heads are neighbours: a lane's next four, and so on.
        for (int heads = 1; heads < unit_heads; heads *= 2)
          for (float& sum : two) sum += __shfl_xor_sync(~0u, sum, 4 * heads);
        if (page_chunks > 1) two[0] += two[1];
        for (int lanes = 1; 2 * lanes < page_chunks; lanes *= 2)
          two[0] += __shfl_xor_sync(~0u, two[0], lanes);
        if (to[half] == nullptr) continue;
        const int page = tile * tile_pages + page_in_tile;
        if (page < params.n_pages) to[half][page] = page * p <= position[half] ? two[0] : -INFINITY;
        if (page_chunks == 1 && page + 1 < params.n_pages)
          to[half][page + 1] = (page + 1) * p <= position[half] ? two[1] : -INFINITY;
      }
    }
  }
#endif
}

int group(const Heads& heads) { return heads.n_q_heads / heads.n_kv_heads; }
int64_t items(const DenseParams& params) {
  return static_cast<int64_t>(params.n_steps) * params.heads.n_q_heads;
}

bool takes(const Heads& heads, const PagedKv& kv, float scale, int n_steps, const DeviceLimits& device) {
  return has_row_blocks(heads, n_steps, device) && kv.page_size % 16 == 0 && kTile % kv.page_size == 0 &&
         scale > 0;
}

}  // namespace

SplitPlan plan_dense_block(const DenseParams& params, int64_t longest, const DeviceLimits& device) {
  if (!takes(params.heads, params.kv, params.scale, params.n_steps, device)) return {0, 0};
  const int64_t blocks =
      static_cast<int64_t>(ceil_div(params.n_steps, kRows / group(params.heads))) * params.heads.n_kv_heads;
  const int64_t splits = std::clamp<int64_t>(device.multiprocessors / blocks, 1,
                                             std::clamp<int64_t>(longest / (4 * kTile), 1, kMostSplits));
  const int64_t item_bytes = (params.heads.head_dim + 1) * static_cast<int64_t>(sizeof(float));
  return {static_cast<int32_t>(splits), splits > 1 ? splits * items(params) * item_bytes : 0};
}

cudaError_t dense_block(const DenseParams& params, cudaStream_t stream) {
  const dim3 grid(ceil_div(params.n_steps, kRows / group(params.heads)), params.heads.n_kv_heads,
                  params.splits);
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kTakes<T, D>)
      return launch_with_splits(dense_block_kernel<T, D>, grid, kThreads, kSharedBytes<DenseShared<T, D>>,
                                params, items(params), D, stream);
    return cudaErrorInvalidValue;
  });
}

bool takes_mass_block(const PageMassParams& params, const DeviceLimits& device) {
  // The heads of a unit are added up within a warp's eight neighbouring rows.
  const int heads = params.per_kv_head ? group(params.heads) : 1;
  return heads <= 8 && (heads & (heads - 1)) == 0 &&
         takes(params.heads, params.kv, params.scale, params.n_steps, device);
}

cudaError_t mass_block(const PageMassParams& params, cudaStream_t stream) {
  if (params.n_pages == 0) return cudaSuccess;
  const int64_t tokens = static_cast<int64_t>(params.n_pages) * params.kv.page_size;
  const dim3 grid(ceil_div(params.n_steps, kMassRows / group(params.heads)), params.heads.n_kv_heads,
                  ceil_div(tokens, kTile * kMassTiles));
  return dispatch(params.heads, [&](auto type, auto head_dim) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kTakes<T, D>) {
      constexpr int shared_bytes = kSharedBytes<MassShared<T, D>>;
      const auto kernel = mass_block_kernel<T, D>;
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      if (error != cudaSuccess) return error;
      kernel<<<grid, kMassThreads, shared_bytes, stream>>>(params);
      return cudaGetLastError();
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace hindsight::kernels
