// The pages with the largest true softmax mass: what a perfect selector of that budget would load. No
// deployable method.

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class OraclePages final : public BudgetedSelector {
 public:
  using BudgetedSelector::BudgetedSelector;
  void score(const SelectionInput& input, Tensor<float, 3> scores) override {
    input.backend.copy(scores.data(), input.page_mass.data(), scores.size() * input.backend.real_bytes());
  }
  bool needs_page_mass() const override { return true; }
};

}  // namespace

SelectorInfo oracle_pages_selector() {
  // The unit's heads add up their mass: gqa.combine has nothing to choose here.
  std::vector<ParameterDoc> unit = gqa_parameters();
  unit.resize(1);
  MethodDoc doc;
  doc.name = "oracle_pages";
  doc.summary = "the pages with the largest true softmax mass: an upper bound for page selection";
  doc.source = "our choice";
  doc.parameters = all_of({paging_parameters(), budget_parameters(), unit, newest_parameters("competes")});
  return {doc, make_selector_of<OraclePages>};
}

}  // namespace hindsight
