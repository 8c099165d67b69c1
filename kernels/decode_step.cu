// A whole decode step of Quest, refined or not, in one launch (compute capability 9.0): a cluster of blocks
// takes one sequence and KV head. Its blocks share out the pages to score and give each score to all; each
// finds the k-th best by itself and attends to its part of the chosen pages; results of rows are merged by
// the block that owns the row. Scores and results are stored into the other blocks' shared memory, where a
// barrier counts the bytes: whoever waits for them waits for nothing else. Two barriers of the whole cluster,
// in two halves with work between:
//   1  all blocks run                (before scores are given away)
//   2  scores are no longer needed   (before results are handed over, in their place)
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
#include "kernels/mbarrier.cuh"
#include "kernels/warp_stream.cuh"

namespace hindsight::kernels {
namespace {

constexpr int kStepThreads = 512;
constexpr int kStepWarps = kStepThreads / 32;

/// Sizes that are known at launch.
struct StepLayout {
  int scores;      ///< floats: scores of all pages, and later the results that a block is handed
  int pages;       ///< that a block attends to, at most
  int work;        ///< bytes from the beginning of shared memory: where StepShared::Work lies
  int past_warps;  ///< that attend for groups of past rows
  Divisor group, page_chunks, cluster;
};

/// A page to attend to.
struct ListedPage {
  int page, previous, pool;
};

/// Rows of weights are padded: two of them, four 16-byte pieces each, meet all banks.
template <int D>
inline constexpr int kWeightStride = 2 * D + (D / 4 % 8 == 4 ? 0 : 32);

/// Summaries of eight pages, those of even pages first, then half of the banks' width, then those of odd
/// pages: what four lanes each read of two pages meets all banks.
template <class T, int D>
struct SummaryTile {
  alignas(16) T at[8 * 2 * D + 32];
  __device__ T* page(int x) { return at + (x / 2 + x % 2 * 4) * 2 * D + x % 2 * 32; }
};

/// Warps of the first rows, which the step's own query is among: its result has the same bits whatever the
/// window.
constexpr int kFirstWarps = 8, kMostPastWarps = kStepWarps - kFirstWarps;

/// How the rows of a tile fall into groups, each of which some warps attend for: the first ones, and those of
/// past queries, which have seen most pages.
template <int R, int First>
struct RowGroups {
  static constexpr int past_tiles = R - First > 8 ? 2 : 1;  ///< of eight rows, of a group of past rows
  static constexpr int past_rows = 8 * past_tiles, past = ceil_div(R - First, past_rows);
  /// Chunks that a warp of the first rows has under way, in a buffer each. Other warps have one.
  static constexpr int ahead = R <= 32 ? 2 : 1;
  static constexpr int first_buffers = kFirstWarps * ahead;

  static __host__ __device__ constexpr int group_of(int row) { return (row - First) / past_rows; }
  static __host__ __device__ constexpr int first_row(int group) { return First + group * past_rows; }
};

template <class T, int D, int R>
struct StepShared {
  alignas(128) T q[R][kMmaStride<D>];
  float2 warp_state[kStepWarps][16];  ///< maximum (base 2) and sum of a warp's rows
  /// The same of the rows that the block owns, from every block: [row / cluster][block].
  float2 handed_state[R + kMaxCluster];
  uint64_t summaries_came[kStepWarps][2];  ///< barriers of what a warp copies
  uint64_t scores_came, results_came;      ///< and of what other blocks store
  alignas(16) float scores[4];  ///< and more: StepLayout::scores, then StepLayout::pages of ListedPage

  struct Scoring {
    alignas(16) T weights[kMaxGroup][kWeightStride<D>];
    SelectShared<kStepThreads> select;
    SummaryTile<T, D> summaries[kStepWarps][2];
  };
  union Work {
    Scoring scoring;
    WarpBuffer<T, D> buffer[1];  ///< and more: RowGroups::first_buffers, then one for each warp of past rows
  };
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// Summaries that a block asks the L2 cache for while the grid before still runs: 17 MB on 132
/// multiprocessors, of which others' keys and values should not be driven out.
constexpr int kPrefetchedPages = 256;

/// Everything a block knows of its step.
template <class T, int D, int R, int First>
class StepBlock {
 public:
  using Shared = StepShared<T, D, R>;
  using Groups = RowGroups<R, First>;

