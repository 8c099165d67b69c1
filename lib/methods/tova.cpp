// TOVA (arXiv 2401.06104): the cache drops what the current query attends to least, for good. Here in pages:
// a page weighs what its tokens weigh together, and with page_size 1 it is TOVA itself.

#include <algorithm>
#include <map>
#include <numeric>

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class Tova final : public BudgetedSelector {
 public:
  using BudgetedSelector::BudgetedSelector;

  void score(const SelectionInput&, Tensor<float, 3>) override {}
  /// Row after row: what a query finds in the cache depends on what those before it left there.
  void select(const SelectionInput& input, Tensor<float, 3>, PageLists lists) override {
    fill_lists(input, lists, [&](const BlockStep& step) { return kept_pages(input, step); });
  }
  bool has_scores() const override { return false; }

 private:
  struct Cache {
    std::vector<int32_t> pages;  ///< ascending
    int64_t seen = 0;            ///< pages that existed at the last step
  };

  std::vector<int32_t> kept_pages(const SelectionInput& input, const BlockStep& step) {
    Cache& cache = caches_[step.sequence];
    for (const int64_t existing = pages_at(step.position, page_size()); cache.seen < existing; ++cache.seen)
      cache.pages.push_back(static_cast<int32_t>(cache.seen));
    const auto k = static_cast<size_t>(std::max<int64_t>(1, budget_pages(step.position)));
    // The newest page is being written to; it is the last, and stays.
    if (cache.pages.size() > k) evict(cache.pages, k, weights(input, step, cache.pages));
    return cache.pages;
  }

  /// Keeps the last page and, of the others, the k - 1 with the largest weights; of equals the lower.
  static void evict(std::vector<int32_t>& pages, size_t k, const std::vector<double>& weights) {
    std::vector<size_t> order(pages.size() - 1);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
    order.resize(k - 1);
    std::sort(order.begin(), order.end());
    std::vector<int32_t> kept;
    for (const size_t place : order) kept.push_back(pages[place]);
    kept.push_back(pages.back());
    pages = std::move(kept);
  }

  /// Attention weight of each page among these pages, added up over heads (their mean ranks the same).
  std::vector<double> weights(const SelectionInput& input, const BlockStep& step,
                              const std::vector<int32_t>& pages) {
    Backend& backend = input.backend;
    const int64_t heads = input.layer.n_q_heads, units = input.layer.n_kv_heads;
    const auto n = static_cast<int64_t>(pages.size());
    BlockStep alone = step;
    alone.window_rows = 1;
    const Block block = backend.make_block({alone});
    const PageLists lists{backend.make_tensor<int32_t, 3>({1, units, n}),
                          backend.make_tensor<int32_t, 2>({1, units})};
    const SelectionInput one{backend, input.layer, input.cache, block, {}};
    fill_lists(one, lists, [&](const BlockStep&) { return pages; });
    const Partials partials{backend.make_tensor<float, 4>({1, 1, heads, input.layer.head_dim}),
                            backend.make_tensor<float, 3>({1, 1, heads})};
    backend.attend(input.layer, input.cache, block, UnitPolicy{}, lists, {}, 1, partials);
    // The mass of a page against the log-sum-exp of attention to the cache is its weight in the cache.
    const Tensor<float, 2> lse{partials.lse.storage, {1, heads}, partials.lse.byte_offset};
    const auto mass = backend.make_tensor<float, 3>({1, units, input.cache.max_pages});
    backend.page_mass(input.layer, input.cache, block, Unit::per_kv_head, lse, mass);
    const std::vector<float> by_unit = backend.to_host(mass);
    std::vector<double> sums(pages.size(), 0.0);
    for (int64_t unit = 0; unit < units; ++unit)
      for (size_t i = 0; i < pages.size(); ++i) sums[i] += by_unit[unit * input.cache.max_pages + pages[i]];
    return sums;
  }

  std::map<int32_t, Cache> caches_;  // by sequence
};

}  // namespace

SelectorInfo tova_selector() {
  MethodDoc doc;
  doc.name = "tova";
  doc.summary = "drops for good what the current query attends to least; all heads of a layer keep the same";
  doc.source =
      "TOVA (arXiv 2401.06104), section 3; in pages, whose tokens' weights add up, is our choice: "
      "page_size 1 is TOVA itself";
  doc.evicts = true;
  doc.refusal =
      "tova evicts: a later step holds a subset of what an earlier query saw, plus tokens after it, so "
      "nothing "
      "can be added";
  doc.parameters = all_of({paging_parameters(), budget_parameters()});
  return {doc, make_selector_of<Tova>};
}

}  // namespace hindsight
