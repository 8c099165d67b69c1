// A whole decode step of Quest, refined or not, in one launch (compute capability 9.0): a cluster of blocks
// takes one sequence and KV head. Its blocks share out the pages to score and give each score to all; each
// finds the k-th best by itself and attends to its part of the chosen pages; results of rows are merged by
// the block that owns the row. Four cluster barriers, most of them in two halves with work between:
//   1  all blocks run                     (before scores are given away)
//   2  all scores are there               (before selection)
//   3  scores are no longer needed        (before results are handed over, in their place)
//   4  all results are there              (before rows are merged)
//
// A step is one chain of waits: for the step and the page table, for summaries, for the others' scores, for
// keys and values. Between them every instruction runs once or a few times, so that code must be small:
// fetching it costs as much as running it.

#include <algorithm>
#include <climits>

#include "kernels/block_select.cuh"
#include "kernels/cluster.cuh"
#include "kernels/dispatch.cuh"
#include "kernels/divisor.cuh"
#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kStepThreads = 512;
constexpr int kStepWarps = kStepThreads / 32;

/// Sizes that are known at launch.
struct StepLayout {
  int scores;  ///< floats: scores of all pages, and later the results that a block is handed
  int pages;   ///< that a block attends to, at most
  Divisor group, page_chunks, cluster;
};

/// A page to attend to.
struct ListedPage {
  int page, previous, pool;
};

/// Rows of weights are padded: two of them, four 16-byte pieces each, meet all banks.
template <int D>
inline constexpr int kWeightStride = 2 * D + (D / 4 % 8 == 4 ? 0 : 32);

/// Rows of summaries have room to exchange halves of a bank's width between odd and even pages.
template <int D>
inline constexpr int kSummaryStride = (2 * D + 63) / 64 * 64;

template <class T, int D, int R>
struct StepShared {
  alignas(16) T q[R][kMmaStride<D>];
  union {
    WarpBuffer<T, D> buffer[kStepWarps];
    struct {
      alignas(16) T weights[kMaxGroup][kWeightStride<D>];  ///< of scoring
      SelectShared<kStepThreads> select;
      alignas(16) T summaries[kStepWarps][2][8][kSummaryStride<D>];  ///< two times eight pages a warp
    };
  };
  float2 warp_state[kStepWarps][16];  ///< maximum (base 2) and sum of a warp's rows
  /// The same of the rows that the block owns, from every block: [row / cluster][block].
  float2 handed_state[R + kMaxCluster];
  alignas(16) float scores[4];  ///< and more: StepLayout::scores, then StepLayout::pages of ListedPage
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// Warps of the first 16 rows, which the step's own query is among: its result has the same bits whatever the
/// window. The other warps are shared by the groups of rows of past queries, which have seen most pages.
constexpr int kFirstWarps = 8;

/// Summaries that a block asks the L2 cache for while the grid before still runs: 17 MB on 132
/// multiprocessors, of which others' keys and values should not be driven out.
constexpr int kPrefetchedPages = 256;

/// Everything a block knows of its step.
template <class T, int D, int R>
class StepBlock {
 public:
  using Shared = StepShared<T, D, R>;

  __device__ StepBlock(const DecodeStepParams& params, Shared& shared, StepLayout layout)
      : params_(params),
        shared_(shared),
        listed_(reinterpret_cast<ListedPage*>(shared.scores + layout.scores)),
        layout_(layout),
        group_(layout.group.divisor),
        cluster_(gridDim.x),
        rank_(blockIdx.x),
        i_(blockIdx.z),
        head_(blockIdx.y),
        step_(params.steps[i_]),
        newest_page_(layout.page_chunks.divide(step_.position / kChunk)),
        rows_(min(params.window, step_.window_rows) * group_) {
    const int k = params.k[i_];
    newest_is_given_ = params.newest != Newest::competes;
    candidates_ = newest_is_given_ ? newest_page_ : newest_page_ + 1;
    taken_ = min(max(params.newest == Newest::forced ? k - 1 : k, 0), candidates_);
    table_ = params.kv.table + step_.sequence * params.kv.table_stride;
    if (params.q.rows_are_old) find_queries();
    if (params.appended_k != nullptr)
      source_row_ =
          ((params.first_row[step_.sequence] + step_.position) * params.heads.n_kv_heads + head_) * D;
    last_loaded_ = params.last_loaded +
                   (static_cast<int64_t>(step_.sequence) * params.heads.n_kv_heads + head_) * params.n_pages;
  }