  __device__ StepBlock(const DecodeStepParams& params, Shared& shared, StepLayout layout)
      : params_(params),
        shared_(shared),
        work_(*reinterpret_cast<typename Shared::Work*>(reinterpret_cast<unsigned char*>(&shared) +
                                                        layout.work)),
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
    const bool chooses = 0 < taken_ && taken_ < candidates_;
    prepare_barriers();
    cluster_arrive();  // 1
    // Until the grid before has ended: what that grid cannot have written, and the L2 cache, which shows what
    // is written later.
    Scoring scoring{};
    if (chooses) scoring = plan_scoring();
    prefetch_inputs();
    prepare_selection(shared_.scores, candidates_, work_.scoring.select);
    wait_for_previous_grid();
    if (!params_.q.rows_are_old) find_queries();
    QueryPieces queries;
    read_queries(queries);
    if (chooses) begin_scoring(scoring);
    store_queries(queries);
    __syncthreads();
    expect(chooses);
    cluster_wait();  // 1
    if (appends()) append();
    if (chooses) {
      score(scoring);
      wait_for_phase(shared_.scores_came, 0);
    }
    const int n_listed = select(chooses);
    __syncthreads();
    cluster_arrive();  // 2: scores have been read
    attend(n_listed);
    if (params_.window > 1)
      for (int x = threadIdx.x; x < n_listed; x += kStepThreads)
        last_loaded_[listed_[x].page] = step_.position;
    __syncthreads();
    cluster_wait();  // 2
    // Results of earlier steps are on their way while this one's are handed over.
    const Cached cached = read_cached(first_own_row());
    hand_over();
    wait_for_phase(shared_.results_came, 0);
    merge_rows(cached);
  }

 private:
  static constexpr int row_vectors = D / kVec<T>;
  static constexpr int kLinePages = 128 / sizeof(int32_t);  ///< whose last loads are a line of the L2 cache

