// A whole decode step of Quest, refined or not, in one launch (compute capability 9.0): a cluster of blocks
// takes one sequence and KV head. Its blocks share out the pages to score and give each score to all; each
// finds the k-th best by itself and attends to its part of the chosen pages; results of rows are merged by
// the block that owns the row. Four cluster barriers, most of them in two halves with work between:
//   1  all blocks run                     (before scores are given away)
//   2  all scores are there               (before selection)
//   3  scores are no longer needed        (before results are handed over, in their place)
//   4  all results are there              (before rows are merged)

#include <algorithm>
#include <climits>

#include "kernels/block_select.cuh"
#include "kernels/cluster.cuh"
#include "kernels/dispatch.cuh"
#include "kernels/lane_group.cuh"
#include "kernels/mma_attention.cuh"

namespace hindsight::kernels {
namespace {

/// Two blocks of a multiprocessor hide one another's latencies; 64 rows need all of it.
template <int R>
inline constexpr int kStepThreads = kMmaThreads<R> > 256 ? kMmaThreads<R> : 256;

/// Sizes that are known at launch.
struct StepLayout {
  int scores;  ///< floats: scores of all pages, and later the results that a block is handed
  int pages;   ///< that a block attends to
};

template <class T, int D, int R>
struct StepShared {
  MmaShared<T, D, R> attention;
  /// Maximum (base 2) and sum of each row that the block owns, from every block: [row / cluster][block].
  float2 handed_state[R + kMaxCluster];
  alignas(16) float scores[1];  // and more: StepLayout::scores, then StepLayout::pages ints
};

/// What is in place of keys and values until attention begins: weights of scoring, then selection.
template <int D, int Threads>
union StepScratch {
  float weights[kMaxGroup][2 * D];
  SelectShared<Threads> select;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// The rows of a step's window over the pages that the block attends to.
struct StepProblem {
  const DecodeStepParams& params;
  Step step;
  int head, n_rows;
  const int* pages;
  int n_pages;
  const int32_t* last_loaded;  ///< of the sequence and head; null for a window of 1

  __device__ int group() const { return params.heads.n_q_heads / params.heads.n_kv_heads; }
  __device__ int rows() const { return n_rows; }
  __device__ QueryRow row(int r) const {
    const int slot = r / group(), position = step.position - slot;
    return {
        step.sequence, position, head * group() + r % group(), position, slot == 0 ? INT_MAX : position, r};
  }
  __device__ int tokens() const { return n_pages * params.kv.page_size; }
  __device__ Token token(int x) const {
    const int page = pages[x / params.kv.page_size];
    return {page * params.kv.page_size + x % params.kv.page_size,
            last_loaded == nullptr ? -1 : last_loaded[page], page};
  }
  __device__ int last_position() const { return step.position; }
  __device__ int sequence() const { return step.sequence; }
  __device__ int kv_head() const { return head; }
};

/// A page's summary as the lanes of a half-warp hold it, one row of 2d elements (maximum, minimum).
template <class T, int D>
struct SummaryPart {
  static constexpr int vectors = 2 * D / kVec<T>, pieces = (vectors + kGroupLanes - 1) / kGroupLanes;
  static constexpr int elements = pieces * kVec<T>;

  static __device__ void load(const T* row, uint4 (&raw)[pieces]) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int vector = i * kGroupLanes + group_lane();
      raw[i] = vector < vectors ? *reinterpret_cast<const uint4*>(row + vector * kVec<T>) : uint4{};
    }
  }
  /// The lane's part of 2d weights in shared memory.
  static __device__ void load_weights(const float* weights, float (&part)[elements]) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int vector = i * kGroupLanes + group_lane();
#pragma unroll
      for (int c = 0; c < kVec<T>; c += 4) {
        float4 four{};
        if (vector < vectors) four = *reinterpret_cast<const float4*>(weights + vector * kVec<T> + c);
        part[i * kVec<T> + c] = four.x;
        part[i * kVec<T> + c + 1] = four.y;
        part[i * kVec<T> + c + 2] = four.z;
        part[i * kVec<T> + c + 3] = four.w;
      }
    }
  }
  /// Sum of weight * element over the row, in all lanes.
  static __device__ float weigh(const uint4 (&raw)[pieces], const float (&weights)[elements]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const T* values = reinterpret_cast<const T*>(&raw[i]);
#pragma unroll
      for (int c = 0; c < kVec<T>; ++c) sum += weights[i * kVec<T> + c] * to_float(values[c]);
    }
    return group_sum(sum);
  }
};

