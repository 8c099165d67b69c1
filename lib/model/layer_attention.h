#pragma once
// Attention of one layer of a model that decodes a batch of sequences: dense, or by pages with a
// retrospective window (RetroAttention, section 3, across layers).

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backend/backend.h"
#include "config/parameters.h"
#include "model/layer_rows.h"
#include "model/model_compute.h"
#include "model/page_selection.h"

namespace hindsight {

/// A selector with its parameters, refinement included.
struct DecodingMethod {
  std::string selector;
  ParameterSet parameters;
};

/// Bytes that attention of a layer holds on its backend.
struct AttentionBytes {
  int64_t cache = 0;      ///< keys and values in pages, page table, queries
  int64_t summaries = 0;  ///< of pages
  int64_t outputs = 0;    ///< results of the positions of the window
  int64_t workspace = 0;  ///< scores, page lists, what was loaded when, partial results
};

class LayerAttention {
 public:
  virtual ~LayerAttention() = default;
  /// Keys and values [n, Hkv, d] of the next n tokens of a prompt.
  virtual void write_prompt(int64_t sequence, int64_t first_position, const Tensor<float, 3>& k,
                            const Tensor<float, 3>& v) = 0;
  /// The rows kept for the window move, before a step that needs it.
  virtual void move_rows(const KeptRowMoves& moves) = 0;
  /// Takes all rows into the cache and attends. Returns the results [Hq * d] of `wanted`, valid until the
  /// next call: of all rows, or of the newest of each span only, since past positions of the last layer are
  /// of no use but for their keys and values.
  virtual ChosenRows attend(const LayerRows& rows, const LayerRows& wanted,
                            const ProjectedRows& projected) = 0;
  /// What the last attend() loaded for the newest positions, whose block is given; nothing where that is
  /// everything. Changes nothing that a later step depends on.
  virtual std::optional<SelectionDownload> selection(const Block& newest, bool with_true_mass) = 0;
  /// Whether attend() asks for the same primitives at every step, on tensors that stay, and reads nothing
  /// back (Backend::record).
  virtual bool can_be_recorded() const = 0;
  virtual AttentionBytes bytes() const = 0;
};

/// Of no consequence to what dense attention computes.
constexpr int64_t dense_page_size = 16;

/// Every span has one row.
std::unique_ptr<LayerAttention> make_dense_attention(Backend& backend, const LayerShape& shape,
                                                     std::span<const int64_t> capacities);
/// `kept_rows`: WindowRows::total_rows() of the batch.
std::unique_ptr<LayerAttention> make_sparse_attention(Backend& backend, const LayerShape& shape,
                                                      const DecodingMethod& method,
                                                      std::span<const int64_t> capacities, int64_t kept_rows);

}  // namespace hindsight
