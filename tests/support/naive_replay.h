#pragma once
// A replay of Quest, alone or refined by retro, computed from the definitions: sets of pages and sums over
// sets of tokens in double, sharing no code with the backends, the selectors, the replay or the metrics.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "support/attention_case.h"

namespace hindsight::test {

struct NaiveMethod {
  int64_t page_size = 16, window = 1, k_min = 3;
  double ratio = 0.2;
  bool per_query_head = false;
  std::string combine = "mean", newest = "forced";
};

/// Series of one layer by name: [step][head or unit], and the late ranks' [bin].
using NaiveSeries = std::map<std::string, std::vector<std::vector<double>>>;

class NaiveReplay {
 public:
  NaiveReplay(const LayerTensors& tensors, const NaiveMethod& method, int64_t first_position, int64_t n_steps)
      : layer_(tensors),
        method_(method),
        first_(first_position),
        n_(n_steps),
        heads_(tensors.n_q_heads),
        units_(method.per_query_head ? tensors.n_q_heads : tensors.n_kv_heads) {
    for (int64_t step = 0; step < n_; ++step)
      for (int64_t unit = 0; unit < units_; ++unit) {
        scores_.push_back(unit_scores(step, unit));
        sets_.push_back(select(step, scores_.back()));
      }
  }

  NaiveSeries series() const {
    NaiveSeries all;
    std::vector<double> error_so_far(static_cast<size_t>(heads_), 0.0);
    for (int64_t step = 0; step < n_; ++step) {
      for (int64_t head = 0; head < heads_; ++head) {
        const Attended dense = attended(step, head, every_page(step));
        const Attended first = attended(step, head, set(step, unit_of(head)));
        const Attended final = attended(step, head, shown(step, unit_of(head)));
        add(all["rel_l2_first"], step, relative_error(first, dense));
        add(all["rel_l2_final"], step, relative_error(final, dense));
        add(all["cosine_final"], step, cosine(final, dense));
        add(all["mass_recall_first"], step, std::exp(first.lse - dense.lse));
        add(all["mass_recall_final"], step, std::exp(final.lse - dense.lse));
        error_so_far[head] += relative_error(final, dense);
        add(all["cumulative_error"], step, error_so_far[head] / static_cast<double>(step + 1));
      }
      for (int64_t unit = 0; unit < units_; ++unit) {
        const std::set<int32_t>& now = set(step, unit);
        add(all["effective_exposure"], step, tokens(step, shown(step, unit)) / tokens(step, now));
        add(all["page_overlap"], step,
            step == 0 ? std::nan("") : common(now, set(step - 1, unit)) / static_cast<double>(now.size()));
        const std::set<int32_t> best = best_by_mass(step, unit);
        add(all["oracle_page_recall"], step, common(best, now) / static_cast<double>(best.size()));
      }
    }
    all["late_rank_histogram"] = {late_ranks()};
    return all;
  }

 private:
  int64_t position(int64_t step) const { return first_ + step; }
  int64_t pages(int64_t step) const { return position(step) / method_.page_size + 1; }
  int64_t heads_of_unit() const { return heads_ / units_; }
  int64_t unit_of(int64_t head) const { return head / heads_of_unit(); }
  const std::set<int32_t>& set(int64_t step, int64_t unit) const { return sets_[step * units_ + unit]; }
  static void add(std::vector<std::vector<double>>& rows, int64_t step, double value) {
    rows.resize(static_cast<size_t>(step + 1));
    rows.back().push_back(value);
  }

  int64_t budget(int64_t step) const {
    const double context = static_cast<double>(position(step) + 1), allowed = method_.ratio * context;
    if (allowed >= context) return pages(step);
    const auto whole =
        static_cast<int64_t>(std::floor(allowed / static_cast<double>(method_.page_size) + 1e-9));
    return std::min(pages(step), std::max(method_.k_min, whole));
  }

  /// Quest's bound of q.k for each page that exists, combined over the unit's heads.
  std::vector<double> unit_scores(int64_t step, int64_t unit) const {
    std::vector<double> combined;
    for (int32_t page = 0; page < pages(step); ++page) {
      std::vector<double> of_heads;
      for (int64_t head = unit * heads_of_unit(); head < (unit + 1) * heads_of_unit(); ++head) {
        double score = 0;
        for (int64_t c = 0; c < layer_.t.head_dim; ++c) {
          double low = std::numeric_limits<double>::infinity(), high = -low;
          for (const int64_t token : tokens_of({page}, method_.page_size, position(step))) {
            low = std::min(low, layer_.key(token, head / layer_.group())[c]);
            high = std::max(high, layer_.key(token, head / layer_.group())[c]);
          }
          const double q = layer_.query(position(step), head)[c];
          score += std::max(q * low, q * high);
        }
        of_heads.push_back(score);
      }
      const double sum = std::accumulate(of_heads.begin(), of_heads.end(), 0.0);
      if (method_.combine == "max")
        combined.push_back(*std::max_element(of_heads.begin(), of_heads.end()));
      else
        combined.push_back(method_.combine == "sum" ? sum : sum / static_cast<double>(of_heads.size()));
    }
    return combined;
  }

