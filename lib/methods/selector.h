#pragma once
// Selector: which pages a query loads. Policy over the primitives of a backend; one file each, listed in
// methods.def.

#include <functional>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "config/parameters.h"
#include "methods/budget.h"

namespace hindsight {

/// What a selector sees of a block of steps. n rows, U units, J pages, as in backend.h.
struct SelectionInput {
  Backend& backend;
  const Layer& layer;
  const KvCache& cache;
  const Block& block;
  Tensor<float, 3> page_mass;  ///< [n, U, J] true mass (Backend::page_mass); empty unless needs_page_mass()
};

/// A method's choice of pages for one layer of one replay. It may keep state from block to block: steps come
/// in order.
class Selector {
 public:
  explicit Selector(const ParameterSet& parameters);
  virtual ~Selector() = default;

  /// Fills scores [n, U, J] for the rows of the block, greater is better. Nothing to do for selectors without
  /// scores.
  virtual void score(const SelectionInput& input, Tensor<float, 3> scores) = 0;
  /// Fills the page lists from the scores; lists.pages holds list_capacity() of all replayed positions a row.
  virtual void select(const SelectionInput& input, Tensor<float, 3> scores, PageLists lists);

  /// Whether score() ranks pages (the late-rank histogram needs it).
  virtual bool has_scores() const { return true; }
  /// Whether input.page_mass must be given: the true mass, that no deployable selector can know.
  virtual bool needs_page_mass() const { return false; }
  /// Loads everything: a latency replay then runs dense attention.
  virtual bool is_dense() const { return false; }
  /// Whether score() is Backend::score_pages and select() the default, so that a backend may do the whole
  /// step at once; `rounded` says whether it rounds to the storage type.
  struct Bounds {
    bool rounded;
  };
  virtual std::optional<Bounds> bounds() const { return std::nullopt; }
  /// Elements of the storage type that scoring one page of one KV head reads.
  virtual int64_t metadata_elements_per_page(int64_t /*head_dim*/) const { return 0; }
  /// Pages that the budget grants at a position (k).
  virtual int64_t budget_pages(int64_t position) const = 0;

  /// Most pages a list can hold in a replay of positions first..last.
  int64_t list_capacity(int64_t first_position, int64_t last_position) const;
  int64_t page_size() const { return page_size_; }
  UnitPolicy unit_policy() const { return unit_policy_; }
  Newest newest() const { return newest_; }
  /// k of every row of the block.
  std::vector<int32_t> budgets(const Block& block) const;

 protected:
  /// Fills lists that do not depend on the unit: pages_of(step) gives a row's pages, ascending. Throws
  /// std::invalid_argument where they are more than a list holds.
  static void fill_lists(const SelectionInput& input, PageLists lists,
                         const std::function<std::vector<int32_t>(const BlockStep&)>& pages_of);

 private:
  int64_t page_size_;
  UnitPolicy unit_policy_;  // per_kv_head, mean where the method has no gqa.* parameters
  Newest newest_;           // forced where the method has no such parameter
};

/// A selector that takes a budget (budget.tokens or budget.ratio).
class BudgetedSelector : public Selector {
 public:
  explicit BudgetedSelector(const ParameterSet& parameters) : Selector(parameters), budget_(parameters) {}
  int64_t budget_pages(int64_t position) const override { return budget_.pages(position); }

 private:
  Budget budget_;
};

/// What lib/methods knows of a selector: its documentation for users, and how to make one.
struct SelectorInfo {
  MethodDoc doc;
  std::unique_ptr<Selector> (*make)(const ParameterSet& parameters);
};

template <class S>
std::unique_ptr<Selector> make_selector_of(const ParameterSet& parameters) {
  return std::make_unique<S>(parameters);
}

}  // namespace hindsight