/// Everything a block knows of its step.
template <class T, int D, int R>
class StepBlock {
 public:
  static constexpr int threads = kStepThreads<R>;
  using Shared = StepShared<T, D, R>;
  using Scratch = StepScratch<D, threads>;
  using Part = SummaryPart<T, D>;
  static_assert(sizeof(Scratch) <= sizeof(MmaShared<T, D, R>::stage));

  __device__ StepBlock(const DecodeStepParams& params, Shared& shared, StepLayout layout)
      : params_(params),
        shared_(shared),
        scratch_(*reinterpret_cast<Scratch*>(&shared.attention.stage)),
        pages_(reinterpret_cast<int*>(shared.scores + layout.scores)),
        cluster_(gridDim.x),
        rank_(blockIdx.x),
        i_(blockIdx.y / params.heads.n_kv_heads),
        head_(blockIdx.y % params.heads.n_kv_heads),
        step_(params.steps[i_]),
        newest_page_(step_.position / params.kv.page_size) {
    const int group = params.heads.n_q_heads / params.heads.n_kv_heads;
    newest_is_given_ = params.newest != Newest::competes;
    candidates_ = newest_is_given_ ? newest_page_ : newest_page_ + 1;
    const int wanted = params.newest == Newest::forced ? params.k[i_] - 1 : params.k[i_];
    taken_ = min(max(wanted, 0), candidates_);
    scored_heads_ = params.combine == Combine::max || params.round_to_storage ? group : 1;
    rows_ = min(params.window, step_.window_rows) * group;
    last_loaded_ =
        params.window == 1
            ? nullptr
            : params.last_loaded +
                  (static_cast<int64_t>(step_.sequence) * params.heads.n_kv_heads + head_) * params.n_pages;
  }

  __device__ void run() {
    cluster_arrive();  // 1
    const StepProblem whole{params_, step_, head_, rows_, pages_, 0, last_loaded_};
    const bool chooses = 0 < taken_ && taken_ < candidates_;
    if (chooses) look_up_pages();
    load_query_tile<T, D, R>(whole, params_.heads, params_.q, shared_.attention.q);
    uint4 appended[append_pieces];
    if (appends()) read_appended(appended);
    __syncthreads();
    if (chooses) weigh_queries();
    __syncthreads();
    cluster_wait();  // 1
    if (chooses) score();
    if (appends()) write_appended(appended);
    __syncwarp();
    cluster_arrive();  // 2
    cluster_wait();    // 2
    const int n_pages = select(chooses);
    __syncwarp();
    cluster_arrive();  // 3: scores have been read; the barrier before attention shows the pages to all
                       // threads

    const StepProblem problem{params_, step_, head_, rows_, pages_, n_pages, last_loaded_};
    WarpAttention<T, D> mine;
    const bool has_result =
        attend_stages<threads>(problem, params_.heads, params_.kv, params_.scale, 0,
                               ceil_div(problem.tokens(), kStageTokens), shared_.attention, mine);
    cluster_wait();  // 3
    if (has_result) hand_over(mine);
    __syncwarp();
    cluster_arrive();  // 4
    if (last_loaded_ != nullptr)
      for (int x = threadIdx.x; x < n_pages; x += threads) last_loaded_[pages_[x]] = step_.position;
    if (rank_ == cluster_ - 1) summarise_newest_page();
    prefetch_cached();
    __syncwarp();
    cluster_wait();  // 4
    merge_rows();
  }

 private:
  static constexpr int row_vectors = D / kVec<T>;
  static constexpr int append_pieces = (2 * row_vectors + 31) / 32;

