#pragma once
// Backend: a handful of primitives over a block of decode steps. A method is policy written once over them
// (lib/methods), and a replay is the only loop over steps (lib/replay). The primitives serve two modes with
// the same code:
//   fidelity: a block of hundreds of consecutive steps of one sequence;
//   latency:  a block of one step of each sequence of a batch, as a serving engine would run it.
//
// Letters: n steps of a block, w window, Hq query heads, Hkv KV heads, G = Hq/Hkv, d head dimension, p page
// size, U selection units (Hkv or Hq), J pages a sequence can hold, K pages a list can hold. Page j of a
// sequence holds its tokens [j*p, (j+1)*p). Positions, tokens and pages count from 0 within their sequence.
// LSE is always the natural logarithm. Scores, partial results and LSE are float (double in the oracle),
// keys, values and queries are in the storage type on CUDA and widened on the CPU.
//
// Tensors live where the backend computes. Policy code passes them on; only downloads show values to the
// host. All primitives may return before the work is done; download(), Transfer and Stopwatch wait for it.
// One thread calls a backend; what others may do is said where they may.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/selection_counts.h"
#include "core/view.h"
#include "trace/trace.h"

namespace hindsight {

class Backend;
class ModelPrimitives;

/// Memory of a backend, freed with the last owner. Uninitialised unless said otherwise.
class Storage {
 public:
  virtual ~Storage() = default;
  virtual void* data() const = 0;
  virtual int64_t bytes() const = 0;
};

/// Row-major array on a backend. Cheap to copy (shared).
template <class T, int Rank>
struct Tensor {
  std::shared_ptr<Storage> storage;
  std::array<int64_t, Rank> shape{};
  int64_t byte_offset = 0;  ///< of the first element in the storage; not 0 for some rows of a larger tensor
  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
  T* data() const {
    return storage ? reinterpret_cast<T*>(static_cast<std::byte*>(storage->data()) + byte_offset) : nullptr;
  }
  View<T, Rank> view() const { return View<T, Rank>(data(), shape); }
};

/// Bytes on their way to the host. Any one thread may wait for them; a transfer that is destroyed has ended.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Waits for the work before the transfer, and for it. Valid as long as the transfer.
  virtual std::span<const std::byte> wait() = 0;
};

/// A tensor's values on their way to the host, from a backend that may outrun them.
template <class T>
class Download {
 public:
  Download() = default;
  Download(std::shared_ptr<Storage> source, std::unique_ptr<Transfer> transfer, int64_t element_bytes)
      : source_(std::move(source)), transfer_(std::move(transfer)), element_bytes_(element_bytes) {}
  /// Waits.
  std::vector<T> get() const {
    const std::span<const std::byte> bytes = transfer_->wait();
    std::vector<T> values(bytes.size() / static_cast<size_t>(element_bytes_));
    if constexpr (std::is_same_v<T, float>) {
      if (element_bytes_ == sizeof(double)) {
        const auto* const wide = reinterpret_cast<const double*>(bytes.data());
        std::transform(wide, wide + values.size(), values.begin(),
                       [](double value) { return static_cast<float>(value); });
        return values;
      }
    }
    std::copy_n(reinterpret_cast<const T*>(bytes.data()), values.size(), values.data());
    return values;
  }

 private:
  std::shared_ptr<Storage> source_;  ///< outlives the transfer
  std::unique_ptr<Transfer> transfer_;
  int64_t element_bytes_ = 0;
};

/// Which heads share one page set (retroattention paper, section 2; Quest's evaluation code selects per query
/// head).
enum class Unit { per_kv_head, per_query_head };
/// How the scores of the G query heads of a KV head become one; no effect under per_query_head.
enum class Combine { max, mean, sum };
/// What becomes of the newest page: it is always loaded and counts towards k; it must win its place like any
/// other; or it is loaded on top of the k others.
enum class Newest { forced, competes, extra };