  /// Barriers of what is copied and given to this block: as soon as they exist, bytes may come.
  __device__ void prepare_barriers() const {
    const int lane = threadIdx.x % 32;
    if (lane < 2) init_barrier(shared_.summaries_came[threadIdx.x / 32][lane], 1);
    if (threadIdx.x == 0) {
      init_barrier(shared_.scores_came, 1);
      init_barrier(shared_.results_came, 1);
    }
    show_barriers();
    __syncwarp();
  }
  /// All scores, and the results of the rows that the block owns.
  __device__ void expect(bool chooses) const {
    if (threadIdx.x != 0) return;
    const int own_rows = layout_.cluster.divide(rows_ - rank_ + cluster_ - 1);
    arrive_expecting(shared_.scores_came, chooses ? candidates_ * static_cast<int>(sizeof(float)) : 0);
    arrive_expecting(shared_.results_came,
                     own_rows * cluster_ * static_cast<int>(sizeof(float2) + D * sizeof(float)));
  }
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
    // When pages were loaded last: the blocks of the cluster share out the lines.
    if (params_.window > 1)
      for (int line = cluster_ * static_cast<int>(threadIdx.x) + rank_; line <= newest_page_ / kLinePages;
           line += cluster_ * kStepThreads)
        prefetch(last_loaded_ + line * kLinePages);
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
  static __device__ uint4 even_words_first(uint4 piece) { return {piece.x, piece.z, piece.y, piece.w}; }
  /// And what scores are the product of with summaries: max(q, 0) and min(q, 0) of the heads of the step's
  /// own query, the first rows. Heads that do not exist weigh 0.
  __device__ void store_queries(const QueryPieces& pieces) const {
    const int heads = ceil_div(group_, 8) * 8;
#pragma unroll
    for (int i = 0; i < thread_vectors; ++i) {
      const int x = i * kStepThreads + threadIdx.x, r = x / row_vectors, c = x % row_vectors * kVec<T>;
      if (x >= R * row_vectors) continue;
      *reinterpret_cast<uint4*>(&shared_.q[r][c]) = pieces[i];
      if (r >= heads) continue;
      float q[kVec<T>];
      load_vec<T>(reinterpret_cast<const T*>(&pieces[i]), q);
      uint4 positive, negative;
#pragma unroll
      for (int e = 0; e < kVec<T>; ++e) {
        const float weight = r < group_ ? q[e] : 0.0f;
        reinterpret_cast<T*>(&positive)[e] = from_float<T>(fmaxf(weight, 0.0f));
        reinterpret_cast<T*>(&negative)[e] = from_float<T>(fminf(weight, 0.0f));
      }
      *reinterpret_cast<uint4*>(&work_.scoring.weights[r][c]) = even_words_first(positive);
      *reinterpret_cast<uint4*>(&work_.scoring.weights[r][D + c]) = even_words_first(negative);
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

  // --- scoring: sum_c max(q_c*kmin_c, q_c*kmax_c) = [q+, q-].[kmax, kmin], eight pages times heads on tensor
  // cores. An instruction's order of elements is free as long as both operands have it: a lane reads whole
  // 16-byte pieces of both. Rows g and g + 8 of the first operand are a page's even and odd words, so that a
  // piece is an operand as it is; the weights of even and of odd words come in two instructions, each of
  // which is right for one of the rows.
  static constexpr int lane_pieces = 2 * row_vectors / 4;  ///< of a page's summary: four lanes share it
  using Summary = uint4[lane_pieces];

  /// Score of page g of the eight that the warp holds (lane 4g + t has some pieces of page g), in all lanes
  /// of the same g.
  __device__ float score_of(const Summary& summary) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool takes_max = params_.combine == Combine::max;
    float combined = takes_max ? -INFINITY : 0.0f;
#pragma unroll 1
    for (int first = 0; first < group_; first += 8) {
      float even[4] = {}, odd[4] = {};
#pragma unroll
      for (int i = 0; i < lane_pieces; ++i) {
        const uint4 w =
            *reinterpret_cast<const uint4*>(&work_.scoring.weights[first + g][(i * 4 + t) * kVec<T>]);
        const uint32_t piece[4] = {summary[i].x, summary[i].y, summary[i].z, summary[i].w};
        mma(even, piece, w.x, w.y, T{});
        mma(odd, piece, w.z, w.w, T{});
      }
      // Of heads 2t and 2t + 1.
      float score[2] = {even[0] + odd[2], even[1] + odd[3]};
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        if (params_.round_to_storage) score[x] = round_to_finite<T>(score[x]);
        if (!takes_max)
          combined += score[x];
        else if (first + 2 * t + x < group_)
          combined = fmaxf(combined, score[x]);
      }
    }
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
      const float other = __shfl_xor_sync(~0u, combined, offset);
      combined = takes_max ? fmaxf(combined, other) : combined + other;
    }
    if (params_.combine == Combine::mean) combined *= __fdividef(1.0f, static_cast<float>(group_));
    return fminf(fmaxf(combined, -FLT_MAX), FLT_MAX);
  }

  /// A page's score to all blocks of the cluster: by lane t of four to blocks t, t + 4, ...
  __device__ void give(float score, int page) const {
    const uint32_t to = shared_address(shared_.scores + page), came = shared_address(&shared_.scores_came);
#pragma unroll 1
    for (int block = threadIdx.x % 4; block < cluster_; block += 4)
      store_async(in_block(to, block), score, in_block(came, block));
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
  /// A lane copies a page's.
  __device__ void read_summaries(int turn, int first, int end, int pool) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pages = min(end - first, 8);
    constexpr int bytes = 2 * D * sizeof(T);
    uint64_t& came = shared_.summaries_came[warp][turn % 2];
    if (lane == 0 && pages > 0) arrive_expecting(came, pages * bytes);
    if (lane < pages)
      copy_bulk(work_.scoring.summaries[warp][turn % 2].page(lane),
                static_cast<const T*>(params_.kv.summaries) +
                    summary_row(params_.heads.n_kv_heads, pool, head_) * 2 * D,
                bytes, came);
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
    read_summaries(0, scoring.first, scoring.end, scoring.pools[0]);
    read_summaries(1, scoring.first + scoring_round, scoring.end, scoring.pools[1]);
  }