  // --- the step's own token: appended by the last warp of the last block, which scores meanwhile
  __device__ bool appends() const { return rank_ == cluster_ - 1 && threadIdx.x >= threads - 32; }
  __device__ int64_t source_row() const {
    return (params_.first_row[step_.sequence] + step_.position) * params_.heads.n_kv_heads + head_;
  }
  __device__ int64_t newest_pool_page() const { return pool_page(params_.kv, step_.sequence, newest_page_); }
  __device__ void read_appended(uint4 (&pieces)[append_pieces]) const {
#pragma unroll
    for (int x = 0; x < append_pieces; ++x) {
      const int vector = x * 32 + threadIdx.x % 32;
      if (vector >= 2 * row_vectors) continue;
      const T* from = static_cast<const T*>(vector < row_vectors ? params_.appended_k : params_.appended_v);
      pieces[x] = *reinterpret_cast<const uint4*>(from + source_row() * D + vector % row_vectors * kVec<T>);
    }
  }
  __device__ void write_appended(const uint4 (&pieces)[append_pieces]) const {
    const int64_t row = token_row(params_.kv, params_.heads.n_kv_heads, newest_pool_page(), head_,
                                  step_.position % params_.kv.page_size);
#pragma unroll
    for (int x = 0; x < append_pieces; ++x) {
      const int vector = x * 32 + threadIdx.x % 32;
      if (vector >= 2 * row_vectors) continue;
      T* to = static_cast<T*>(vector < row_vectors ? params_.kv.k : params_.kv.v);
      *reinterpret_cast<uint4*>(to + row * D + vector % row_vectors * kVec<T>) = pieces[x];
    }
  }
  /// From its keys, not from the old summary: that may cover tokens which were taken back.
  __device__ void summarise_newest_page() const {
    const int64_t pool = newest_pool_page();
    const T* keys = static_cast<const T*>(params_.kv.k) +
                    token_row(params_.kv, params_.heads.n_kv_heads, pool, head_, 0) * D;
    T* summary =
        static_cast<T*>(params_.kv.summaries) + summary_row(params_.heads.n_kv_heads, pool, head_) * 2 * D;
    for (int c = threadIdx.x; c < D; c += threads) {
      float largest = -INFINITY, smallest = INFINITY;
#pragma unroll 8
      for (int token = 0; token <= step_.position % params_.kv.page_size; ++token) {
        const float key = to_float(keys[token * D + c]);
        largest = fmaxf(largest, key);
        smallest = fminf(smallest, key);
      }
      summary[c] = from_float<T>(largest);
      summary[D + c] = from_float<T>(smallest);
    }
  }

  // --- scoring: sum_c max(q_c*kmin_c, q_c*kmax_c) = [q+, q-].[kmax, kmin]
  /// Complete pages of the block: those that end before the step's own page.
  __device__ int first_scored() const { return min(rank_ * ceil_div(newest_page_, cluster_), newest_page_); }
  __device__ int scored_end() const {
    return min(first_scored() + ceil_div(newest_page_, cluster_), newest_page_);
  }

  /// Where the block's pages lie, in place of their scores.
  __device__ void look_up_pages() const {
    for (int page = first_scored() + threadIdx.x; page < scored_end(); page += threads)
      shared_.scores[page] = __int_as_float(static_cast<int>(pool_page(params_.kv, step_.sequence, page)));
  }

  /// Weights of the heads, whose queries are the first rows of the tile. Sums and means over a group are sums
  /// of weights: one row.
  __device__ void weigh_queries() const {
    const int group = params_.heads.n_q_heads / params_.heads.n_kv_heads;
    const int summed = group / scored_heads_;
    const float factor =
        params_.combine == Combine::mean && summed > 1 ? 1.0f / static_cast<float>(group) : 1.0f;
    for (int x = threadIdx.x; x < scored_heads_ * D; x += threads) {
      const int h = x / D, c = x % D;
      float positive = 0, negative = 0;
      for (int g = 0; g < summed; ++g) {
        const float q = to_float(shared_.attention.q[h * summed + g][c]);
        positive += fmaxf(q, 0.0f);
        negative += fminf(q, 0.0f);
      }
      scratch_.weights[h][c] = factor * positive;
      scratch_.weights[h][D + c] = factor * negative;
    }
  }