struct UnitPolicy {
  Unit unit = Unit::per_kv_head;
  Combine combine = Combine::mean;
};

/// One row of a block: the decode step of `position` in sequence `sequence` of the batch. Its past queries
/// are positions position-1 .. position-window_rows+1 (window_rows counts the row itself: min(w, steps since
/// the first replayed one + 1)). `row` numbers the query among all replayed ones (row of position-s is
/// row-s): the index into Outputs.
struct BlockStep {
  int32_t sequence = 0;
  int32_t position = 0;
  int32_t row = 0;
  int32_t window_rows = 1;
};

/// The steps of a block, on host and backend. Steps of one sequence are in ascending position.
struct Block {
  std::vector<BlockStep> steps;
  Tensor<BlockStep, 1> on_backend;
  int64_t size() const { return static_cast<int64_t>(steps.size()); }
};

/// Queries, keys and values of one layer of a batch of sequences, resident on the backend.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual int64_t bytes() const = 0;
  int64_t layer = 0, n_q_heads = 0, n_kv_heads = 0, head_dim = 0;
  double scale = 0;
  DType dtype = DType::float32;
  std::vector<int64_t> n_tokens;  ///< per sequence
  std::vector<int64_t> q_start;   ///< per sequence: first position with a query
  int64_t group() const { return n_q_heads / n_kv_heads; }
  int64_t units(Unit unit) const { return unit == Unit::per_kv_head ? n_kv_heads : n_q_heads; }
};

/// Paged keys and values of one layer of a batch, with the element-wise minimum and maximum of the keys of
/// each page, kept up to date by append(). Pages of all sequences share one pool; page tables map a
/// sequence's page to a pool page.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual int64_t bytes() const = 0;
  virtual int64_t summary_bytes() const = 0;  ///< of bytes(), those of the minima and maxima
  int64_t page_size = 0;
  int64_t max_pages = 0;            ///< J: of the longest sequence
  std::vector<int64_t> n_appended;  ///< tokens appended so far, per sequence
};

/// Tokens [from, to) of a sequence.
struct TokenRange {
  int64_t sequence = 0, from = 0, to = 0;
};

/// Rows [first_row, first_row + n) of arrays that a model computed: positions [first_position, first_position
/// + n) of a sequence.
struct RowRange {
  int64_t sequence = 0, first_position = 0, n = 0, first_row = 0;
};

/// What of a layer attention depends on.
struct LayerShape {
  int64_t layer = 0, n_q_heads = 0, n_kv_heads = 0, head_dim = 0;
  double scale = 0;
  /// What a device keeps queries, keys and values in. The CPU keeps what it computes with, whatever is said
  /// here.
  DType dtype = DType::float32;
};

/// How page summaries follow keys that are overwritten: made again from the keys that the page holds, or
/// widened to hold the new ones too (an upper bound still, of keys that are no more).
enum class Summaries { recompute, widen };

/// Page lists of a block: pages[i, u, 0..count[i,u]) are the pages that row i loads for unit u, ascending. k
/// is the same for all units.
struct PageLists {
  Tensor<int32_t, 3> pages;  ///< [n, U, K]
  Tensor<int32_t, 2> count;  ///< [n, U]
};

/// Page sets that are to be counted; n rows, U units.
struct SelectionSets {
  int64_t units_per_kv_head = 1;
  PageLists loaded;                 ///< S_t
  Tensor<int32_t, 3> previous;      ///< as note_loads gave it
  PageLists best;                   ///< what the oracle would have loaded
  Tensor<int32_t, 2> count_before;  ///< [n, U] |S_(t-1)|; 0 where there is no such step
  Tensor<float, 3> scores_before;   ///< [n, U, J] of step t-1; without storage: no late ranks
};

/// Results of attention over part of the tokens: out is normalised, lse its log-sum-exp. No token: out 0, lse
/// -inf. In a window, slot s of row i is the past query at position - s. T is float (double in the oracle;
/// data is then double).
struct Partials {
  Tensor<float, 4> out;  ///< [n, w, Hq, d]
  Tensor<float, 3> lse;  ///< [n, w, Hq]
};