  /// Eight pages a warp at a time; the next sixteen are under way meanwhile.
  __device__ void score(Scoring scoring) const {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll 1
    for (int turn = 0; scoring.first < scoring.end; ++turn, scoring.first += scoring_round) {
      wait_for_phase(shared_.summaries_came[warp][turn % 2], turn / 2 % 2);
      const uint4* const summary =
          reinterpret_cast<const uint4*>(work_.scoring.summaries[warp][turn % 2].page(g));
      Summary now;
#pragma unroll
      for (int i = 0; i < lane_pieces; ++i) now[i] = summary[i * 4 + t];
      __syncwarp();
      read_summaries(turn, scoring.first + 2 * scoring_round, scoring.end, scoring.pools[2]);
      scoring.pools[2] = look_up(scoring.first + 3 * scoring_round, scoring.end);
      const float score = score_of(now);
      if (scoring.first + g < scoring.end) give(score, scoring.first + g);
    }
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
      const float score = score_of(own);
      if (g == 0) give(score, newest_page_);
    }
  }

  // --- selection: by every block of the cluster; each keeps its part of the list
  __device__ int select(bool chooses) const {
    const int n_listed = taken_ + (newest_is_given_ ? 1 : 0);
    const int first = layout_.cluster.divide(n_listed * rank_),
              end = layout_.cluster.divide(n_listed * (rank_ + 1));
    const int64_t list = static_cast<int64_t>(i_) * params_.heads.n_kv_heads + head_;
    int32_t* const pages = params_.lists.pages + list * params_.lists.capacity;
    if (chooses)
      for_each_of_best(shared_.scores, candidates_, taken_, work_.scoring.select, [&](int place, int page) {
        if (first <= place && place < end) listed_[place - first].page = page;
      });
    // What there is no choice about: all pages, or the step's own.
    for (int place = max(chooses ? taken_ : 0, first) + static_cast<int>(threadIdx.x); place < end;
         place += kStepThreads)
      listed_[place - first].page = place < taken_ ? place : newest_page_;
    __syncthreads();
    for (int place = first + static_cast<int>(threadIdx.x); place < end; place += kStepThreads) {
      ListedPage& listed = listed_[place - first];
      listed.previous = params_.window > 1 ? last_loaded_[listed.page] : -1;
      listed.pool = table_[listed.page];
      pages[place] = listed.page;
    }
    if (rank_ == 0 && threadIdx.x == 0) params_.lists.count[list] = n_listed;
    return end - first;
  }

  // --- attention: a warp has a group of rows and every n-th chunk of the block's pages, in buffers of its
  // own
  __device__ int warps_of(int past_group) const {
    constexpr int groups = Groups::past > 0 ? Groups::past : 1;
    return (layout_.past_warps - past_group + groups - 1) / groups;
  }
  __device__ WarpBuffer<T, D>* past_buffer(int x) const { return work_.buffer + Groups::first_buffers + x; }