  __device__ void score() const {
    constexpr int at_once = Part::pieces <= 2 ? 8 : 4;  // 16 loads of 16 bytes under way
    constexpr int half_warps = threads / kGroupLanes;
    const int end = scored_end();
    const uint32_t scores = shared_address(shared_.scores);
    // A lane gives the half-warp's scores to one block.
    const uint32_t there = in_block(scores, group_lane() < cluster_ ? group_lane() : 0);
    const auto give = [&](int page, float score) {
      if (group_lane() < cluster_) store_in_cluster(there + page * sizeof(float), score);
    };
    for (int first = first_scored() + threadIdx.x / kGroupLanes; first < end; first += at_once * half_warps) {
      uint4 raw[at_once][Part::pieces];
#pragma unroll
      for (int j = 0; j < at_once; ++j)
        if (first + j * half_warps < end)
          Part::load(summary_of(__float_as_int(shared_.scores[first + j * half_warps])), raw[j]);
      float combined[at_once] = {};
      for (int h = 0; h < scored_heads_; ++h) {
        float weights[Part::elements];
        Part::load_weights(scratch_.weights[h], weights);
#pragma unroll
        for (int j = 0; j < at_once; ++j) combined[j] = combine(h, combined[j], Part::weigh(raw[j], weights));
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j)
        if (first + j * half_warps < end) give(first + j * half_warps, finish(combined[j]));
    }
    // The step's own page competes with what its keys are up to now, the token to be appended among them.
    if (!newest_is_given_ && rank_ == cluster_ - 1 && threadIdx.x < kGroupLanes)
      give(newest_page_, score_of_newest_page());
    __syncwarp();
  }

  __device__ const T* summary_of(int64_t pool) const {
    return static_cast<const T*>(params_.kv.summaries) +
           summary_row(params_.heads.n_kv_heads, pool, head_) * 2 * D;
  }
  __device__ float combine(int h, float combined, float score) const {
    if (params_.round_to_storage) score = round_to_finite<T>(score);
    if (h == 0) return score;
    return params_.combine == Combine::max ? fmaxf(combined, score) : combined + score;
  }
  __device__ float finish(float combined) const {
    return params_.combine == Combine::mean && scored_heads_ > 1
               ? combined / static_cast<float>(scored_heads_)
               : combined;
  }

  /// By one half-warp.
  __device__ float score_of_newest_page() const {
    const T* keys = static_cast<const T*>(params_.kv.k) +
                    token_row(params_.kv, params_.heads.n_kv_heads, newest_pool_page(), head_, 0) * D;
    const T* appended = static_cast<const T*>(params_.appended_k) + source_row() * D;
    uint4 raw[Part::pieces];
#pragma unroll
    for (int i = 0; i < Part::pieces; ++i) {
      const int vector = i * kGroupLanes + group_lane();
      if (vector >= Part::vectors) {
        raw[i] = uint4{};
        continue;
      }
      const int c = vector % row_vectors * kVec<T>;
      float extreme[kVec<T>];
      load_vec<T>(appended + c, extreme);
      for (int token = 0; token < step_.position % params_.kv.page_size; ++token) {
        float key[kVec<T>];
        load_vec<T>(keys + token * D + c, key);
#pragma unroll
        for (int e = 0; e < kVec<T>; ++e)
          extreme[e] = vector < row_vectors ? fmaxf(extreme[e], key[e]) : fminf(extreme[e], key[e]);
      }
      T* values = reinterpret_cast<T*>(&raw[i]);
#pragma unroll
      for (int e = 0; e < kVec<T>; ++e) values[e] = from_float<T>(extreme[e]);
    }
    float combined = 0;
    for (int h = 0; h < scored_heads_; ++h) {
      float weights[Part::elements];
      Part::load_weights(scratch_.weights[h], weights);
      combined = combine(h, combined, Part::weigh(raw, weights));
    }
    return finish(combined);
  }

  // --- selection: by every block of the cluster; each keeps its part of the list
  __device__ int select(bool chooses) const {
    const int listed = taken_ + (newest_is_given_ ? 1 : 0);
    const int first = static_cast<int>(static_cast<int64_t>(listed) * rank_ / cluster_);
    const int end = static_cast<int>(static_cast<int64_t>(listed) * (rank_ + 1) / cluster_);
    const int64_t list = static_cast<int64_t>(i_) * params_.heads.n_kv_heads + head_;
    const auto list_page = [&](int place, int page) {
      if (place < first || place >= end) return;
      pages_[place - first] = page;
      params_.lists.pages[list * params_.lists.capacity + place] = page;
    };
    if (chooses) {
      const uint64_t threshold = find_kth_best(shared_.scores, candidates_, taken_, scratch_.select);
      for_each_selected(shared_.scores, candidates_, threshold, scratch_.select, list_page);
    } else {
      for (int page = threadIdx.x; page < taken_; page += threads) list_page(page, page);
    }
    if (threadIdx.x == 0) {
      if (newest_is_given_) list_page(taken_, newest_page_);
      if (rank_ == 0) params_.lists.count[list] = listed;
    }
    return end - first;
  }