  __device__ void run() {
    cluster_arrive_relaxed();  // 1
    const bool chooses = 0 < taken_ && taken_ < candidates_;
    // Until the grid before has ended: what that grid cannot have written, and the L2 cache, which shows what
    // is written later.
    Scoring scoring{};
    if (chooses) scoring = plan_scoring();
    prefetch_inputs();
    prepare_selection(shared_.scores, candidates_, shared_.select);
    wait_for_previous_grid();
    if (!params_.q.rows_are_old) find_queries();
    QueryPieces queries;
    read_queries(queries);
    if (chooses) begin_scoring(scoring);
    store_queries(queries);
    __syncthreads();
    if (chooses) {
      weigh_queries();
      __syncthreads();
    }
    cluster_wait();  // 1
    if (appends()) append();
    if (chooses) score(scoring);
    __syncwarp();
    cluster_arrive();  // 2
    cluster_wait();    // 2
    const int n_listed = select(chooses);
    __syncthreads();
    cluster_arrive_relaxed();  // 3: scores have been read
    attend(n_listed);
    if (params_.window > 1)
      for (int x = threadIdx.x; x < n_listed; x += kStepThreads)
        last_loaded_[listed_[x].page] = step_.position;
    __syncthreads();
    cluster_wait();  // 3
    hand_over();
    __syncwarp();
    cluster_arrive();  // 4
    prefetch_cached();
    __syncwarp();
    cluster_wait();  // 4
    merge_rows();
  }

 private:
  static constexpr int row_vectors = D / kVec<T>;

  __device__ int slot_of(int row) const { return layout_.group.divide(row); }
  __device__ void find_queries() {
    first_query_ = static_cast<const T*>(params_.q.data) +
                   (params_.q.first_row[step_.sequence] + step_.position) * params_.heads.n_q_heads * D;
  }
  /// Of a row of the tile.
  __device__ const T* query_row(int r) const {
    const int slot = slot_of(r);
    return first_query_ +
           static_cast<int64_t>(head_ * group_ + r - slot * group_ - slot * params_.heads.n_q_heads) * D;
  }
  __device__ int64_t pool_row(int64_t pool, int offset) const {
    return token_row(params_.kv, params_.heads.n_kv_heads, pool, head_, offset) * D;
  }

  __device__ void prefetch_inputs() const {
    constexpr int bytes = D * sizeof(T);
    if (params_.q.rows_are_old && threadIdx.x < rows_) prefetch(query_row(threadIdx.x), bytes);
    if (appends() && threadIdx.x % 32 < 2)
      prefetch(static_cast<const T*>(threadIdx.x % 32 == 0 ? params_.appended_k : params_.appended_v) +
                   source_row_,
               bytes);
  }
  /// Reads queries into registers: they are needed first, and would wait behind the summaries.
  static constexpr int thread_vectors = (R * row_vectors + kStepThreads - 1) / kStepThreads;
  using QueryPieces = uint4[thread_vectors];
  __device__ void read_queries(QueryPieces& pieces) const {
#pragma unroll
    for (int i = 0; i < thread_vectors; ++i) {
      const int x = i * kStepThreads + threadIdx.x, r = x / row_vectors;
      pieces[i] = uint4{};
      if (r < rows_) pieces[i] = *reinterpret_cast<const uint4*>(query_row(r) + x % row_vectors * kVec<T>);
    }
  }
  __device__ void store_queries(const QueryPieces& pieces) const {
#pragma unroll
    for (int i = 0; i < thread_vectors; ++i) {
      const int x = i * kStepThreads + threadIdx.x;
      if (x < R * row_vectors)
        *reinterpret_cast<uint4*>(&shared_.q[x / row_vectors][x % row_vectors * kVec<T>]) = pieces[i];
    }
  }

