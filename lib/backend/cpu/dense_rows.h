#pragma once
// Few query rows over all keys, as a decode step has them: row by row, where a tile of dense.h would be
// filled up with rows that nobody reads.

#include "backend/cpu/row_tiles.h"
#include "backend/cpu/softmax.h"

namespace hindsight::cpu {

/// What DenseTile is for fewer rows than a vector has lanes, step by step the same. Row r is head r % G of
/// step r / G of the tile.
template <class Real>
class DenseRows {
 public:
  /// Logits over tokens 0 .. last position of the tile; -inf after a row's own position.
  void find_logits(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, RowTile tile,
                   int64_t kv_head) {
    const int64_t group = layer.group(), d = layer.head_dim, steps = tile.end - tile.begin;
    const int64_t sequence = block.steps[tile.begin].sequence;
    rows_ = steps * group;
    tokens_ = block.steps[tile.end - 1].position + 1;
    queries_.resize(rows_, d);
    for (int64_t step = 0; step < steps; ++step)
      queries_.middleRows(step * group, group) =
          static_cast<Real>(layer.scale) *
          Rows<Real>(layer.query(sequence, block.steps[tile.begin + step].position, kv_head * group), group,
                     d);
    const Rows<Real> keys(cache.sequences[sequence].k.at(kv_head, 0), tokens_, d);
    MutableRows<Real> logits = weight_memory_.sized(rows_, tokens_);
    logits.noalias() = queries_ * keys.transpose();
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t visible = block.steps[tile.begin + step].position + 1;
      logits.block(step * group, visible, group, tokens_ - visible).setConstant(minus_infinity<Real>());
    }
  }

  /// Turns logits into softmax weights; the LSE of a row is lse()[r] afterwards.
  void find_weights() {
    lse_.resize(rows_);
    for (int64_t r = 0; r < rows_; ++r) lse_[r] = softmax_in_place(terms(r), tokens_);
  }
  const Eigen::Array<Real, Eigen::Dynamic, 1>& lse() const { return lse_; }

  /// Turns logits into terms of the mass, given the LSE of each step and head.
  void find_terms(RowTile tile, int64_t kv_head, View<Real, 2> lse) {
    const int64_t group = rows_ / (tile.end - tile.begin);
    for (int64_t r = 0; r < rows_; ++r)
      exponentials_in_place(terms(r), tokens_, lse(tile.begin + r / group, kv_head * group + r % group));
  }

  /// Adds the masses of pages of p tokens, of each row to that of its unit; -inf says that nothing was added
  /// yet. Terms that are no normal numbers are 0.
  void add_masses(const CpuLayer<Real>& layer, const Block& block, RowTile tile, int64_t kv_head, Unit unit,
                  int64_t p, View<Real, 3> mass) {
    const int64_t group = layer.group();
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t i = tile.begin + r / group, visible = block.steps[i].position + 1;
      Real* const into = &mass(i, unit == Unit::per_kv_head ? kv_head : kv_head * group + r % group, 0);
      for (int64_t page = 0; page * p < visible; ++page) {
        const Eigen::Map<const Eigen::Array<Real, Eigen::Dynamic, 1>> held(terms(r) + page * p,
                                                                           std::min(p, visible - page * p));
        const Real sum = held.unaryExpr([](Real term) { return normal_or_zero(term); }).sum();
        into[page] = into[page] == minus_infinity<Real>() ? sum : into[page] + sum;
      }
    }
  }

  /// Weighted sums of the values.
  void find_outputs(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                    RowTile tile, int64_t kv_head, View<Real, 3> out) {
    const int64_t group = layer.group(), d = layer.head_dim;
    const Rows<Real> values(cache.sequences[block.steps[tile.begin].sequence].v.at(kv_head, 0), tokens_, d);
    MutableRows<Real> sums = output_memory_.sized(rows_, d);
    sums.noalias() = MutableRows<Real>(weight_memory_.data(), rows_, tokens_) * values;
    for (int64_t r = 0; r < rows_; ++r)
      std::copy_n(sums.row(r).data(), d, &out(tile.begin + r / group, kv_head * group + r % group, 0));
  }

 private:
  Real* terms(int64_t row) { return weight_memory_.data() + row * tokens_; }

  int64_t rows_ = 0, tokens_ = 0;
  Matrix<Real> queries_;
  ReusedMatrix<Real> weight_memory_, output_memory_;
  Eigen::Array<Real, Eigen::Dynamic, 1> lse_;
};

}  // namespace hindsight::cpu