/// Results of all replayed queries, indexed by BlockStep::row.
struct Outputs {
  Tensor<float, 3> out;  ///< [rows, Hq, d]
  Tensor<float, 2> lse;  ///< [rows, Hq]
};

/// Places in the first dimension of errors of outputs against a reference, [count, n, Hq].
struct FidelityErrors {
  static constexpr int64_t rel_l2 = 0, cosine = 1;  ///< NaN where the reference is 0
  static constexpr int64_t mass_recall =
      2;  ///< exp(lse - reference lse), at most 1: true mass of the tokens attended (open loop)
  static constexpr int64_t count = 3;
};

/// A step of a selector that scores by score_pages and selects by select_top_k, page sets per KV head.
struct BoundStep {
  Combine combine = Combine::mean;
  bool round_to_storage = false;
  Newest newest = Newest::forced;
  std::span<const int32_t> k;  ///< host, one per row
  int64_t window = 1;
  PageLists lists;
  Tensor<int32_t, 3> last_loaded;  ///< as note_loads; not used where window = 1
  Outputs outputs;
  bool is_written = false;  ///< the token at each row's position is in the cache (write) and is not appended
};

/// Primitives that were recorded once, to be run again with no host between them.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Runs the set-up and the work, waits, and returns the microseconds that the work took.
  virtual double replay_us() = 0;
  /// Runs set-up and work with what the host says now: both functions are called as when they were recorded,
  /// do what they do on the host, and hand small arrays over; nothing that they enqueue is. What a primitive
  /// planned from sizes when it was recorded stays. Does not wait.
  virtual void rerun(const std::function<void()>& set_up, const std::function<void()>& work) = 0;
};