  // --- the step's own token: only the last block reads it, since its page is the last of the list
  __device__ bool appends() const {
    return params_.appended_k != nullptr && rank_ == cluster_ - 1 && threadIdx.x >= kStepThreads - 32;
  }
  __device__ int newest_offset() const { return step_.position - newest_page_ * params_.kv.page_size; }
  __device__ void append() const {
    const int64_t to = pool_row(table_[newest_page_], newest_offset());
    for (int vector = threadIdx.x % 32; vector < 2 * row_vectors; vector += 32) {
      const bool is_key = vector < row_vectors;
      const int c = (is_key ? vector : vector - row_vectors) * kVec<T>;
      const T* source = static_cast<const T*>(is_key ? params_.appended_k : params_.appended_v);
      T* target = static_cast<T*>(is_key ? params_.kv.k : params_.kv.v);
      *reinterpret_cast<uint4*>(target + to + c) = *reinterpret_cast<const uint4*>(source + source_row_ + c);
    }
    __syncwarp();
  }
  /// By a warp. From its keys, not from the old summary: that may cover tokens which were taken back.
  __device__ void summarise_newest_page() const {
    const int64_t pool = table_[newest_page_];
    const T* keys = static_cast<const T*>(params_.kv.k) + pool_row(pool, 0);
    T* summary =
        static_cast<T*>(params_.kv.summaries) + summary_row(params_.heads.n_kv_heads, pool, head_) * 2 * D;
    for (int vector = threadIdx.x % 32; vector < 2 * row_vectors; vector += 32) {
      const uint4 extreme = extreme_keys(keys, newest_offset() + 1, vector);
      *reinterpret_cast<uint4*>(summary + vector * kVec<T>) = extreme;
    }
  }
  /// Vector of the summary of the first `tokens` >= 1 keys of a page.
  static __device__ uint4 extreme_keys(const T* keys, int tokens, int vector) {
    const bool is_maximum = vector < row_vectors;
    keys += (is_maximum ? vector : vector - row_vectors) * kVec<T>;
    float extreme[kVec<T>];
    load_vec<T>(keys, extreme);
#pragma unroll 4
    for (int token = 1; token < tokens; ++token) {
      float key[kVec<T>];
      load_vec<T>(keys + token * D, key);
#pragma unroll
      for (int e = 0; e < kVec<T>; ++e)
        extreme[e] = is_maximum ? fmaxf(extreme[e], key[e]) : fminf(extreme[e], key[e]);
    }
    uint4 packed;
#pragma unroll
    for (int e = 0; e < kVec<T>; ++e) reinterpret_cast<T*>(&packed)[e] = from_float<T>(extreme[e]);
    return packed;
  }

  // --- scoring: sum_c max(q_c*kmin_c, q_c*kmax_c) = [q+, q-].[kmax, kmin], heads times eight pages on tensor
  // cores. An instruction's order of elements is free as long as both operands have it: a lane reads whole
  // 16-byte pieces of both.
  static constexpr int lane_pieces = 2 * row_vectors / 4;  ///< of a page's summary: four lanes share it
  using Summary = uint4[lane_pieces];

  /// Weights of the heads, whose queries are the first rows of the tile. Heads that do not exist weigh 0.
  __device__ void weigh_queries() const {
    for (int x = threadIdx.x; x < ceil_div(group_, 8) * 8 * D; x += kStepThreads) {
      const int h = x / D, c = x % D;
      const float q = h < group_ ? to_float(shared_.q[h][c]) : 0.0f;
      shared_.weights[h][c] = from_float<T>(fmaxf(q, 0.0f));
      shared_.weights[h][D + c] = from_float<T>(fminf(q, 0.0f));
    }
  }

