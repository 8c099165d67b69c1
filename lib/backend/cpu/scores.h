#pragma once
// Scores of pages that look at page summaries alone, or at nothing.

#include "backend/cpu/row_tiles.h"
#include "core/counter_random.h"

namespace hindsight::cpu {

/// Backend::score_pages. max(q*kmin, q*kmax) is q*kmax for q >= 0 and q*kmin for q < 0, so a score is one
/// product of [max(q,0), min(q,0)] with the page's [maximum, minimum]. A few steps are taken at a time: the
/// product packs the summaries, which for the heads of one step takes as long as the product itself.
template <class Real>
void score_pages(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                 UnitPolicy policy, bool round_to_storage, View<Real, 3> scores) {
  constexpr int64_t tile_steps = 16;
  const int64_t group = layer.group(), d = layer.head_dim, p = cache.page_size, n = block.size();
  const std::vector<RowTile> tiles = row_tiles(block, tile_steps, [](int64_t, int64_t) { return true; });
  std::fill_n(scores.data, scores.size(), minus_infinity<Real>());
#pragma omp parallel if (worth_threads(n * layer.n_q_heads * scores.shape[2] * 2 * d))
  {
    ReusedMatrix<Real> query_memory, score_memory;
    Matrix<Real> newest(1, 2 * d);
#pragma omp for collapse(2) schedule(static)
    for (size_t t = 0; t < tiles.size(); ++t) {
      for (int64_t kv_head = 0; kv_head < layer.n_kv_heads; ++kv_head) {
        const RowTile tile = tiles[t];
        const int64_t rows = tile.end - tile.begin;
        const auto& sequence = cache.sequences[block.steps[tile.begin].sequence];
        MutableRows<Real> split_queries = query_memory.sized(rows * group, 2 * d);
        for (int64_t row = 0; row < rows; ++row) {
          const BlockStep step = block.steps[tile.begin + row];
          const Rows<Real> queries(layer.query(step.sequence, step.position, kv_head * group), group, d);
          split_queries.block(row * group, 0, group, d) = queries.cwiseMax(Real(0));
          split_queries.block(row * group, d, group, d) = queries.cwiseMin(Real(0));
        }
        // Pages before the one that holds the last position. Those from a row's own position on are of no use
        // to it, and are not read.
        const int64_t most = block.steps[tile.end - 1].position / p;
        MutableRows<Real> head_scores = score_memory.sized(rows * group, most + 1);
        if (most > 0)
          head_scores.leftCols(most).noalias() =
              split_queries * Rows<Real>(sequence.summaries.at(kv_head, 0), most, 2 * d).transpose();
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t i = tile.begin + row, position = block.steps[i].position, whole = position / p;
          summarise(sequence.k.at(kv_head, whole * p), position - whole * p + 1, d, newest.data());
          auto own = head_scores.block(row * group, 0, group, whole + 1);
          own.col(whole).noalias() = split_queries.middleRows(row * group, group) * newest.transpose();
          if (round_to_storage)
            own = own.unaryExpr([&](Real score) {
              return static_cast<Real>(round_to_finite(layer.dtype, static_cast<float>(score)));
            });

          if (policy.unit == Unit::per_query_head) {
            for (int64_t g = 0; g < group; ++g)
              std::copy_n(own.row(g).data(), whole + 1, &scores(i, kv_head * group + g, 0));
            continue;
          }
          Eigen::Map<Eigen::Matrix<Real, 1, Eigen::Dynamic>> combined(&scores(i, kv_head, 0), whole + 1);
          if (policy.combine == Combine::max) combined = own.colwise().maxCoeff();
          if (policy.combine == Combine::sum) combined = own.colwise().sum();
          if (policy.combine == Combine::mean) combined = own.colwise().sum() / static_cast<Real>(group);
        }
      }
    }
  }
}

/// Backend::random_scores.
template <class Real>
void random_scores(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                   uint64_t seed, View<Real, 3> scores) {
  std::fill_n(scores.data, scores.size(), minus_infinity<Real>());
#pragma omp parallel for schedule(static) if (worth_threads(32 * scores.size()))
  for (int64_t i = 0; i < block.size(); ++i) {
    const int64_t position = block.steps[i].position;
    for (int64_t u = 0; u < scores.shape[1]; ++u)
      for (int64_t page = 0; page * cache.page_size <= position; ++page)
        scores(i, u, page) = counter_uniform(seed, layer.layer, position, u, page);
  }
}

}  // namespace hindsight::cpu
