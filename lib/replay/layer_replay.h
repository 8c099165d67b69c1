#pragma once
// The replay of a layer by one selector, for several windows at once: scores, page sets and attention are the
// same for all of them, and the partial results of a window hold those of every smaller one.

#include <memory>
#include <vector>

#include "methods/selector.h"
#include "replay/residency.h"

namespace hindsight {

/// A layer's results on their way to the host.
struct LayerResults {
  int64_t layer = 0;                    ///< index into the point's layers
  int64_t n_units = 0, n_columns = 0;   ///< of the counts
  Download<int32_t> counts;             ///< [n_steps, U, SelectionColumns::count(largest window)]
  std::vector<Download<float>> errors;  ///< per window, [FidelityErrors::count, n_steps, Hq]
};

/// What the tensors of a replay depend on.
struct LayerReplayShape {
  int64_t n_steps = 0, units = 0, heads = 0, head_dim = 0;
  int64_t pages = 0, capacity = 0;  ///< J, K
  std::vector<int64_t> windows;     ///< ascending

  int64_t block_steps(const Backend& backend) const;
  /// Of the tensors of a LayerReplay.
  int64_t bytes(const Backend& backend) const;
  /// Of a layer's results on the host.
  int64_t result_bytes() const;
};

/// Made once for all layers of a pass, which have the same shape: nothing is allocated between them.
class LayerReplay {
 public:
  /// `point` says all but the window. `windows` are ascending and begin with 1, where each output stands when
  /// it is first computed.
  LayerReplay(Backend& backend, Residency& residency, const ReplayTrace& trace, const ReplayPoint& point,
              std::vector<int64_t> windows);

  /// What points share of a layer, resident.
  struct Parts {
    std::shared_ptr<const Layer> layer;
    std::shared_ptr<const KvCache> cache;
    std::shared_ptr<const Tensor<float, 3>> mass;
    std::shared_ptr<const Reference> reference;
  };
  Parts parts_of(int64_t layer);
  /// Enqueues the replay of a layer, of index `index` in the point; waits for no work that is enqueued.
  LayerResults enqueue(const Parts& parts, int64_t index);

 private:
  PageLists make_lists(int64_t rows);
  void forget_loads();
  void run_block(Selector& selector, const Parts& parts, int64_t first, int64_t n);
  void carry_last_row(int64_t n);

  Backend& backend_;
  Residency& residency_;
  MethodPoint method_;
  UnitPolicy policy_;
  int64_t page_size_;
  LayerReplayShape shape_;
  int64_t block_steps_;

  Tensor<float, 3> scores_;
  PageLists lists_, best_;
  Tensor<int32_t, 3> previous_, last_loaded_, never_loaded_;
  Partials partials_;
  Tensor<int32_t, 3> counts_;
  std::vector<Outputs> outputs_;  ///< per window, as the next
  std::vector<Tensor<float, 3>> errors_;
};

/// The shape of the replay of points that differ in these windows alone.
LayerReplayShape layer_replay_shape(const ReplayTrace& trace, const Selector& selector,
                                    std::vector<int64_t> windows);

}  // namespace hindsight
