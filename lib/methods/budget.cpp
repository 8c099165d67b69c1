#include "methods/budget.h"

#include <algorithm>
#include <cmath>

namespace hindsight {

Budget::Budget(const ParameterSet& parameters)
    : page_size_(parameters.integer("page_size")),
      fixed_(parameters.has("budget.tokens")),
      tokens_(fixed_ ? static_cast<double>(parameters.integer("budget.tokens")) : 0),
      ratio_(fixed_ ? 1 : parameters.real("budget.ratio")),
      min_tokens_(fixed_ ? 0 : static_cast<double>(parameters.integer("budget.min_tokens"))),
      k_min_(parameters.integer("k_min")),
      full_by_tokens_(parameters.choice("full_when") == "tokens") {}

double Budget::tokens(int64_t position) const {
  return fixed_ ? tokens_ : std::max(min_tokens_, ratio_ * static_cast<double>(position + 1));
}

int64_t Budget::pages(int64_t position) const {
  const int64_t existing = pages_at(position, page_size_);
  const double budget = tokens(position);
  if (full_by_tokens_ && budget >= static_cast<double>(position + 1)) return existing;
  // A ratio is meant as an exact decimal; a bare floor would be one page short at some lengths (0.15 * 320 /
  // 16 < 3).
  const double pages = std::floor(budget / static_cast<double>(page_size_) + 1e-9);
  return std::min(existing, std::max(k_min_, static_cast<int64_t>(std::min(pages, 1e15))));
}

}  // namespace hindsight