  static std::vector<int32_t> best_first(const std::vector<double>& scores) {
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    return order;
  }

  std::set<int32_t> select(int64_t step, const std::vector<double>& scores) const {
    const auto newest = static_cast<int32_t>(pages(step) - 1);
    std::set<int32_t> chosen;
    if (method_.newest != "competes") chosen.insert(newest);
    const auto k = static_cast<size_t>(budget(step) + (method_.newest == "extra" ? 1 : 0));
    for (const int32_t page : best_first(scores))
      if (chosen.size() < k) chosen.insert(page);
    return chosen;
  }

  std::set<int32_t> every_page(int64_t step) const {
    std::set<int32_t> all;
    for (int32_t page = 0; page < pages(step); ++page) all.insert(page);
    return all;
  }
  /// The union of the sets of the query's window, which the end of the replay cuts short.
  std::set<int32_t> shown(int64_t step, int64_t unit) const {
    std::set<int32_t> all;
    for (int64_t later = step; later < std::min(step + method_.window, n_); ++later)
      all.insert(set(later, unit).begin(), set(later, unit).end());
    return all;
  }
  Attended attended(int64_t step, int64_t head, const std::set<int32_t>& of) const {
    return attend_tokens(layer_, position(step), head, tokens_of(of, method_.page_size, position(step)));
  }
  double tokens(int64_t step, const std::set<int32_t>& of) const {
    return static_cast<double>(tokens_of(of, method_.page_size, position(step)).size());
  }
  static double common(const std::set<int32_t>& a, const std::set<int32_t>& b) {
    return static_cast<double>(
        std::count_if(a.begin(), a.end(), [&](int32_t page) { return b.contains(page); }));
  }
  static double relative_error(const Attended& own, const Attended& dense) {
    Attended difference = own;
    for (size_t c = 0; c < own.out.size(); ++c) difference.out[c] -= dense.out[c];
    return difference.norm() / dense.norm();
  }
  static double cosine(const Attended& own, const Attended& dense) {
    return std::inner_product(own.out.begin(), own.out.end(), dense.out.begin(), 0.0) /
           (own.norm() * dense.norm());
  }

  /// The k pages with the largest true mass, summed over the unit's heads.
  std::set<int32_t> best_by_mass(int64_t step, int64_t unit) const {
    std::vector<double> mass(static_cast<size_t>(pages(step)), 0.0);
    for (int64_t head = unit * heads_of_unit(); head < (unit + 1) * heads_of_unit(); ++head) {
      const double all = attended(step, head, every_page(step)).lse;
      for (int32_t page = 0; page < pages(step); ++page)
        mass[page] += std::exp(attended(step, head, {page}).lse - all);
    }
    std::set<int32_t> best;
    for (const int32_t page : best_first(mass))
      if (static_cast<int64_t>(best.size()) < budget(step)) best.insert(page);
    return best;
  }

  /// Pages that a step loads anew, by their rank under the scores of the step before, in units of |S| there.
  std::vector<double> late_ranks() const {
    std::vector<double> bins(9, 0.0);
    for (int64_t step = 1; step < n_; ++step)
      for (int64_t unit = 0; unit < units_; ++unit) {
        const std::set<int32_t>& before = set(step - 1, unit);
        const std::vector<int32_t> order = best_first(scores_[(step - 1) * units_ + unit]);
        for (const int32_t page : set(step, unit)) {
          const auto rank = std::find(order.begin(), order.end(), page);
          if (before.contains(page) || rank == order.end()) continue;
          const auto bin = static_cast<size_t>(rank - order.begin()) / before.size();
          bins[std::min<size_t>(bin, 8)] += 1;
        }
      }
    return bins;
  }

  WideLayer layer_;
  NaiveMethod method_;
  int64_t first_, n_, heads_, units_;
  std::vector<std::vector<double>> scores_;  // [step, unit][page]
  std::vector<std::set<int32_t>> sets_;      // [step, unit]
};

}  // namespace hindsight::test
