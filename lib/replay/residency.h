#pragma once
// What points of a sweep share on the backend: layers, paged caches, the dense reference, the true mass of
// pages. Each is made once and kept as long as memory allows; what had to go is made again when it is needed.

#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "replay/spec.h"

namespace hindsight {

/// Keeps the most recently used values, up to a number of bytes. A value in use stays alive through its
/// shared pointer.
class BoundedCache {
 public:
  explicit BoundedCache(int64_t limit_bytes) : limit_(limit_bytes) {}

  bool has(const std::string& key) const { return entries_.contains(key); }
  template <class T>
  std::shared_ptr<const T> get(const std::string& key, const std::function<std::shared_ptr<const T>()>& make,
                               const std::function<int64_t(const T&)>& bytes) {
    if (const auto found = entries_.find(key); found != entries_.end()) {
      order_.splice(order_.begin(), order_, found->second.place);
      return std::static_pointer_cast<const T>(found->second.value);
    }
    std::shared_ptr<const T> value = make();
    insert(key, value, bytes(*value));
    return value;
  }

 private:
  struct Entry {
    std::shared_ptr<const void> value;
    int64_t bytes = 0;
    std::list<std::string>::iterator place;
  };
  void insert(const std::string& key, std::shared_ptr<const void> value, int64_t bytes);

  int64_t limit_ = 0, used_ = 0;
  std::list<std::string> order_;  // most recently used first
  std::map<std::string, Entry> entries_;
};

/// Dense attention of all replayed steps of a layer.
struct Reference {
  Tensor<float, 3> out;  ///< [n_steps, Hq, d]
  Tensor<float, 2> lse;  ///< [n_steps, Hq]
};

/// Brings a layer of the trace (by its model index) to the backend.
using LayerSource = std::function<std::shared_ptr<const Layer>(int64_t layer)>;

/// The shared parts of the replays of one trace.
class Residency {
 public:
  /// Layers are read from the trace's file. Throws TraceError where it cannot be opened.
  Residency(Backend& backend, const ReplayTrace& trace, int64_t limit_bytes);
  /// Layers come from elsewhere: the trace needs no file.
  Residency(Backend& backend, const ReplayTrace& trace, int64_t limit_bytes, LayerSource source);
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  std::shared_ptr<const Layer> layer(int64_t layer);
  /// Begins to bring a layer from the file to the backend, on another thread, so that it is there when it is
  /// asked for; nothing to do where it is, or where layers come from elsewhere. What goes wrong is thrown by
  /// layer(). Until that is called nobody else may use HDF5.
  void read_ahead(int64_t layer);
  /// With all tokens up to the last replayed position appended.
  std::shared_ptr<const KvCache> cache(int64_t layer, int64_t page_size);
  std::shared_ptr<const Reference> reference(int64_t layer);
  /// [n_steps, U, J]. Asked for before the reference, both may be made in one go.
  std::shared_ptr<const Tensor<float, 3>> page_mass(int64_t layer, int64_t page_size, Unit unit);
  /// Steps [first, first + n) of the trace as a block, for a window of w. All of a window's blocks are parts
  /// of one.
  Block block(int64_t first_step, int64_t n, int64_t window);

 private:
  std::shared_ptr<const Layer> load(int64_t layer);
  Reference make_reference(const Layer& layer);
  std::shared_ptr<const Reference> keep_reference(
      int64_t layer, const std::function<std::shared_ptr<const Reference>()>& make);
  /// Calls run(block, first step, steps) for all steps, in pieces.
  void for_dense_blocks(const std::function<void(const Block&, int64_t, int64_t)>& run);

  Backend& backend_;
  const ReplayTrace& trace_;
  LayerSource source_;
  std::unique_ptr<TraceReader> reader_;  ///< null where layers come from elsewhere
  struct {
    int64_t layer = -1;
    std::future<std::shared_ptr<const Layer>> loaded;
  } ahead_;  ///< before the reader goes, it is waited for
  BoundedCache kept_;
  std::map<int64_t, Block> blocks_;  ///< all steps, by window
};

/// Backends take a block in tiles of so many steps.
constexpr int64_t tile_steps = 16;

/// Steps that one call of a primitive takes, so that its tensors stay small: at most `most`, at least 1.
/// Whole tiles where there are so many: where a backend cuts a block, and with it how sums are rounded, does
/// not depend on the budget.
int64_t steps_per_block(int64_t bytes_per_step, int64_t most = 256);

}  // namespace hindsight
