#pragma once
// Attention over page lists for a window of queries, and the merge of what the window gave.

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/page_product.h"
#include "backend/cpu/softmax.h"

namespace hindsight::cpu {

/// Backend::attend. A slot looks at what its query is to be shown and nothing else: past queries have seen
/// most of the pages, so their share of the work is small. A query's result has the same bits whatever the
/// window around it.
template <class Real>
void attend(const CpuLayer<Real>& layer, const CpuCache<Real>& cache, const Block& block, UnitPolicy policy,
            View<int32_t, 3> pages, View<int32_t, 2> count, View<int32_t, 3> previous, int64_t window,
            View<Real, 4> out, View<Real, 3> lse) {
  const int64_t d = layer.head_dim, p = cache.page_size, n = block.size();
  const int64_t units = layer.units(policy.unit);
  const int64_t heads = layer.n_q_heads / units;  // query heads of a unit
  const auto rows_from = [&](int64_t h) {
    return static_cast<int>(std::min<int64_t>(kMostPageRows, heads - h));
  };
#pragma omp parallel if (worth_threads(2 * n * layer.n_q_heads * pages.shape[2] * p * d))
  {
    Matrix<Real> queries;
    ReusedMatrix<Real> weight_memory;
    std::vector<TokenPiece> visible;
    // Neighbouring steps of a unit share most of their pages: a thread finds them in its cache.
#pragma omp for collapse(2) schedule(dynamic, 8)
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t i = 0; i < n; ++i) {
        const BlockStep step = block.steps[i];
        const int64_t kv_head = u * heads / layer.group();
        const auto& sequence = cache.sequences[step.sequence];
        for (int64_t s = 0; s < window; ++s) {
          const int64_t query_position = step.position - s;
          int64_t tokens = 0;
          visible.clear();
          for (int64_t c = 0; s < step.window_rows && c < count(i, u); ++c) {
            const bool shown_before = s > 0 && previous(i, u, c) >= query_position;
            const int64_t first = pages(i, u, c) * p;
            const int64_t held = std::min<int64_t>(p, query_position + 1 - first);
            if (shown_before || held <= 0) continue;
            visible.push_back({first, held});
            tokens += held;
          }
          if (tokens == 0) {
            std::fill_n(&out(i, s, u * heads, 0), heads * d, Real(0));
            std::fill_n(&lse(i, s, u * heads), heads, minus_infinity<Real>());
            continue;
          }
          queries = static_cast<Real>(layer.scale) *
                    Rows<Real>(layer.query(step.sequence, query_position, u * heads), heads, d);
          MutableRows<Real> weights = weight_memory.sized(heads, tokens);
          for (int64_t h = 0; h < heads; h += kMostPageRows) {
            int64_t at = 0;
            for (const TokenPiece& piece : visible) {
              multiply(KeyProduct<Real>{rows_from(h), queries.row(h).data(),
                                        sequence.k.at(kv_head, piece.first), piece.count, d,
                                        weights.row(h).data() + at, tokens});
              at += piece.count;
            }
          }
          for (int64_t h = 0; h < heads; ++h)
            lse(i, s, u * heads + h) = softmax_in_place(weights.row(h).data(), tokens);
          for (int64_t h = 0; h < heads; h += kMostPageRows)
            multiply(ValueProduct<Real>{
                rows_from(h), weights.row(h).data(), tokens, sequence.v.at(kv_head, 0), visible.data(),
                static_cast<int64_t>(visible.size()), d, &out(i, s, u * heads + h, 0)});
        }
      }
    }
  }
}

/// Backend::merge.
template <class Real>
void merge(const Block& block, int64_t window, View<Real, 4> partial_out, View<Real, 3> partial_lse,
           View<Real, 3> out, View<Real, 2> lse) {
  const int64_t heads = out.shape[1], d = out.shape[2];
#pragma omp parallel for schedule(static) if (worth_threads(block.size() * window * heads * d))
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < block.size(); ++i) {
      const BlockStep step = block.steps[i];
      std::copy_n(&partial_out(i, 0, head, 0), d, &out(step.row, head, 0));
      lse(step.row, head) = partial_lse(i, 0, head);
      for (int64_t s = 1; s < std::min<int64_t>(window, step.window_rows); ++s)
        merge_partial(&out(step.row - s, head, 0), lse(step.row - s, head), &partial_out(i, s, head, 0),
                      partial_lse(i, s, head), d);
    }
  }
}

}  // namespace hindsight::cpu
