// StreamingLLM (arXiv 2309.17453): the first tokens (attention sinks) and a recent window, in pages. It
// evicts: what left the window never comes back, also where a ratio budget grows faster than the context
// moves on.

#include <algorithm>
#include <map>

#include "methods/common_parameters.h"
#include "methods/selector.h"

namespace hindsight {
namespace {

class Streaming final : public BudgetedSelector {
 public:
  explicit Streaming(const ParameterSet& parameters)
      : BudgetedSelector(parameters), sink_tokens_(parameters.integer("sink_tokens")) {}

  void score(const SelectionInput&, Tensor<float, 3>) override {}
  void select(const SelectionInput& input, Tensor<float, 3>, PageLists lists) override {
    fill_lists(input, lists, [this](const BlockStep& step) { return kept_pages(step); });
  }
  bool has_scores() const override { return false; }

 private:
  struct Window {
    int64_t sinks = 0;  // pages kept for good
    int64_t start = 0;  // first page of the recent window
  };

  std::vector<int32_t> kept_pages(const BlockStep& step) {
    const int64_t existing = pages_at(step.position, page_size());
    const int64_t k = std::max<int64_t>(1, budget_pages(step.position));
    auto [at, is_first] = windows_.try_emplace(step.sequence);
    Window& window = at->second;
    // The newest page is always kept; sinks are decided once, since what was evicted stays evicted.
    if (is_first) window.sinks = std::min((sink_tokens_ + page_size() - 1) / page_size(), k - 1);
    const int64_t recent = std::max<int64_t>(1, k - window.sinks);
    window.start = std::max(window.start, existing - recent);

    std::vector<int32_t> kept;
    for (int64_t page = 0; page < existing; ++page)
      if (page < window.sinks || page >= window.start) kept.push_back(static_cast<int32_t>(page));
    return kept;
  }

  int64_t sink_tokens_;
  std::map<int32_t, Window> windows_;  // by sequence
};

}  // namespace

SelectorInfo streaming_selector() {
  MethodDoc doc;
  doc.name = "streaming";
  doc.summary = "attention sinks and a recent window; evicts everything between";
  doc.source = "StreamingLLM (arXiv 2309.17453), section 3, in whole pages";
  doc.evicts = true;
  doc.refusal =
      "streaming evicts: a later step holds a subset of what an earlier query saw, plus tokens after it, so "
      "nothing can be added";
  doc.parameters = all_of({paging_parameters(),
                           budget_parameters(),
                           {integer_parameter("sink_tokens", 4, 0, 1 << 30, "tokens",
                                              "first tokens that are always kept, rounded up to pages",
                                              "StreamingLLM, section 3.3")}});
  return {doc, make_selector_of<Streaming>};
}

}  // namespace hindsight