  __device__ void attend(int n_listed) const {
    const int warp = threadIdx.x / 32, past_warp = warp - kFirstWarps;
    const bool attends = past_warp < layout_.past_warps, summarises = appends() && warp == kStepWarps - 1;
    if (!attends && summarises) summarise_newest_page();
    if (warp < kFirstWarps) {
      WarpBuffer<T, D>* buffers[Groups::ahead];
#pragma unroll
      for (int x = 0; x < Groups::ahead; ++x) buffers[x] = work_.buffer + warp + x * kFirstWarps;
      attend_rows<First / 8>(0, n_listed, warp, kFirstWarps, buffers);
    } else if constexpr (Groups::past > 0) {
      if (!attends) return;
      const int group = past_warp % Groups::past;
      WarpBuffer<T, D>* const buffers[] = {past_buffer(past_warp)};
      attend_rows<Groups::past_tiles>(Groups::first_row(group), n_listed, past_warp / Groups::past,
                                      warps_of(group), buffers);
    }
    if (attends && summarises) summarise_newest_page();
  }
  /// For N tiles of eight rows from first_row on; the x-th of `warps`.
  template <int N, int Ahead>
  __device__ void attend_rows(int first_row, int n_listed, int x, int warps,
                              WarpBuffer<T, D>* const (&buffers)[Ahead]) const {
    const int page_chunks = layout_.page_chunks.divisor,
              n_chunks = first_row < rows_ ? n_listed * page_chunks : 0;
    // The youngest query of the rows: it has been shown the least, and may see the most.
    const int youngest = slot_of(first_row);
    VisibleRows<N> rows;
#pragma unroll
    for (int x = 0; x < 2 * N; ++x) {
      const int r = first_row + x / 2 * 8 + threadIdx.x % 4 * 2 + x % 2, slot = slot_of(r);
      rows.last_visible[x / 2][x % 2] = r < rows_ ? step_.position - slot : -1;
      rows.unseen_before[x / 2][x % 2] = slot == 0 ? INT_MAX : step_.position - slot;
    }
    // The next chunk that any of the rows may have to see, from x on.
    const auto next = [&](int x) {
#pragma unroll 1
      for (; x < n_chunks; x += warps) {
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
    WarpAttention<T, D, N> mine;
    stream_chunks<Ahead>(mine, &shared_.q[first_row], R - first_row, params_.heads, params_.kv, head_,
                         step_.position, params_.scale, rows, buffers, x, warps, next, [] {});
    leave_results(mine, *buffers[0], shared_.warp_state[threadIdx.x / 32]);
  }

  // --- results
  /// Row r is merged by block r % cluster, which is handed [r / cluster][block][d]. Half a warp takes a row
  /// where there are many: what has to be done once for a row is most of it.
  __device__ void hand_over() const {
    constexpr int lanes = R > 8 ? 16 : 32;
#pragma unroll 1
    for (int r = threadIdx.x / lanes; r < rows_; r += kStepThreads / lanes) {
      int n = kFirstWarps, first_warp = 0, stride = 1, tile_row = r;
      const WarpBuffer<T, D>* buffers = work_.buffer;
      if (Groups::past > 0 && r >= First) {
        const int group = Groups::group_of(r);
        n = warps_of(group);
        first_warp = kFirstWarps + group;
        stride = Groups::past;
        tile_row = r - Groups::first_row(group);
        buffers = past_buffer(group);
      }
      const auto row = add_up<D, lanes>(
          n, [&](int x) { return shared_.warp_state[first_warp + x * stride][tile_row]; },
          [&](int x) { return buffers[x * stride].out[tile_row]; });
      const int turn = layout_.cluster.divide(r), owner = r - turn * cluster_,
                place = turn * cluster_ + rank_;
      const uint32_t came = in_block(shared_address(&shared_.results_came), owner);
      if (threadIdx.x % lanes == 0)
        store_async(in_block(shared_address(&shared_.handed_state[place]), owner),
                    make_float2(row.largest, row.sum), came);
#pragma unroll
      for (int piece = 0; piece < row.pieces; ++piece)
        if (const int c = row.element(piece); c < D)
          store_async(in_block(shared_address(shared_.scores + place * D + c), owner), row.out[piece], came);
    }
  }

  __device__ int first_own_row() const { return rank_ + static_cast<int>(threadIdx.x) / 32 * cluster_; }
  /// Index of a row in out and lse.
  __device__ int64_t item_of(int r) const {
    const int slot = slot_of(r);
    return static_cast<int64_t>(step_.row - slot) * params_.heads.n_q_heads + head_ * group_ + r -
           slot * group_;
  }
  /// What an earlier step left of a row; -inf and zeros of rows that none has.
  struct Cached {
    float lse;
    float4 out;  ///< a lane's elements
  };
  __device__ Cached read_cached(int r) const {
    Cached cached{-INFINITY, {}};
    if (r < group_ || r >= rows_) return cached;
    const int lane = threadIdx.x % 32;
    const int64_t item = item_of(r);
    cached.lse = params_.lse[item];
    if (lane * 4 < D) cached.out = *reinterpret_cast<const float4*>(params_.out + item * D + lane * 4);
    return cached;
  }
  /// `upcoming`: of the warp's first row.
  __device__ void merge_rows(Cached upcoming) const {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int r = first_own_row(), turn = threadIdx.x / 32; r < rows_;
         r += kStepWarps * cluster_, turn += kStepWarps) {
      const Cached cached = upcoming;
      upcoming = read_cached(r + kStepWarps * cluster_);
      const int first = turn * cluster_;
      const auto row = add_up<D>(
          cluster_, [&](int block) { return shared_.handed_state[first + block]; },
          [&](int block) { return shared_.scores + (first + block) * D; });
      static_assert(row.pieces == 1);
      if (r >= group_ && !(row.sum > 0)) continue;  // nothing new: the cached result keeps its bits
      const int64_t item = item_of(r);
      const bool merges = cached.lse != -INFINITY;
      float lse = row.lse();
      MergeWeights weights{};
      if (merges) {
        weights = merge_weights(cached.lse, lse);
        lse = weights.lse;
      }
      if (lane * 4 < D) {
        float4 own = row.normalised(0);
        if (merges)
          own = {weights(cached.out.x, own.x), weights(cached.out.y, own.y), weights(cached.out.z, own.z),
                 weights(cached.out.w, own.w)};
        *reinterpret_cast<float4*>(params_.out + item * D + lane * 4) = own;
      }
      __syncwarp();  // all lanes have read the cached LSE
      if (lane == 0) params_.lse[item] = lse;
    }
  }

  const DecodeStepParams& params_;
  Shared& shared_;
  typename Shared::Work& work_;
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

template <class T, int D, int R, int First>
__global__ __launch_bounds__(kStepThreads,
                             1) void decode_step_kernel(const __grid_constant__ DecodeStepParams params,
                                                        StepLayout layout) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_grid_start();
  StepBlock<T, D, R, First>(params, *reinterpret_cast<StepShared<T, D, R>*>(shared_bytes), layout).run();
#endif
}

/// Shared memory that a block can have, with the 1 KB that the system takes, on a multiprocessor that is set
/// up for 196 KB, as products of few rows have it (two blocks of 96 KB). The next larger setting is 228 KB,
/// and a multiprocessor changes its setting only when it is idle: a larger block does not start while such
/// products still run, nor do they while it does.
constexpr size_t kEarlyBytes = (196 - 1) << 10;
constexpr int kFewPastWarps = 2;

int group_of(const DecodeStepParams& params) { return params.heads.n_q_heads / params.heads.n_kv_heads; }
int rows_of(const DecodeStepParams& params) { return params.window * group_of(params); }

/// A kernel, and how much shared memory its blocks have.
template <class T, int D, int R, int First>
struct StepKernel {
  using Shared = StepShared<T, D, R>;
  using Groups = RowGroups<R, First>;
  static constexpr auto* run = decode_step_kernel<T, D, R, First>;