/// Times of the pieces of a timed sequence of primitives.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  /// Ends a piece (the first call starts the first piece). Does not wait for the work.
  virtual void mark() = 0;
  /// Waits; microseconds between consecutive marks; starts anew.
  virtual std::vector<double> intervals_us() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string device_name() const = 0;  ///< "CPU, 2 threads", "cuda:0 NVIDIA H200"
  virtual std::string driver() const = 0;       ///< "" on the CPU
  /// Whether tensors lie in a device's memory, not in the host's.
  bool is_device() const { return !driver().empty(); }
  /// Bytes that may still be allocated.
  virtual int64_t available_bytes() const = 0;
  /// "" if the backend can run this, else one line saying what it cannot and what it can.
  virtual std::string unsupported(DType dtype, int64_t head_dim, int64_t group, int64_t page_size,
                                  int64_t window) const = 0;

  // --- memory
  virtual std::shared_ptr<Storage> allocate(
      int64_t bytes) = 0;  ///< throws EnvironmentError when out of memory
  virtual void upload(void* target, const void* source, int64_t bytes) = 0;
  virtual void download(void* target, const void* source,
                        int64_t bytes) = 0;  ///< waits for all work before it
  /// The same of `bytes` at `source`, waited for later. What is enqueued after it may write there again.
  virtual std::unique_ptr<Transfer> begin_download(const void* source, int64_t bytes);
  virtual void copy(void* target, const void* source, int64_t bytes) = 0;  ///< within the backend
  virtual std::unique_ptr<Stopwatch> make_stopwatch() = 0;
  /// Records what the two functions enqueue (a CUDA graph). Both are called twice, and the first time what
  /// they enqueue runs; they must ask for the same primitives each time, with tensors that stay, and read
  /// nothing back. Null, with nothing called, where a backend has nothing to gain.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& /*set_up*/,
                                            const std::function<void()>& /*work*/) {
    return nullptr;
  }
  /// Bytes of a floating-point element of scores, partials and outputs: 4, or 8 for the oracle in double.
  virtual int64_t real_bytes() const { return 4; }

  template <class T, int Rank>
  Tensor<T, Rank> make_tensor(const std::array<int64_t, Rank>& shape) {
    Tensor<T, Rank> tensor;
    tensor.shape = shape;
    tensor.storage = allocate(tensor.size() * element_bytes<T>());
    return tensor;
  }
  /// Rows [first, first + n) of a tensor, sharing its storage.
  template <class T, int Rank>
  Tensor<T, Rank> rows_of(const Tensor<T, Rank>& tensor, int64_t first, int64_t n) const {
    Tensor<T, Rank> rows = tensor;
    rows.shape[0] = n;
    rows.byte_offset +=
        first * (tensor.shape[0] > 0 ? tensor.size() / tensor.shape[0] : 0) * element_bytes<T>();
    return rows;
  }
  /// Bytes of a tensor's element.
  template <class T>
  int64_t element_bytes() const {
    return std::is_same_v<T, float> ? real_bytes() : static_cast<int64_t>(sizeof(T));
  }
  template <class T, int Rank>
  std::vector<T> to_host(const Tensor<T, Rank>& tensor) {
    std::vector<T> values(static_cast<size_t>(tensor.size()));
    download_reals_or_raw(values, tensor.data());
    return values;
  }
  template <class T, int Rank>
  Download<T> begin_to_host(const Tensor<T, Rank>& tensor) {
    return {tensor.storage, begin_download(tensor.data(), tensor.size() * element_bytes<T>()),
            element_bytes<T>()};
  }
  /// The reverse: `values` become the tensor's elements, as what they are on this backend.
  template <int Rank>
  void from_host(const Tensor<float, Rank>& tensor, std::span<const float> values) {
    if (real_bytes() == 8) {
      const std::vector<double> wide(values.begin(), values.end());
      upload(tensor.data(), wide.data(), tensor.size() * 8);
    } else {
      upload(tensor.data(), values.data(), tensor.size() * 4);
    }
  }
  Block make_block(std::vector<BlockStep> steps);
  Tensor<int32_t, 1> make_numbers(std::span<const int32_t> values);
  /// Other steps, no more of them than the block was made with: at the same place on the backend.
  void replace_steps(Block& block, std::vector<BlockStep> steps);

  // --- residency
  /// One LayerTensors per sequence of the batch; all of the same layer, heads, head_dim, scale and dtype. Any
  /// thread may call it, one at a time, while another calls primitives; the layer is there when it returns.
  virtual std::unique_ptr<Layer> load_layer(std::span<const LayerTensors> batch) = 0;
  /// An empty cache that can hold every token of `layer`'s sequences.
  virtual std::unique_ptr<KvCache> make_cache(const Layer& layer, int64_t page_size) = 0;

  // --- a model that decodes: rows come as they are computed, not from a trace
  /// A layer of a batch of sequences that can grow to `capacities` tokens each, with no queries yet.
  virtual std::unique_ptr<Layer> make_growing_layer(const LayerShape& shape,
                                                    std::span<const int64_t> capacities) = 0;
  /// The rows of q [rows, Hq, d] become the only queries of their sequences; at most one range of each.
  virtual void set_queries(Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> q) = 0;
  /// Writes rows of k and v [rows, Hkv, d] into the pages, after the tokens that a sequence has or over them
  /// (no gaps), and brings the summaries of touched pages up to date over all tokens that they then hold.
  /// `widen` concerns rows that are overwritten; a new token's key always counts as it is.
  virtual void write(KvCache& cache, const Layer& layer, std::span<const RowRange> ranges, Tensor<float, 3> k,
                     Tensor<float, 3> v, Summaries summaries) = 0;

  /// to[to_rows[i]] = from[from_rows[i]], i < n; rows that are empty tensors: row i. No row is both read and
  /// written.
  virtual void copy_rows(Tensor<float, 2> from, Tensor<int32_t, 1> from_rows, Tensor<float, 2> to,
                         Tensor<int32_t, 1> to_rows, int64_t n) = 0;
  /// errors[i] = ||x[i] - r|| / ||r||, r being row i of the references, one after another; NaN where r is 0.
  /// As many rows as x has, and as wide. Sums in double. A recording takes other references at every rerun.
  virtual void compare_rows(Tensor<float, 2> x, std::span<const Tensor<float, 2>> references,
                            Tensor<double, 1> errors) = 0;
  /// What a model's layers do around attention, on tensors of this backend; null where there is nothing of
  /// the kind and the host computes it (lib/model). Throws EnvironmentError where something that it needs is
  /// not installed. Lives as long as the backend.
  virtual ModelPrimitives* model_primitives() { return nullptr; }

  // --- primitives
  /// Copies keys and values of the ranges into the pages and brings the summaries of touched pages up to
  /// date. A range starts where its sequence's last one ended.
  virtual void append(KvCache& cache, const Layer& layer, std::span<const TokenRange> ranges) = 0;
  /// Forgets tokens from `to` on (per sequence); summaries of the cut page are recomputed by the next append.
  /// For repeated timing.
  virtual void truncate(KvCache& cache, const Layer& layer, std::span<const int64_t> to) = 0;

  /// Dense attention of each row over tokens 0..position. out [n, Hq, d], lse [n, Hq].
  virtual void dense(const Layer& layer, const KvCache& cache, const Block& block, Tensor<float, 3> out,
                     Tensor<float, 2> lse) = 0;

  /// Quest's upper bound (Quest paper, section 3.3): score[i,u,j] = sum_c max(q_c*kmin_jc, q_c*kmax_jc),
  /// combined over the group. No softmax scale. The page that holds the row's own position is summarised over
  /// tokens <= position only; pages that begin after it get -inf. `round_to_storage`: each head's score is
  /// rounded to the query's type before it is combined, as Quest's kernels do; the largest finite value
  /// stands for what exceeds it, since -inf says that a page does not exist.
  virtual void score_pages(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                           bool round_to_storage, Tensor<float, 3> scores) = 0;
  /// True mass of each page: sum over its tokens <= position, and over the heads of the unit, of
  /// exp(scale*q.k - lse), lse being that of dense attention [n, Hq] of the same rows. Terms below the
  /// smallest normal number are 0. Pages that begin after position get -inf.
  virtual void page_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                         Tensor<float, 2> lse, Tensor<float, 3> mass) = 0;
  /// dense() and page_mass() of the same rows. Backends that look at the keys once for both say how.
  virtual void dense_with_mass(const Layer& layer, const KvCache& cache, const Block& block, Unit unit,
                               Tensor<float, 3> out, Tensor<float, 2> lse, Tensor<float, 3> mass) {
    dense(layer, cache, block, out, lse);
    page_mass(layer, cache, block, unit, lse, mass);
  }
  /// Scores uniform in [0, 1) that depend on (seed, layer, position, unit, page) alone; the same on every
  /// backend (see core/counter_random.h). Pages that begin after position get -inf.
  virtual void random_scores(const Layer& layer, const KvCache& cache, const Block& block, uint64_t seed,
                             Tensor<float, 3> scores) = 0;

  /// The k[i] pages with the best scores of row i: ties to the lower page; existing pages only; at most all
  /// of them. `newest` as described there (forced: 1 + the best k-1 others; extra: 1 + the best k others, at
  /// most all). k: host, one per row.
  virtual void select_top_k(const KvCache& cache, const Block& block, Tensor<float, 3> scores,
                            std::span<const int32_t> k, Newest newest, PageLists lists) = 0;
  /// last_loaded [sequences, U, J] (initially -1) is advanced through the block; previous[i,u,c] is the step
  /// before row i that last loaded pages[i,u,c], or -1. Query t < position has not been shown the page if and
  /// only if previous < t.
  virtual void note_loads(const Block& block, const PageLists& lists, Tensor<int32_t, 3> last_loaded,
                          Tensor<int32_t, 3> previous) = 0;
  /// For each row i and slot s < min(w, window_rows): attention of the query at position-s over the tokens <=
  /// position-s of the listed pages; for s > 0 only of pages with previous < position-s. Slots from
  /// window_rows on: out 0, lse -inf. `previous` may be empty where w = 1. A page is to be read
  /// for many rows and heads of its unit at once.
  virtual void attend(const Layer& layer, const KvCache& cache, const Block& block, UnitPolicy policy,
                      const PageLists& lists, Tensor<int32_t, 3> previous, int64_t window,
                      Partials partials) = 0;
  /// Slot 0 of row i becomes outputs[row]; slot s > 0 is merged into outputs[row - s] (a = exp(lse - m), b =
  /// exp(lse_s - m), ...). A slot with lse = -inf leaves output and lse bit for bit as they were. Rows are
  /// merged in ascending order: deterministic.
  /// `window` may be less than the slots that `partials` holds (its shape[1]): the slots from `window` on are
  /// left out.
  virtual void merge(const Block& block, int64_t window, const Partials& partials, Outputs outputs) = 0;

  /// A whole decode step of one row of each sequence in one launch: appends the token at each row's position
  /// unless it is written, then score_pages, select_top_k, note_loads, attend and merge. Returns false, with
  /// nothing done, where the backend cannot: the caller runs the primitives one by one. Where scores of both
  /// ways differ by rounding, page sets may differ in those pages.
  virtual bool decode_step(KvCache& /*cache*/, const Layer& /*layer*/, const Block& /*block*/,
                           const BoundStep& /*step*/) {
    return false;
  }

  /// Rows of `outputs` [first_row, first_row + n) against a reference out [n, Hq, d], lse [n, Hq]: errors
  /// [FidelityErrors::count, n, Hq].
  virtual void compare(const Outputs& outputs, int64_t first_row, Tensor<float, 3> reference_out,
                       Tensor<float, 2> reference_lse, Tensor<float, 3> errors) = 0;
  /// Counts the page sets of a block of consecutive steps of one sequence into counts [n, U,
  /// SelectionColumns::count(window)].
  virtual void count_selection(const KvCache& cache, const Block& block, const SelectionSets& sets,
                               int64_t window, Tensor<int32_t, 3> counts) = 0;

 protected:
  template <class T>
  void download_reals_or_raw(std::vector<T>& values, const void* source) {
    if constexpr (std::is_same_v<T, float>) {
      if (real_bytes() == 8) {
        std::vector<double> wide(values.size());
        download(wide.data(), source, static_cast<int64_t>(wide.size() * sizeof(double)));
        for (size_t i = 0; i < wide.size(); ++i) values[i] = static_cast<float>(wide[i]);
        return;
      }
    }
    download(values.data(), source, static_cast<int64_t>(values.size() * sizeof(T)));
  }
};

/// What compare_rows asks of its arguments. Throws std::invalid_argument.
void require_comparable(const Tensor<float, 2>& x, std::span<const Tensor<float, 2>> references,
                        const Tensor<double, 1>& errors);
/// What select_top_k asks of its arguments, which no backend checks while it writes. Throws
/// std::invalid_argument.
void require_selectable(int64_t page_size, const Block& block, const Tensor<float, 3>& scores,
                        std::span<const int32_t> k, Newest newest, const PageLists& lists);

/// The CPU backend: float for speed, double as the oracle that other backends are tested against.
std::unique_ptr<Backend> make_cpu_backend();
std::unique_ptr<Backend> make_cpu_oracle();
/// CUDA device `index`. Throws EnvironmentError where CUDA is not built in or the device is absent.
std::unique_ptr<Backend> make_cuda_backend(int index);
/// Number of usable CUDA devices; 0 where CUDA is not built in or there is no driver.
int cuda_device_count();
/// Whether CUDA was built in.
bool cuda_built_in();
/// Names of the CUDA devices seen, with compute capability and memory.
std::vector<std::string> cuda_device_names();

}  // namespace hindsight
