#pragma once
// Scores of pages that look at page summaries alone, or at nothing.

#include "backend/cpu/cpu_state.h"
#include "core/counter_random.h"

namespace hindsight::cpu {

/// Backend::score_pages. max(q*kmin, q*kmax) is q*kmax for q >= 0 and q*kmin for q < 0, so a score is one
/// product of [max(q,0), min(q,0)] with the page's [maximum, minimum].
template <class Real>
void score_pages(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block,
                 UnitPolicy policy, bool round_to_storage, View<Real, 3> scores) {
  const int64_t group = layer.group(), d = layer.head_dim, p = cache.page_size, n = block.size();
  std::fill_n(scores.data, scores.size(), minus_infinity<Real>());
#pragma omp parallel if (worth_threads(n * layer.n_q_heads * scores.shape[2] * 2 * d))
  {
    Matrix<Real> split_queries(group, 2 * d), head_scores;
    Matrix<Real> newest(1, 2 * d);
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t kv_head = 0; kv_head < layer.n_kv_heads; ++kv_head) {
        const BlockStep step = block.steps[i];
        const auto& sequence = cache.sequences[step.sequence];
        const Rows<Real> queries(layer.query(step.sequence, step.position, kv_head * group), group, d);
        split_queries.leftCols(d) = queries.cwiseMax(Real(0));
        split_queries.rightCols(d) = queries.cwiseMin(Real(0));
        const int64_t whole = step.position / p;  // pages before the one that holds the position
        head_scores.resize(group, whole + 1);
        if (whole > 0)
          head_scores.leftCols(whole).noalias() =
              split_queries * Rows<Real>(sequence.summaries.at(kv_head, 0), whole, 2 * d).transpose();
        summarise(sequence.k.at(kv_head, whole * p), step.position - whole * p + 1, d, newest.data());
        head_scores.col(whole).noalias() = split_queries * newest.transpose();
        if (round_to_storage)
          head_scores = head_scores.unaryExpr([&](Real score) {
            return static_cast<Real>(round_to_finite(layer.dtype, static_cast<float>(score)));
          });

        if (policy.unit == Unit::per_query_head) {
          for (int64_t g = 0; g < group; ++g)
            std::copy_n(head_scores.row(g).data(), whole + 1, &scores(i, kv_head * group + g, 0));
          continue;
        }
        Eigen::Map<Eigen::Matrix<Real, 1, Eigen::Dynamic>> combined(&scores(i, kv_head, 0), whole + 1);
        if (policy.combine == Combine::max) combined = head_scores.colwise().maxCoeff();
        if (policy.combine == Combine::sum) combined = head_scores.colwise().sum();
        if (policy.combine == Combine::mean)
          combined = head_scores.colwise().sum() / static_cast<Real>(group);
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
