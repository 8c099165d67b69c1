#pragma once
// Parameters that several methods share, documented once.

#include <string>
#include <vector>

#include "config/parameters.h"

namespace hindsight {

ParameterDoc integer_parameter(std::string path, int64_t default_value, double minimum, double maximum,
                               std::string unit, std::string summary, std::string source);
ParameterDoc choice_parameter(std::string path, std::string default_value, std::vector<std::string> choices,
                              std::string summary, std::string source);

/// page_size, dense_layers: every method has them.
std::vector<ParameterDoc> paging_parameters();
/// budget.tokens, budget.ratio, budget.min_tokens, k_min, full_when.
std::vector<ParameterDoc> budget_parameters(int64_t k_min = 3, std::string full_when = "tokens");
/// gqa.unit, gqa.combine.
std::vector<ParameterDoc> gqa_parameters(std::string unit = "per_kv_head");
/// newest.
std::vector<ParameterDoc> newest_parameters(std::string newest = "forced");

/// The concatenation of groups of parameters.
std::vector<ParameterDoc> all_of(std::vector<std::vector<ParameterDoc>> groups);

}  // namespace hindsight