  static StepLayout layout(const DecodeStepParams& params, StepPlan plan) {
    const int rows = ceil_div(rows_of(params), plan.cluster) * plan.cluster;
    const int scores = ceil_div(std::max(params.n_pages, rows * D), kVecScores) * kVecScores,
              pages = ceil_div(params.lists.capacity, plan.cluster) + 1;
    const size_t before_work = sizeof(Shared) + sizeof(float) * scores + sizeof(ListedPage) * pages;
    return {scores,
            pages,
            static_cast<int>(ceil_div(before_work, alignof(typename Shared::Work)) *
                             alignof(typename Shared::Work)),
            plan.past_warps,
            Divisor(group_of(params)),
            Divisor(params.kv.page_size / kChunk),
            Divisor(plan.cluster)};
  }
  static size_t shared_bytes(const StepLayout& layout) {
    const size_t buffers = Groups::first_buffers + layout.past_warps;
    return layout.work + std::max(sizeof(typename Shared::Scoring), buffers * sizeof(WarpBuffer<T, D>));
  }
  /// Shared memory and clusters of more than eight blocks are allowed once asked for.
  static cudaError_t allow(size_t bytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(run, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
};

/// Calls f(StepKernel) for what the kernel takes: the tile that holds the rows best.
template <class F>
cudaError_t dispatch_step(const DecodeStepParams& params, F&& f) {
  return dispatch(params.heads, [&](auto type, auto head_dim) -> cudaError_t {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim();
    if constexpr (kMmaTakes<T, D>) {
      const int rows = rows_of(params);
      if (group_of(params) > 8) return f(StepKernel<T, D, 64, 16>());
      if (rows <= 8) return f(StepKernel<T, D, 8, 8>());
      if (rows <= 16) return f(StepKernel<T, D, 16, 8>());
      if (rows <= 32) return f(StepKernel<T, D, 32, 8>());
      return f(StepKernel<T, D, 64, 8>());
    }
    return cudaErrorInvalidValue;
  });
}

/// How the kernel is launched with a cluster. `config` points into this.
struct StepLaunch {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};

  StepLaunch(const DecodeStepParams& params, int cluster, size_t shared_bytes, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(cluster, params.heads.n_kv_heads, params.n_steps);
    config.blockDim = dim3(kStepThreads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
};

/// Clusters of the plan that all run at the same time.
template <class Kernel>
cudaError_t count_active(Kernel kernel, const DecodeStepParams& params, StepPlan plan, int& active) {
  const size_t bytes = kernel.shared_bytes(kernel.layout(params, plan));
  const cudaError_t allowed = kernel.allow(bytes);
  if (allowed != cudaSuccess) return allowed;
  StepLaunch launch(params, plan.cluster, bytes, nullptr);
  launch.config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(&active, kernel.run, &launch.config);
}

}  // namespace

StepPlan plan_decode_step(const DecodeStepParams& params, const DeviceLimits& device) {
  const int rows = rows_of(params);
  if (device.compute_capability < 90 || params.n_steps == 0 || rows < 1 || rows > kLargeTile ||
      params.n_pages > kMostPages<kStepThreads> || !takes_mma(params.kv))
    return {};
  StepPlan planned;
  const cudaError_t error = dispatch_step(params, [&](auto kernel) {
    constexpr int past_groups = decltype(kernel)::Groups::past;
    const int64_t clusters = static_cast<int64_t>(params.n_steps) * params.heads.n_kv_heads;
    // The largest clusters that all run at the same time; single blocks may take turns.
    for (int cluster = kMaxCluster; cluster >= 1 && planned.cluster == 0; --cluster) {
      if (cluster > 1 && clusters * cluster > device.multiprocessors) continue;
      // As many warps for past rows as there are buffers for: each group has one at least.
      StepPlan plan{cluster, past_groups == 0 ? 0 : kMostPastWarps};
      const auto fits = [&] {
        return static_cast<int64_t>(kernel.shared_bytes(kernel.layout(params, plan))) <=
               device.shared_bytes_per_block;
      };
      while (!fits() && plan.past_warps > past_groups) --plan.past_warps;
      if (!fits()) continue;
      // One group of past rows can do with fewer warps, where that lets the step start early.
      if (past_groups == 1 && cluster > 1) {
        StepPlan early = plan;
        const auto is_small = [&] {
          return kernel.shared_bytes(kernel.layout(params, early)) <= kEarlyBytes;
        };
        while (!is_small() && early.past_warps > kFewPastWarps) --early.past_warps;
        if (is_small()) plan = early;
      }
      int active = 0;
      const cudaError_t asked = count_active(kernel, params, plan, active);
      if (asked != cudaSuccess) return asked;
      if (active >= clusters || (cluster == 1 && active > 0)) planned = plan;
    }
    return cudaSuccess;
  });
  if (error != cudaSuccess) cudaGetLastError();  // not of later calls
  return planned;
}

cudaError_t decode_step(const DecodeStepParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.plan.cluster < 1 || params.plan.cluster > kMaxCluster || rows_of(params) > kLargeTile)
    return cudaErrorInvalidValue;
  return dispatch_step(params, [&](auto kernel) {
    const StepLayout layout = kernel.layout(params, params.plan);
    const size_t bytes = kernel.shared_bytes(layout);
    const cudaError_t error = kernel.allow(bytes);
    if (error != cudaSuccess) return error;
    const StepLaunch launch(params, params.plan.cluster, bytes, stream);
    return cudaLaunchKernelEx(&launch.config, kernel.run, params, layout);
  });
}

}  // namespace hindsight::kernels