  /// Scores of the pages 2t and 2t + 1 of the eight that the warp holds (lane 4g + t has page g), in all
  /// lanes of the same t.
  __device__ float2 score_of(const Summary& summary) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool takes_max = params_.combine == Combine::max;
    float2 combined{};
#pragma unroll 1
    for (int first = 0; first < group_; first += 8) {
      float even[4] = {}, odd[4] = {};
#pragma unroll
      for (int i = 0; i < lane_pieces; ++i) {
        const uint4 w = *reinterpret_cast<const uint4*>(&shared_.weights[first + g][(i * 4 + t) * kVec<T>]);
        mma(even, {w.x, 0, w.y, 0}, summary[i].x, summary[i].y, T{});
        mma(odd, {w.z, 0, w.w, 0}, summary[i].z, summary[i].w, T{});
      }
      float2 score{even[0] + odd[0], even[1] + odd[1]};
      if (params_.round_to_storage) score = {round_to_finite<T>(score.x), round_to_finite<T>(score.y)};
      if (takes_max && first + g >= group_) score = {-INFINITY, -INFINITY};
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        const float2 other{__shfl_xor_sync(~0u, score.x, offset), __shfl_xor_sync(~0u, score.y, offset)};
        score = takes_max ? float2{fmaxf(score.x, other.x), fmaxf(score.y, other.y)}
                          : float2{score.x + other.x, score.y + other.y};
      }
      combined = first == 0  ? score
                 : takes_max ? float2{fmaxf(combined.x, score.x), fmaxf(combined.y, score.y)}
                             : float2{combined.x + score.x, combined.y + score.y};
    }
    if (params_.combine == Combine::mean) {
      combined.x /= static_cast<float>(group_);
      combined.y /= static_cast<float>(group_);
    }
    const auto finite = [](float score) { return fminf(fmaxf(score, -FLT_MAX), FLT_MAX); };
    return {finite(combined.x), finite(combined.y)};
  }

  /// To all blocks of the cluster: lane 4g + t to block g, and to block g + 8.
  __device__ void give(float2 scores, int page, int end) const {
    for (int block = threadIdx.x % 32 / 4; block < cluster_; block += 8) {
      const uint32_t there = in_block(shared_address(shared_.scores + page), block);
      if (page + 1 < end)
        store_in_cluster(there, scores);
      else if (page < end)
        store_in_cluster(there, scores.x);
    }
  }

  /// A warp's way through the block's share of the complete pages, those before the step's own.
  struct Scoring {
    int first, end;  ///< pages
    int pools[3];    ///< of page first + lane % 8, and one and two rounds later
  };
  static constexpr int scoring_round = 8 * kStepWarps;

  __device__ int look_up(int first, int end) const {
    return first < end ? table_[min(first + static_cast<int>(threadIdx.x) % 8, end - 1)] : 0;
  }
  /// Where a warp has 16-byte piece x of a page's summary: those of odd pages change places, so that the four
  /// lanes of two pages meet all banks.
  __device__ uint4* summary_piece(int turn, int page, int x) const {
    return reinterpret_cast<uint4*>(shared_.summaries[threadIdx.x / 32][turn % 2][page]) + (x ^ page % 2 * 4);
  }
  __device__ void read_summaries(int turn, bool exist, int pool) const {
    if (exist) {
      constexpr int pieces = 2 * row_vectors;
#pragma unroll
      for (int i = 0; i < lane_pieces; ++i) {
        const int x = i * 32 + threadIdx.x % 32, page = x / pieces;
        const int64_t row = summary_row(params_.heads.n_kv_heads, __shfl_sync(~0u, pool, page), head_);
        copy_async(shared_address(summary_piece(turn, page, x % pieces)),
                   static_cast<const T*>(params_.kv.summaries) + row * 2 * D + x % pieces * kVec<T>, true);
      }
    }
    commit_copies();
  }
  __device__ Scoring plan_scoring() const {
    const int share = ceil_div(layout_.cluster.divide(newest_page_ + cluster_ - 1), 8) * 8;
    const int begin = share * rank_, end = min(begin + share, newest_page_);
    const int mine = begin + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kPrefetchedPages && mine < end)
      prefetch(static_cast<const T*>(params_.kv.summaries) +
                   summary_row(params_.heads.n_kv_heads, table_[mine], head_) * 2 * D,
               2 * D * static_cast<int>(sizeof(T)));
    const int first = begin + static_cast<int>(threadIdx.x) / 32 * 8;
    return {
        first,
        end,
        {look_up(first, end), look_up(first + scoring_round, end), look_up(first + 2 * scoring_round, end)}};
  }
  __device__ void begin_scoring(const Scoring& scoring) const {
    read_summaries(0, scoring.first < scoring.end, scoring.pools[0]);
    read_summaries(1, scoring.first + scoring_round < scoring.end, scoring.pools[1]);
  }

  /// Eight pages a warp at a time; the next sixteen are under way meanwhile.
  __device__ void score(Scoring scoring) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    ScoreRange range;
    const auto give = [&](float2 scores, int page, int end) {
      if (page < end) range.include(scores.x);
      if (page + 1 < end) range.include(scores.y);
      this->give(scores, page, end);
    };
