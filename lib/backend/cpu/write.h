#pragma once
// Rows of keys and values that a model computed, into the pages of a cache.

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Backend::write of one range.
template <class Real>
void write_rows(CpuCache<Real>& cache, const RowRange& range, View<Real, 3> k, View<Real, 3> v,
                Summaries summaries) {
  auto& sequence = cache.sequences[range.sequence];
  const int64_t heads = k.shape[1], d = k.shape[2], p = cache.page_size;
  const int64_t had = cache.n_appended[range.sequence];
  const int64_t end = range.first_position + range.n, has = std::max(had, end);
#pragma omp parallel for schedule(static) if (worth_threads(range.n * heads * d))
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < range.n; ++i) {
      std::copy_n(&k(range.first_row + i, head, 0), d, sequence.k.at(head, range.first_position + i));
      std::copy_n(&v(range.first_row + i, head, 0), d, sequence.v.at(head, range.first_position + i));
    }
    for (int64_t page = range.first_position / p; page * p < end; ++page) {
      Real* summary = sequence.summaries.at(head, page);
      if (summaries == Summaries::recompute || page * p >= had)
        summarise(sequence.k.at(head, page * p), std::min(p, has - page * p), d, summary);
      else
        for (int64_t token = std::max(range.first_position, page * p); token < std::min(end, (page + 1) * p);
             ++token)
          widen(sequence.k.at(head, token), d, summary);
    }
  }
  cache.n_appended[range.sequence] = has;
}

}  // namespace hindsight::cpu
