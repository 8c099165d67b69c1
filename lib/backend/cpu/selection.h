#pragma once
// From scores to page lists, and the bookkeeping of what was loaded when.

#include <numeric>

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Best first; of equal scores the lower page.
template <class Real>
struct BetterPage {
  const Real* scores;
  bool operator()(int32_t a, int32_t b) const {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  }
};

/// Backend::select_top_k.
template <class Real>
void select_top_k(int64_t page_size, const Block& block, View<Real, 3> scores, std::span<const int32_t> k,
                  Newest newest, View<int32_t, 3> pages, View<int32_t, 2> count) {
  const int64_t n = block.size(), units = scores.shape[1];
#pragma omp parallel if (worth_threads(16 * scores.size()))
  {
    std::vector<int32_t> candidates;
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t u = 0; u < units; ++u) {
        const auto newest_page = static_cast<int32_t>(block.steps[i].position / page_size);
        const bool newest_is_given = newest != Newest::competes;
        const int64_t available = newest_is_given ? newest_page : newest_page + 1;
        const int64_t wanted = newest == Newest::forced ? k[i] - 1 : k[i];
        const int64_t taken = std::clamp<int64_t>(wanted, 0, available);

        candidates.resize(static_cast<size_t>(available));
        std::iota(candidates.begin(), candidates.end(), 0);
        if (taken < available)
          std::nth_element(candidates.begin(), candidates.begin() + taken, candidates.end(),
                           BetterPage<Real>{&scores(i, u, 0)});
        std::sort(candidates.begin(), candidates.begin() + taken);
        std::copy_n(candidates.begin(), taken, &pages(i, u, 0));
        if (newest_is_given) pages(i, u, taken) = newest_page;
        count(i, u) = static_cast<int32_t>(taken) + (newest_is_given ? 1 : 0);
      }
    }
  }
}

/// Backend::note_loads.
inline void note_loads(const Block& block, View<int32_t, 3> pages, View<int32_t, 2> count,
                       View<int32_t, 3> last_loaded, View<int32_t, 3> previous) {
#pragma omp parallel for schedule(static) if (worth_threads(16 * pages.size()))
  for (int64_t u = 0; u < pages.shape[1]; ++u) {
    for (int64_t i = 0; i < block.size(); ++i) {
      const BlockStep step = block.steps[i];
      for (int64_t c = 0; c < count(i, u); ++c) {
        int32_t& last = last_loaded(step.sequence, u, pages(i, u, c));
        previous(i, u, c) = last;
        last = step.position;
      }
    }
  }
}

/// Backend::rank_pages.
template <class Real>
void rank_pages(int64_t rows, View<Real, 3> scores, View<int32_t, 3> pages, View<int32_t, 2> count,
                View<int32_t, 3> ranks) {
#pragma omp parallel if (worth_threads(16 * scores.size()))
  {
    std::vector<int32_t> order, rank;
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < rows - 1; ++i) {
      for (int64_t u = 0; u < scores.shape[1]; ++u) {
        const Real* row = &scores(i, u, 0);
        order.clear();
        for (int32_t page = 0; page < scores.shape[2]; ++page)
          if (row[page] != minus_infinity<Real>()) order.push_back(page);
        std::sort(order.begin(), order.end(), BetterPage<Real>{row});
        rank.assign(static_cast<size_t>(scores.shape[2]), -1);
        for (size_t place = 0; place < order.size(); ++place)
          rank[order[place]] = static_cast<int32_t>(place);
        for (int64_t c = 0; c < count(i + 1, u); ++c) ranks(i, u, c) = rank[pages(i + 1, u, c)];
      }
    }
  }
}

}  // namespace hindsight::cpu