#pragma unroll 1
    for (int turn = 0; scoring.first < scoring.end; ++turn, scoring.first += scoring_round) {
      wait_for_copies<1>();
      __syncwarp();
      Summary now;
#pragma unroll
      for (int i = 0; i < lane_pieces; ++i) now[i] = *summary_piece(turn, g, i * 4 + t);
      __syncwarp();
      read_summaries(turn, scoring.first + 2 * scoring_round < scoring.end, scoring.pools[2]);
      scoring.pools[2] = look_up(scoring.first + 3 * scoring_round, scoring.end);
      give(score_of(now), scoring.first + 2 * t, scoring.end);
    }
    wait_for_copies<0>();
    // The step's own page competes with what its keys are up to now: the same warp appended the token.
    if (!newest_is_given_ && rank_ == cluster_ - 1 && threadIdx.x >= kStepThreads - 32) {
      const T* keys = static_cast<const T*>(params_.kv.k) + pool_row(table_[newest_page_], 0);
      Summary own;
#pragma unroll 1
      for (int i = 0; i < lane_pieces; ++i) {
        const uint4 piece = extreme_keys(keys, newest_offset() + 1, i * 4 + t);
#pragma unroll
        for (int x = 0; x < lane_pieces; ++x)
          if (x == i) own[x] = piece;
      }
      const float2 scores = score_of(own);
      if (t == 0) give(scores, newest_page_, newest_page_ + 1);
    }
    const uint2 keys = range.of_warp();
    const int block = threadIdx.x % 32;
    if (block < cluster_)
      store_in_cluster(
          in_block(shared_address(&shared_.select.range[rank_ * kStepWarps + threadIdx.x / 32]), block),
          keys);
  }

  // --- selection: by every block of the cluster; each keeps its part of the list
  __device__ int select(bool chooses) const {
    const int n_listed = taken_ + (newest_is_given_ ? 1 : 0);
    const int first = layout_.cluster.divide(n_listed * rank_),
              end = layout_.cluster.divide(n_listed * (rank_ + 1));
    const int64_t list = static_cast<int64_t>(i_) * params_.heads.n_kv_heads + head_;
    int32_t* const pages = params_.lists.pages + list * params_.lists.capacity;
    const auto list_page = [&](int place, int page) {
      if (place < first || place >= end) return;
      listed_[place - first] = {page, params_.window > 1 ? last_loaded_[page] : -1, table_[page]};
      pages[place] = page;
    };
    if (chooses) {
      const ScoredPage last =
          find_kth_best(shared_.scores, candidates_, taken_, cluster_ * kStepWarps, shared_.select);
      for_each_selected(shared_.scores, candidates_, last, shared_.select, list_page);
    }
    // What there is no choice about: all pages, or the step's own.
    for (int place = (chooses ? taken_ : 0) + threadIdx.x; place < n_listed; place += kStepThreads)
      list_page(place, place < taken_ ? place : newest_page_);
    if (rank_ == 0 && threadIdx.x == 0) params_.lists.count[list] = n_listed;
    return end - first;
  }

  // --- attention: a warp has a group of 16 rows and every n-th chunk of the block's pages, in a buffer of
  // its own
  struct Part16 {
    int group, warp, warps;  ///< group of rows, number within its warps, and how many they are
  };
  static constexpr int groups = kRowGroups<R>, tiles = kGroupTiles<R>;
  __device__ static Part16 part_of(int warp) {
    if (warp < kFirstWarps || groups == 1) return {0, warp, kFirstWarps};
    constexpr int past = groups > 1 ? groups - 1 : 1;
    const int x = warp - kFirstWarps;
    return {1 + x % past, x / past, warps_of(1 + x % past)};
  }
  __device__ static int warps_of(int group) {
    constexpr int past = groups > 1 ? groups - 1 : 1;
    return group == 0 ? kFirstWarps : (kStepWarps - kFirstWarps - group) / past + 1;
  }
  __device__ static int warp_of(int group, int x) {
    constexpr int past = groups > 1 ? groups - 1 : 1;
    return group == 0 ? x : kFirstWarps + x * past + group - 1;
  }

  __device__ void attend(int n_listed) const {
    const int warp = threadIdx.x / 32;
    if (groups == 1 && warp >= kFirstWarps) {
      if (appends() && warp == kStepWarps - 1) summarise_newest_page();
      return;
    }
    const Part16 part = part_of(warp);
    const int page_chunks = layout_.page_chunks.divisor,
              n_chunks = part.group * 16 < rows_ ? n_listed * page_chunks : 0;
    // The youngest query of the group's rows: it has been shown the least, and may see the most.
    const int youngest = slot_of(part.group * 16);
    VisibleRows<tiles> rows;
#pragma unroll
    for (int x = 0; x < 2 * tiles; ++x) {
      const int r = part.group * 16 + x / 2 * 8 + threadIdx.x % 4 * 2 + x % 2, slot = slot_of(r);
      rows.last_visible[x / 2][x % 2] = r < rows_ ? step_.position - slot : -1;
      rows.unseen_before[x / 2][x % 2] = slot == 0 ? INT_MAX : step_.position - slot;
    }
    // The next chunk that any of the warp's rows may have to see, from x on.
    const auto next = [&](int x) {
#pragma unroll 1
      for (; x < n_chunks; x += part.warps) {
        const int place = layout_.page_chunks.divide(x);
        const ListedPage page = listed_[place];
        const int offset = (x - place * page_chunks) * kChunk,
                  position = page.page * params_.kv.page_size + offset;
        if (position <= step_.position - youngest &&
            (youngest == 0 || page.previous < step_.position - youngest))
          return Place{x, position, page.previous, page.pool, offset};
      }
      return kNoPlace;
    };
    // A lone group has the buffers of the other warps, too: two chunks are under way.
    constexpr int ahead = groups == 1 ? 2 : 1;
    static_assert(ahead == 1 || 2 * kFirstWarps <= kStepWarps);
    WarpBuffer<T, D>* buffers[ahead];
#pragma unroll
    for (int x = 0; x < ahead; ++x) buffers[x] = &shared_.buffer[warp + x * kFirstWarps];
    WarpAttention<T, D, tiles> mine;
    stream_chunks<ahead>(mine, &shared_.q[part.group * 16], params_.heads, params_.kv, head_, step_.position,
                         params_.scale, rows, buffers, part.warp, part.warps, next, [] {});
    leave_results(mine, *buffers[0], shared_.warp_state[warp]);
    if (groups > 1 && appends() && warp == kStepWarps - 1) summarise_newest_page();
  }

  // --- results
  /// Row r is merged by block r % cluster, which is handed [r / cluster][block][d].
  __device__ void hand_over() const {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int r = threadIdx.x / 32; r < rows_; r += kStepWarps) {
      const int group = r / 16, n = warps_of(group);
      const float2 state = lane < n ? shared_.warp_state[warp_of(group, lane)][r % 16] : float2{-INFINITY, 0};
      const RowSum row =
          add_up<D>(state, n, [&](int x) { return shared_.buffer[warp_of(group, x)].out[r % 16]; });
      const int turn = layout_.cluster.divide(r), owner = r - turn * cluster_,
                place = turn * cluster_ + rank_;
      if (lane == 0)
        store_in_cluster(in_block(shared_address(&shared_.handed_state[place]), owner),
                         make_float2(row.largest, row.sum));
      if (row.sum > 0 && lane * 4 < D)
        store_in_cluster(in_block(shared_address(shared_.scores + place * D + lane * 4), owner), row.out);
    }
  }

  __device__ int first_own_row() const { return rank_ + static_cast<int>(threadIdx.x) / 32 * cluster_; }
  /// Index of a row in out and lse.
  __device__ int64_t item_of(int r) const {
    const int slot = slot_of(r);
    return static_cast<int64_t>(step_.row - slot) * params_.heads.n_q_heads + head_ * group_ + r -
           slot * group_;
  }
  __device__ void prefetch_cached() const {
    const int r = first_own_row();
    if (r < group_ || r >= rows_) return;
    const int c = static_cast<int>(threadIdx.x) % 32 * 32;  // a line of 128 bytes each
    if (c < D) prefetch(params_.out + item_of(r) * D + c);
    if (threadIdx.x % 32 == 31) prefetch(params_.lse + item_of(r));
  }
  __device__ void merge_rows() const {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int r = first_own_row(), turn = threadIdx.x / 32; r < rows_;
         r += kStepWarps * cluster_, turn += kStepWarps) {
      const int first = turn * cluster_;
      const RowSum row =
          add_up<D>(lane < cluster_ ? shared_.handed_state[first + lane] : float2{-INFINITY, 0}, cluster_,
                    [&](int block) { return shared_.scores + (first + block) * D; });
      const bool is_past = r >= group_;
      if (is_past && !(row.sum > 0)) continue;  // nothing new: the cached result keeps its bits
      const int64_t item = item_of(r);
      const float cached_lse = is_past ? params_.lse[item] : -INFINITY;
      const bool merges = cached_lse != -INFINITY;
      const float normaliser = row.normaliser();
      float lse = row.lse();
      MergeWeights weights{};
      if (merges) {
        weights = merge_weights(cached_lse, lse);
        lse = weights.lse;
      }
      if (lane * 4 < D) {
        float4& out = *reinterpret_cast<float4*>(params_.out + item * D + lane * 4);
        float4 own{normaliser * row.out.x, normaliser * row.out.y, normaliser * row.out.z,
                   normaliser * row.out.w};
        if (merges) {
          const float4 cached = out;
          own = {weights(cached.x, own.x), weights(cached.y, own.y), weights(cached.z, own.z),
                 weights(cached.w, own.w)};
        }
        out = own;
      }
      __syncwarp();  // all lanes have read the cached LSE
      if (lane == 0) params_.lse[item] = lse;
    }
  }

  const DecodeStepParams& params_;
  Shared& shared_;
  ListedPage* listed_;
  StepLayout layout_;
  int group_;
  int cluster_, rank_, i_, head_;
  Step step_;
  int newest_page_, rows_, candidates_, taken_;
  bool newest_is_given_;
  const int32_t* table_;    ///< of the sequence
  const T* first_query_;    ///< of the step, head 0
  int64_t source_row_ = 0;  ///< of the step's own token in packed keys and values (elements)
  int32_t* last_loaded_;    ///< of the sequence and head
};

