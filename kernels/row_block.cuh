#pragma once
// What the kernels of many steps of one sequence share. A block of threads has a KV head and 128 query rows,
// the G heads of neighbouring steps. One warpgroup reads tiles, several stages deep; two others have 64 rows
// each and multiply them (compute capability 9.0a, 16-bit types).

#include "kernels/attention.cuh"
#include "kernels/wgmma.cuh"

namespace hindsight::kernels {

inline constexpr int kGroupRows = 64, kTile = 128;  // query rows of a warpgroup; tokens or pages of a tile
inline constexpr int kGroupThreads = 128;
/// Of a block, the reading warpgroup's among them.
template <int Rows>
inline constexpr int kRowThreads = (1 + Rows / kGroupRows) * kGroupThreads;
inline constexpr int kColumn = 64;  // elements of a swizzled row

template <class T, int D>
inline constexpr bool kTakes = sizeof(T) == 2 && (D == 64 || D == 128);

/// Whether the GPU and the build have these products, and rows fill a warpgroup.
inline bool has_row_blocks(const Heads& heads, int n_steps, const DeviceLimits& device) {
#ifdef HINDSIGHT_KERNELS_90A
  return device.compute_capability == 90 && heads.type != ElementType::float32 &&
         (heads.head_dim == 64 || heads.head_dim == 128) &&
         n_steps * (heads.n_q_heads / heads.n_kv_heads) >= kGroupRows;
#else
  static_cast<void>(heads), static_cast<void>(n_steps), static_cast<void>(device);
  return false;
#endif
}

/// `Rows` rows of D elements, swizzled.
template <class T, int D, int Rows>
struct Swizzled {
  T column[D / kColumn][Rows][kColumn];
};

/// Dynamic shared memory starts where it likes; swizzling asks for 1024 bytes.
inline constexpr int kAlignment = 1024;
template <class Shared>
inline constexpr int kSharedBytes = static_cast<int>(sizeof(Shared)) + kAlignment;

#ifdef HINDSIGHT_WGMMA

/// Query row r of a block of `Rows` is head r % G of step first + r / G.
template <int Rows>
struct RowsOfBlock {
  const Heads& heads;
  const Step* steps;
  int first, last, kv_head;

  __device__ RowsOfBlock(const Heads& heads, const Step* steps, int n_steps)
      : heads(heads),
        steps(steps),
        first(static_cast<int>(blockIdx.x) * (Rows / group())),
        last(min(first + Rows / group(), n_steps)),
        kv_head(blockIdx.y) {}
  __device__ int group() const { return heads.n_q_heads / heads.n_kv_heads; }
  __device__ int count() const { return (last - first) * group(); }
  __device__ int sequence() const { return steps[first].sequence; }
  __device__ int first_position() const { return steps[first].position; }
  __device__ int last_position() const { return steps[last - 1].position; }
  __device__ int position(int r) const { return r < count() ? steps[first + r / group()].position : -1; }
  /// Of the row among all rows and heads.
  __device__ int64_t item(int r) const {
    return static_cast<int64_t>(first + r / group()) * heads.n_q_heads + kv_head * group() + r % group();
  }
};

/// The same in all lanes, which the compiler is to know: products must not be under way where lanes may part.
__device__ inline int uniform(int x) { return __shfl_sync(~0u, x, 0); }

/// 2^x, 0 where that is below the smallest normal number.
__device__ inline float exp2_flushed(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

template <class Shared>
__device__ inline Shared& aligned_shared() {
  extern __shared__ unsigned char shared_bytes[];
  const uint32_t address = shared_address(shared_bytes);
  return *reinterpret_cast<Shared*>(shared_bytes + (kAlignment - address % kAlignment) % kAlignment);
}

template <class T, int D, int Rows>
__device__ uint32_t piece_address(Swizzled<T, D, Rows>& matrix, int row, int piece) {
  return shared_address(&matrix.column[piece / 8][row][0]) + (piece % 8 ^ row % 8) * 16;
}

template <class T, int D, int Rows>
__device__ void store_piece(Swizzled<T, D, Rows>& to, int row, int piece, uint4 values) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(piece_address(to, row, piece)), "r"(values.x),
               "r"(values.y), "r"(values.z), "r"(values.w)
               : "memory");
}

/// Calls store(row, piece, values) for every piece of 8 elements of the block's query rows; zeros after them.
template <class T, int D, int Rows, class F>
__device__ void for_query_pieces(const RowsOfBlock<Rows>& rows, const Queries& q, const F& store) {
  constexpr int pieces = D / 8;
#pragma unroll 4
  for (int x = threadIdx.x; x < Rows * pieces; x += kRowThreads<Rows>) {
    const int r = x / pieces, piece = x % pieces;
    uint4 values{};
    if (r < rows.count())
      values = *reinterpret_cast<const uint4*>(query<T>(q, rows.heads, rows.sequence(), rows.position(r),
                                                        rows.kv_head * rows.group() + r % rows.group()) +
                                               piece * 8);
    store(r, piece, values);
  }
  show_to_products();
}

template <class T, int D, int Rows>
__device__ void load_query_rows(const RowsOfBlock<Rows>& rows, const Queries& q, Swizzled<T, D, Rows>& to) {
  for_query_pieces<T, D>(rows, q,
                         [&](int row, int piece, uint4 values) { store_piece(to, row, piece, values); });
}

/// The reading warpgroup's loop: turn after turn goes through the stages, whose barriers say full and empty.
/// read(turn, stage) begins to copy and commits; prepare(turn) comes before the stage is waited for.
template <int Stages, class Prepare, class Read>
__device__ void read_tiles(int turns, uint64_t (&full)[Stages], uint64_t (&empty)[Stages],
                           const Prepare& prepare, const Read& read) {
  for (int turn = 0; turn < turns; ++turn) {
    prepare(turn);
    wait_for_phase(empty[turn % Stages], turn / Stages % 2 ^ 1);
    read(turn, turn % Stages);
    if (turn == 0) continue;
    wait_for_copies<1>();
    show_to_products();
    arrive(full[(turn - 1) % Stages]);
  }
  wait_for_copies<0>();
  show_to_products();
  if (turns > 0) arrive(full[(turns - 1) % Stages]);
}

/// Logits of a warpgroup's rows, of `Rows` of the block, with a tile's keys; begun, not waited for.
template <class T, int D, int Rows>
__device__ void multiply_tile(float (&logit)[kTile / 2], uint32_t q, uint32_t k) {
#pragma unroll
  for (int c = 0; c < D / 16; ++c) {
    const uint32_t column = c / 4, inside = c % 4 * 32;
    multiply_keys(logit, row_major_matrix(q + column * Rows * kColumn * sizeof(T) + inside),
                  row_major_matrix(k + column * kTile * kColumn * sizeof(T) + inside), c > 0, T{});
  }
}

#endif  // HINDSIGHT_WGMMA

}  // namespace hindsight::kernels
