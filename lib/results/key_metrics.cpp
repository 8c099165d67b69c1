#include "results/key_metrics.h"

#include <algorithm>
#include <array>

namespace hindsight {

std::optional<size_t> key_metric_rank(std::string_view column) {
  static constexpr std::array<std::string_view, 18> names{"accuracy_mean",
                                                          "accuracy_standard_error",
                                                          "before_first_error_mean",
                                                          "exact_mean",
                                                          "nll_mean",
                                                          "delta_nll_mean",
                                                          "delta_nll_standard_error",
                                                          "token_agreement_mean",
                                                          "hidden_rel_l2_final_mean",
                                                          "rel_l2_first_mean",
                                                          "rel_l2_final_mean",
                                                          "mass_recall_final_mean",
                                                          "effective_exposure_mean",
                                                          "page_overlap_mean",
                                                          "oracle_page_recall_mean",
                                                          "bytes_kv_per_step",
                                                          "bytes_kv_mean",
                                                          "latency_us_total_p50"};
  const auto found = std::find(names.begin(), names.end(), column);
  if (found == names.end()) return std::nullopt;
  return static_cast<size_t>(found - names.begin());
}

}  // namespace hindsight