#endif

template <class T, int D, int R>
__global__ __launch_bounds__(kStepThreads,
                             1) void decode_step_kernel(const __grid_constant__ DecodeStepParams params,
                                                        StepLayout layout) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_grid_start();
  StepBlock<T, D, R>(params, *reinterpret_cast<StepShared<T, D, R>*>(shared_bytes), layout).run();
#endif
}

int rows_of(const DecodeStepParams& params) {
  return params.window * params.heads.n_q_heads / params.heads.n_kv_heads;
}

StepLayout layout_of(const DecodeStepParams& params, int cluster) {
  const int rows = ceil_div(rows_of(params), cluster) * cluster;
  return {ceil_div(std::max(params.n_pages, rows * params.heads.head_dim), kVecScores) * kVecScores,
          ceil_div(params.lists.capacity, cluster) + 1,
          Divisor(params.heads.n_q_heads / params.heads.n_kv_heads), Divisor(params.kv.page_size / kChunk),
          Divisor(cluster)};
}

/// Calls f(TypeTag<T>, integral_constant<D>, integral_constant<R>) for what the kernel takes.
template <class F>
cudaError_t dispatch_step(const DecodeStepParams& params, F&& f) {
  return dispatch(params.heads, [&](auto type, auto head_dim) -> cudaError_t {
    using T = typename decltype(type)::type;
    if constexpr (kMmaTakes<T, head_dim()>)
      return dispatch_mma_rows(rows_of(params), [&](auto rows) { return f(type, head_dim, rows); });
    return cudaErrorInvalidValue;
  });
}

