// Pages drawn at random: the floor that any selector must beat.

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class Random final : public BudgetedSelector {
 public:
  explicit Random(const ParameterSet& parameters)
      : BudgetedSelector(parameters), seed_(static_cast<uint64_t>(parameters.integer("seed"))) {}
  void score(const SelectionInput& input, Tensor<float, 3> scores) override {
    input.backend.random_scores(input.layer, input.cache, input.block, seed_, scores);
  }

 private:
  uint64_t seed_;
};

}  // namespace

SelectorInfo random_selector() {
  std::vector<ParameterDoc> unit = gqa_parameters();
  unit.resize(1);  // there are no scores of heads to combine
  MethodDoc doc;
  doc.name = "random";
  doc.summary = "pages drawn uniformly at random, anew at every step";
  doc.source = "our choice: the floor of every comparison";
  doc.parameters =
      all_of({paging_parameters(),
              budget_parameters(),
              unit,
              newest_parameters(),
              {integer_parameter("seed", 0, 0, 1LL << 52, "",
                                 "of the draw, which depends on seed, layer, step, unit and page alone",
                                 "our choice")}});
  return {doc, make_selector_of<Random>};
}

}  // namespace hindsight
