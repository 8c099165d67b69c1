#include "methods/common_parameters.h"

namespace hindsight {

ParameterDoc integer_parameter(std::string path, int64_t default_value, double minimum, double maximum,
                               std::string unit, std::string summary, std::string source) {
  ParameterDoc doc;
  doc.path = std::move(path);
  doc.type = ParameterType::integer;
  doc.default_value = default_value;
  doc.minimum = minimum;
  doc.maximum = maximum;
  doc.unit = std::move(unit);
  doc.summary = std::move(summary);
  doc.source = std::move(source);
  return doc;
}

ParameterDoc choice_parameter(std::string path, std::string default_value, std::vector<std::string> choices,
                              std::string summary, std::string source) {
  ParameterDoc doc;
  doc.path = std::move(path);
  doc.type = ParameterType::choice;
  doc.default_value = std::move(default_value);
  doc.choices = std::move(choices);
  doc.summary = std::move(summary);
  doc.source = std::move(source);
  return doc;
}

std::vector<ParameterDoc> paging_parameters() {
  return {integer_parameter("page_size", 16, 1, 1024, "tokens", "tokens of a page", "Quest, section 4"),
          integer_parameter("dense_layers", 2, 0, 1 << 20, "layers",
                            "first layers of the model that attend densely; left out of all means",
                            "Quest, section 4.1")};
}

std::vector<ParameterDoc> budget_parameters(int64_t k_min, std::string full_when) {
  constexpr double most_tokens = 1LL << 40;
  ParameterDoc tokens =
      integer_parameter("budget.tokens", 0, 1, most_tokens, "tokens",
                        "token budget of a step, the same at every length", "Quest, section 4");
  tokens.default_value.reset();
  ParameterDoc ratio;
  ratio.path = "budget.ratio";
  ratio.type = ParameterType::real;
  ratio.minimum = 0;
  ratio.minimum_excluded = true;
  ratio.maximum = 1;
  ratio.unit = "of the context";
  ratio.summary = "token budget of a step as a share of the tokens so far";
  ratio.source = "RetroAttention, section 4 (0.15)";
  return {tokens, ratio,
          integer_parameter("budget.min_tokens", 0, 0, most_tokens, "tokens",
                            "least token budget, with budget.ratio",
                            "RetroAttention, section 4 (256); 0 is our choice"),
          integer_parameter("k_min", k_min, 0, 1 << 30, "pages", "least pages to load, budget or not",
                            "Quest's evaluation code (3)"),
          choice_parameter(
              "full_when", std::move(full_when), {"tokens", "pages"},
              "all pages are loaded once the budget covers all tokens, or all pages once rounded down",
              "our choice (tokens); Quest's code (pages)")};
}

std::vector<ParameterDoc> gqa_parameters(std::string unit) {
  return {
      choice_parameter("gqa.unit", std::move(unit), {"per_kv_head", "per_query_head"},
                       "heads that share a page set: the query heads of a KV head, or none",
                       "our choice (per_kv_head); Quest's evaluation code (per_query_head)"),
      choice_parameter("gqa.combine", "mean", {"max", "mean", "sum"},
                       "how the scores of the query heads of a KV head become one; no effect per_query_head",
                       "our choice (mean); The Sparse Frontier (sum)")};
}

std::vector<ParameterDoc> newest_parameters(std::string newest) {
  return {choice_parameter(
      "newest", std::move(newest), {"forced", "competes", "extra"},
      "the page being filled is always loaded and counts, must win its place, or comes on top",
      "Quest's kernels (forced), its evaluation code (competes), The Sparse Frontier (extra)")};
}

std::vector<ParameterDoc> all_of(std::vector<std::vector<ParameterDoc>> groups) {
  std::vector<ParameterDoc> all;
  for (std::vector<ParameterDoc>& group : groups)
    for (ParameterDoc& parameter : group) all.push_back(std::move(parameter));
  return all;
}

}  // namespace hindsight
