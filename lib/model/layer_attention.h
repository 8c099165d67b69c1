#pragma once
// Attention of one layer of a model that decodes a batch of sequences: dense, or by pages with a
// retrospective window (RetroAttention, section 3, across layers).

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "config/parameters.h"
#include "model/model.h"
#include "model/window_rows.h"

namespace hindsight {

/// A selector with its parameters, refinement included.
struct DecodingMethod {
  std::string selector;
  ParameterSet parameters;
};

class LayerAttention {
 public:
  virtual ~LayerAttention() = default;
  /// The sequence begins with these keys and values [P, Hkv, d].
  virtual void start(int64_t sequence, std::span<const float> k, std::span<const float> v) = 0;
  /// The rows kept for the window move, before a step that needs it.
  virtual void move_rows(std::span<const RowMove> moves) = 0;
  /// Takes the rows of all spans, one span after the other, into the cache and attends. Returns [rows, Hq, d]
  /// of all of them, or of the newest of each span only: past positions of the last layer are of no use but
  /// for their keys and values.
  virtual std::vector<float> attend(std::span<const WindowSpan> spans, const Projected& rows,
                                    bool newest_only) = 0;
};

/// Every span has one row.
std::unique_ptr<LayerAttention> make_dense_attention(Backend& backend, const LayerShape& shape,
                                                     std::span<const int64_t> capacities);
/// `kept_rows`: WindowRows::total_rows() of the batch.
std::unique_ptr<LayerAttention> make_sparse_attention(Backend& backend, const LayerShape& shape,
                                                      const DecodingMethod& method,
                                                      std::span<const int64_t> capacities, int64_t kept_rows);

}  // namespace hindsight
