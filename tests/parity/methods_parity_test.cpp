// All methods on all backends against the oracle in double: the same metrics to the precision of the
// arithmetic, on chosen odd shapes. (random_shapes_test.cpp draws them.)

#include <gtest/gtest.h>

#include "support/named_backend.h"
#include "support/parity.h"

namespace hindsight::test {
namespace {

struct ParityCase {
  std::string backend, selector;
  int64_t group = 1;
  int64_t page_size = 16;
  int64_t window = 1;
};

std::string name_of_case(const ParityCase& c) {
  return c.backend + "_" + c.selector + "_G" + std::to_string(c.group) + "_p" + std::to_string(c.page_size) +
         "_w" + std::to_string(c.window);
}

/// How GoogleTest shows a case.
void PrintTo(const ParityCase& c, std::ostream* out) { *out << name_of_case(c); }

std::vector<ParityCase> parity_cases() {
  std::vector<ParityCase> cases;
  for (const char* backend : {"cpu", "cuda"})
    for (const MethodDoc& doc : method_catalog().selectors)
      for (const auto& [group, page_size, window] :
           std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 16, 1}, {4, 16, 4}, {5, 11, 3}, {7, 8, 9}})
        if (!doc.evicts || window == 1) cases.push_back({backend, doc.name, group, page_size, window});
  return cases;
}

class MethodParity : public ::testing::TestWithParam<ParityCase> {};

TEST_P(MethodParity, MetricsAreThoseOfTheOracle) {
  const ParityCase& c = GetParam();
  std::unique_ptr<Backend> backend;
  make_named_backend(c.backend, backend);
  if (!backend) return;
  const TempDir dir;
  // head_dim 64 is the least that the CUDA backend takes; the window reaches across the end of the sequence.
  write_small_trace(dir / "t.h5", {.n_tokens = 131,
                                   .prompt_tokens = 97,
                                   .n_q_heads = 2 * c.group,
                                   .n_kv_heads = 2,
                                   .head_dim = 64,
                                   .layers = {2, 4},
                                   .dtype = DType::float32,
                                   .q_start = 97,
                                   .seed = static_cast<uint64_t>(c.group)});
  std::vector<std::pair<std::string, ParameterValue>> given{{"page_size", c.page_size}};
  if (c.selector != "dense") given.emplace_back("budget.ratio", 0.3);
  if (c.window > 1) given.emplace_back("retro.window", c.window);
  const MethodPoint point = method_point(c.selector, given);
  const std::unique_ptr<Backend> oracle = make_cpu_oracle();
  expect_parity(ReplayCase(dir / "t.h5", *oracle).measure(point),
                ReplayCase(dir / "t.h5", *backend).measure(point));
}

INSTANTIATE_TEST_SUITE_P(All, MethodParity, ::testing::ValuesIn(parity_cases()),
                         [](const auto& parity) { return name_of_case(parity.param); });

}  // namespace
}  // namespace hindsight::test