  // --- results: row r is merged by block r % cluster, which is handed [r / cluster][block][d]
  __device__ void hand_over(const WarpAttention<T, D>& mine) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = threadIdx.x / 32 / kChunkWarps * 16 + half * 8 + lane / 4;
      if (r >= rows_) continue;
      const int owner = r % cluster_, place = r / cluster_ * cluster_ + rank_;
      if (lane % 4 == 0)
        store_in_cluster(in_block(shared_address(&shared_.handed_state[place]), owner),
                         make_float2(mine.max[half], mine.sum[half]));
      if (mine.sum[half] == 0) continue;
      const uint32_t to = in_block(shared_address(shared_.scores + place * D + lane % 4 * 2), owner);
#pragma unroll
      for (int c = 0; c < D / 8; ++c)
        store_in_cluster(to + c * 8 * sizeof(float),
                         make_float2(mine.out[c][half * 2], mine.out[c][half * 2 + 1]));
    }
  }

  /// Calls f(r, item) for the rows that the warp merges, item being the row's index in out and lse.
  template <class F>
  __device__ void for_each_own_row(F&& f) const {
    const int group = params_.heads.n_q_heads / params_.heads.n_kv_heads;
    for (int r = rank_ + static_cast<int>(threadIdx.x) / 32 * cluster_; r < rows_;
         r += threads / 32 * cluster_)
      f(r, static_cast<int64_t>(step_.row - r / group) * params_.heads.n_q_heads + head_ * group + r % group);
  }
  __device__ void prefetch_cached() const {
    const int group = params_.heads.n_q_heads / params_.heads.n_kv_heads;
    for_each_own_row([&](int r, int64_t item) {
      if (r < group) return;
      const int c = static_cast<int>(threadIdx.x) % 32 * 32;  // a line of 128 bytes each
      if (c < D) prefetch(params_.out + item * D + c);
      if (threadIdx.x % 32 == 31) prefetch(params_.lse + item);
    });
  }
  __device__ void merge_rows() const {
    const int group = params_.heads.n_q_heads / params_.heads.n_kv_heads, lane = threadIdx.x % 32;
    for_each_own_row([&](int r, int64_t item) {
      const int first_place = r / cluster_ * cluster_;
      float2 state{-INFINITY, 0};
      if (lane < cluster_) state = shared_.handed_state[first_place + lane];
      const float largest = warp_max(state.x);
      const float weight = state.y > 0 ? exp2f(state.x - largest) : 0.0f;
      const float sum = warp_sum(weight * state.y);
      const bool is_past = r >= group;
      if (is_past && !(sum > 0)) return;  // nothing new: the cached result keeps its bits

      float lse = sum > 0 ? largest * kLn2 + logf(sum) : -INFINITY;
      const float normaliser = sum > 0 ? 1.0f / sum : 0.0f;
      const float cached_lse = is_past ? params_.lse[item] : -INFINITY;
      const bool merges = is_past && cached_lse != -INFINITY;
      MergeWeights weights{};
      if (merges) {
        weights = merge_weights(cached_lse, lse);
        lse = weights.lse;
      }
      float own[(D + 31) / 32] = {};
      for (int block = 0; block < cluster_; ++block) {
        const float block_weight = __shfl_sync(~0u, weight, block);
        if (block_weight == 0) continue;  // nothing was handed over
#pragma unroll
        for (int x = 0; x < (D + 31) / 32; ++x)
          if (x * 32 + lane < D)
            own[x] += block_weight * shared_.scores[(first_place + block) * D + x * 32 + lane];
      }
#pragma unroll
      for (int x = 0; x < (D + 31) / 32; ++x) {
        if (x * 32 + lane >= D) continue;
        float& out = params_.out[item * D + x * 32 + lane];
        out = merges ? weights(out, normaliser * own[x]) : normaliser * own[x];
      }
      __syncwarp();  // all lanes have read the cached LSE
      if (lane == 0) params_.lse[item] = lse;
    });
  }

  const DecodeStepParams& params_;
  Shared& shared_;
  Scratch& scratch_;
  int* pages_;
  int cluster_, rank_, i_, head_;
  Step step_;
  int newest_page_, candidates_, taken_, scored_heads_, rows_;
  bool newest_is_given_;
  int32_t* last_loaded_;
};

#endif

