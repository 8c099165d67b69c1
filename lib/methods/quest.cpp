// Quest (arXiv 2406.10774, section 3.3): pages ranked by an upper bound of q.k from the element-wise minimum
// and maximum of their keys. Its public code is two implementations that disagree; both are presets here:
// published numbers come from one or the other.

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class Quest final : public BudgetedSelector {
 public:
  explicit Quest(const ParameterSet& parameters)
      : BudgetedSelector(parameters), round_to_storage_(parameters.choice("score_type") == "storage") {}
  void score(const SelectionInput& input, Tensor<float, 3> scores) override {
    input.backend.score_pages(input.layer, input.cache, input.block, unit_policy(), round_to_storage_,
                              scores);
  }
  std::optional<Bounds> bounds() const override { return Bounds{round_to_storage_}; }
  int64_t metadata_elements_per_page(int64_t head_dim) const override { return 2 * head_dim; }

 private:
  bool round_to_storage_;
};

ParameterDoc score_type(std::string default_value) {
  return choice_parameter("score_type", std::move(default_value), {"float32", "storage"},
                          "precision that scores are kept in: float32, or the type of the queries",
                          "Quest's evaluation code (float32), its kernels (storage)");
}

SelectorInfo preset(std::string name, std::string summary, std::string source,
                    std::vector<ParameterDoc> parameters) {
  MethodDoc doc;
  doc.name = std::move(name);
  doc.summary = std::move(summary);
  doc.source = std::move(source);
  if (doc.name != "quest") doc.preset_of = "quest";
  doc.parameters = std::move(parameters);
  return {doc, make_selector_of<Quest>};
}

}  // namespace

SelectorInfo quest_selector() {
  return preset("quest", "pages ranked by Quest's upper bound of q.k; page sets per KV head",
                "Quest, section 3.3, as RetroAttention's cost model loads pages",
                all_of({paging_parameters(),
                        budget_parameters(),
                        gqa_parameters(),
                        newest_parameters(),
                        {score_type("float32")}}));
}

SelectorInfo quest_eval_selector() {
  return preset("quest_eval", "Quest as its evaluation code computes it (published accuracies)",
                "Quest's public code, evaluation path",
                all_of({paging_parameters(),
                        budget_parameters(3, "pages"),
                        gqa_parameters("per_query_head"),
                        newest_parameters("competes"),
                        {score_type("float32")}}));
}

SelectorInfo quest_kernel_selector() {
  return preset("quest_kernel", "Quest as its kernels compute it (published speeds)",
                "Quest's public code, kernel path (MHA only there; here one page set per query head)",
                all_of({paging_parameters(),
                        budget_parameters(0, "pages"),
                        gqa_parameters("per_query_head"),
                        newest_parameters("forced"),
                        {score_type("storage")}}));
}

}  // namespace hindsight
