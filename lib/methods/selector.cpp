#include "methods/selector.h"

#include <algorithm>
#include <stdexcept>

namespace hindsight {
namespace {

UnitPolicy unit_policy_of(const ParameterSet& parameters) {
  UnitPolicy policy;
  if (parameters.has("gqa.unit") && parameters.choice("gqa.unit") == "per_query_head")
    policy.unit = Unit::per_query_head;
  if (!parameters.has("gqa.combine")) return policy;
  const std::string& combine = parameters.choice("gqa.combine");
  policy.combine = combine == "max" ? Combine::max : combine == "sum" ? Combine::sum : Combine::mean;
  return policy;
}

Newest newest_of(const ParameterSet& parameters) {
  if (!parameters.has("newest")) return Newest::forced;
  const std::string& newest = parameters.choice("newest");
  return newest == "competes" ? Newest::competes : newest == "extra" ? Newest::extra : Newest::forced;
}

}  // namespace

Selector::Selector(const ParameterSet& parameters)
    : page_size_(parameters.integer("page_size")),
      unit_policy_(unit_policy_of(parameters)),
      newest_(newest_of(parameters)) {}

int64_t Selector::list_capacity(int64_t first_position, int64_t last_position) const {
  const int64_t beside_budget = newest_ == Newest::extra ? 1 : 0;
  int64_t most = 0;
  // Every position counts: a budget that ends inside a page grants it while it covers the whole context, and
  // one page fewer from then on.
  for (int64_t position = first_position; position <= last_position; ++position)
    most = std::max(most, std::min(pages_at(position, page_size_),
                                   std::max<int64_t>(1, budget_pages(position)) + beside_budget));
  return most;
}

std::vector<int32_t> Selector::budgets(const Block& block) const {
  std::vector<int32_t> k;
  for (const BlockStep& step : block.steps) k.push_back(static_cast<int32_t>(budget_pages(step.position)));
  return k;
}

void Selector::fill_lists(const SelectionInput& input, PageLists lists,
                          const std::function<std::vector<int32_t>(const BlockStep&)>& pages_of) {
  const auto [n, units, capacity] = lists.pages.shape;
  std::vector<int32_t> pages(static_cast<size_t>(lists.pages.size())), count(static_cast<size_t>(n * units));
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<int32_t> row = pages_of(input.block.steps[i]);
    if (static_cast<int64_t>(row.size()) > capacity)
      throw std::invalid_argument("page lists are too short for the pages of a row");
    for (int64_t u = 0; u < units; ++u) {
      count[i * units + u] = static_cast<int32_t>(row.size());
      std::copy(row.begin(), row.end(), pages.begin() + (i * units + u) * capacity);
    }
  }
  input.backend.upload(lists.pages.data(), pages.data(),
                       static_cast<int64_t>(pages.size() * sizeof(int32_t)));
  input.backend.upload(lists.count.data(), count.data(),
                       static_cast<int64_t>(count.size() * sizeof(int32_t)));
}

void Selector::select(const SelectionInput& input, Tensor<float, 3> scores, PageLists lists) {
  input.backend.select_top_k(input.cache, input.block, scores, budgets(input.block), newest_, lists);
}

}  // namespace hindsight