template <class T, int D, int R>
__global__ __launch_bounds__(kStepThreads<R>, kStepThreads<R> > 256 ? 1 : 2) void decode_step_kernel(
    const __grid_constant__ DecodeStepParams params, StepLayout layout) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  wait_for_previous_grid();
  let_next_grid_start();
  StepBlock<T, D, R>(params, *reinterpret_cast<StepShared<T, D, R>*>(shared_bytes), layout).run();
#endif
}

int group_of(const DecodeStepParams& params) { return params.heads.n_q_heads / params.heads.n_kv_heads; }
int rows_of(const DecodeStepParams& params) { return params.window * group_of(params); }

StepLayout layout_of(const DecodeStepParams& params, int cluster) {
  const int rows = ceil_div(rows_of(params), cluster) * cluster;
  return {(std::max(params.n_pages, rows * params.heads.head_dim) + 3) / 4 * 4,
          ceil_div(params.lists.capacity, cluster) + 1};
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

template <class T, int D, int R>
int64_t shared_bytes(const StepLayout& layout) {
  return static_cast<int64_t>(sizeof(StepShared<T, D, R>)) + int64_t{4} * layout.scores +
         int64_t{4} * layout.pages;
}

/// Allows the kernel the shared memory and the cluster, and fills in how it is launched.
template <class T, int D, int R>
cudaError_t configure(const DecodeStepParams& params, int cluster, cudaStream_t stream,
                      cudaLaunchAttribute (&attributes)[2], cudaLaunchConfig_t& config) {
  const auto kernel = decode_step_kernel<T, D, R>;
  const auto bytes = static_cast<int>(shared_bytes<T, D, R>(layout_of(params, cluster)));
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error != cudaSuccess) return error;
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config = {};
  config.gridDim = dim3(cluster, params.n_steps * params.heads.n_kv_heads);
  config.blockDim = dim3(kStepThreads<R>);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaSuccess;
}

}  // namespace

int32_t plan_decode_step(const DecodeStepParams& params, const DeviceLimits& device) {
  const int rows = rows_of(params);
  if (device.compute_capability < 90 || params.n_steps == 0 || rows < 1 || rows > kLargeTile ||
      !takes_mma(params.kv))
    return 0;
  int32_t planned = 0;
  dispatch_step(params, [&](auto type, auto head_dim, auto tile) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim(), R = tile();
    const int64_t clusters = static_cast<int64_t>(params.n_steps) * params.heads.n_kv_heads;
    for (int cluster = kMaxCluster; cluster >= 1 && planned == 0; cluster /= 2) {
      const int64_t bytes = shared_bytes<T, D, R>(layout_of(params, cluster));
      if (bytes > device.shared_bytes_per_block) continue;
      // As many blocks as run at the same time, or one for each sequence and head.
      const int64_t at_once = R <= 32 && 2 * (bytes + 1024) <= device.shared_bytes_per_multiprocessor ? 2 : 1;
      if (cluster > 1 && clusters * cluster > at_once * device.multiprocessors) continue;
      cudaLaunchAttribute attributes[2];
      cudaLaunchConfig_t config;
      int active = 0;
      if (configure<T, D, R>(params, cluster, nullptr, attributes, config) == cudaSuccess) {
        config.numAttrs = 1;
        if (cudaOccupancyMaxActiveClusters(&active, decode_step_kernel<T, D, R>, &config) != cudaSuccess)
          active = 0;
      }
      cudaGetLastError();  // what a size that cannot be had has left
      if (active > 0) planned = cluster;
    }
    return cudaSuccess;
  });
  return planned;
}

cudaError_t decode_step(const DecodeStepParams& params, cudaStream_t stream) {
  if (params.n_steps == 0) return cudaSuccess;
  if (params.cluster < 1 || params.cluster > kMaxCluster || rows_of(params) > kLargeTile)
    return cudaErrorInvalidValue;
  return dispatch_step(params, [&](auto type, auto head_dim, auto tile) {
    using T = typename decltype(type)::type;
    constexpr int D = head_dim(), R = tile();
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config;
    const cudaError_t error = configure<T, D, R>(params, params.cluster, stream, attributes, config);
    if (error != cudaSuccess) return error;
    return cudaLaunchKernelEx(&config, decode_step_kernel<T, D, R>, params,
                              layout_of(params, params.cluster));
  });
}

}  // namespace hindsight::kernels
