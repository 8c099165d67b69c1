// Dense attention as a method: every page, always. Replayed like any other, it shows what rounding alone
// does.

#include <numeric>

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class Dense final : public Selector {
 public:
  using Selector::Selector;
  void score(const SelectionInput&, Tensor<float, 3>) override {}
  void select(const SelectionInput& input, Tensor<float, 3>, PageLists lists) override {
    fill_lists(input, lists, [this](const BlockStep& step) {
      std::vector<int32_t> pages(static_cast<size_t>(pages_at(step.position, page_size())));
      std::iota(pages.begin(), pages.end(), 0);
      return pages;
    });
  }
  bool has_scores() const override { return false; }
  bool is_dense() const override { return true; }
  int64_t budget_pages(int64_t position) const override { return pages_at(position, page_size()); }
};

}  // namespace

SelectorInfo dense_selector() {
  MethodDoc doc;
  doc.name = "dense";
  doc.summary = "full attention: every page of the context";
  doc.source = "the reference of every error";
  doc.parameters = paging_parameters();
  return {doc, make_selector_of<Dense>};
}

}  // namespace hindsight