/// How the kernel is launched with a cluster. `config` points into this.
struct StepLaunch {
  StepLayout layout;
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};

  template <class T, int D, int R>
  StepLaunch(TypeTag<T>, std::integral_constant<int, D>, std::integral_constant<int, R>,
             const DecodeStepParams& params, int cluster, cudaStream_t stream)
      : layout(layout_of(params, cluster)) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(cluster, params.heads.n_kv_heads, params.n_steps);
    config.blockDim = dim3(kStepThreads);
    config.dynamicSmemBytes =
        sizeof(StepShared<T, D, R>) + sizeof(float) * layout.scores + sizeof(ListedPage) * layout.pages;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
};

/// Allows the kernel the shared memory and the cluster.
template <class Kernel>
cudaError_t allow(Kernel kernel, size_t shared_bytes) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

}  // namespace

int32_t plan_decode_step(const DecodeStepParams& params, const DeviceLimits& device) {
  const int rows = rows_of(params);
  if (device.compute_capability < 90 || params.n_steps == 0 || rows < 1 || rows > kLargeTile ||
      !takes_mma(params.kv))
    return 0;
  int32_t planned = 0;
  const cudaError_t error = dispatch_step(params, [&](auto type, auto head_dim, auto tile) {
    const auto kernel = decode_step_kernel<typename decltype(type)::type, head_dim(), tile()>;
    const int64_t clusters = static_cast<int64_t>(params.n_steps) * params.heads.n_kv_heads;
    // The largest clusters that all run at the same time; single blocks may take turns.
    for (int cluster = kMaxCluster; cluster >= 1 && planned == 0; --cluster) {
      if (cluster > 1 && clusters * cluster > device.multiprocessors) continue;
      StepLaunch launch(type, head_dim, tile, params, cluster, nullptr);
      if (static_cast<int64_t>(launch.config.dynamicSmemBytes) > device.shared_bytes_per_block) continue;
      const cudaError_t allowed = allow(kernel, launch.config.dynamicSmemBytes);
      if (allowed != cudaSuccess) return allowed;
      launch.config.numAttrs = 1;
      int active = 0;
      const cudaError_t asked = cudaOccupancyMaxActiveClusters(&active, kernel, &launch.config);
      if (asked != cudaSuccess) return asked;
      if (active >= clusters || (cluster == 1 && active > 0)) planned = cluster;
    }
    return cudaSuccess;
  });
  if (error != cudaSuccess) cudaGetLastError();  // not of later calls
  return planned;
}

cudaError_t decode_step(const DecodeStepParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.cluster < 1 || params.cluster > kMaxCluster || rows_of(params) > kLargeTile)
    return cudaErrorInvalidValue;
  return dispatch_step(params, [&](auto type, auto head_dim, auto tile) {
    const auto kernel = decode_step_kernel<typename decltype(type)::type, head_dim(), tile()>;
    const StepLaunch launch(type, head_dim, tile, params, params.cluster, stream);
    const cudaError_t error = allow(kernel, launch.config.dynamicSmemBytes);
    if (error != cudaSuccess) return error;
    return cudaLaunchKernelEx(&launch.config, kernel, params, launch.layout);
  });
}

}  // namespace hindsight::kernels
