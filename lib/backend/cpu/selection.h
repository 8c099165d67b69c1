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

/// Backend::count_selection.
template <class Real>
void count_selection(int64_t page_size, int64_t n_pages, const Block& block, const SelectionSets& sets,
                     View<Real, 3> scores_before, int64_t window, View<int32_t, 3> counts) {
  using Columns = SelectionColumns;
  const View<int32_t, 3> pages = sets.loaded.pages.view(), best = sets.best.pages.view();
  const View<int32_t, 3> previous = sets.previous.view();
  const View<int32_t, 2> loaded = sets.loaded.count.view(), n_best = sets.best.count.view();
  const View<int32_t, 2> before = sets.count_before.view();
  const int64_t units = counts.shape[1];
  const auto visible = [&](int64_t page, int64_t position) {
    return static_cast<int32_t>(std::clamp<int64_t>(position + 1 - page * page_size, 0, page_size));
  };
#pragma omp parallel if (worth_threads(64 * pages.size()))
  {
    std::vector<char> in_own, in_lower;
#pragma omp for collapse(2) schedule(static)
    for (int64_t i = 0; i < block.size(); ++i) {
      for (int64_t u = 0; u < units; ++u) {
        const BlockStep step = block.steps[i];
        int32_t* const row = &counts(i, u, 0);
        std::fill_n(row, Columns::count(window), 0);
        in_own.assign(static_cast<size_t>(n_pages), 0);
        in_lower.assign(static_cast<size_t>(n_pages), 0);
        for (int64_t c = 0; c < loaded(i, u); ++c) in_own[pages(i, u, c)] = 1;
        for (int64_t lower = u / sets.units_per_kv_head * sets.units_per_kv_head; lower < u; ++lower)
          for (int64_t c = 0; c < loaded(i, lower); ++c) in_lower[pages(i, lower, c)] = 1;

        row[Columns::loaded] = loaded(i, u);
        row[Columns::best] = n_best(i, u);
        for (int64_t c = 0; c < n_best(i, u); ++c) row[Columns::best_loaded] += in_own[best(i, u, c)];
        for (int64_t c = 0; c < loaded(i, u); ++c) {
          const int32_t page = pages(i, u, c), last = previous(i, u, c);
          if (!in_lower[page]) row[Columns::own_tokens] += visible(page, step.position);
          // Who has seen the page, earlier queries have seen too.
          for (int32_t s = 0; s < std::min<int64_t>(window, step.window_rows); ++s)
            if (s == 0 || last < step.position - s)
              row[Columns::shown + s] += visible(page, step.position - s);
          if (before(i, u) == 0) continue;
          if (last == step.position - 1) {
            ++row[Columns::kept];
            continue;
          }
          if (scores_before.data == nullptr || scores_before(i, u, page) == minus_infinity<Real>()) continue;
          const Real* const scores = &scores_before(i, u, 0);
          int64_t better = 0;
          for (int64_t other = 0; other < n_pages; ++other)
            better += (scores[other] > scores[page]) | ((scores[other] == scores[page]) & (other < page));
          ++row[Columns::late_ranks + std::min(better / before(i, u), Columns::late_rank_bins - 1)];
        }
      }
    }
  }
}

}  // namespace hindsight::cpu
