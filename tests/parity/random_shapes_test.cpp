// All methods on random shapes, against the oracle in double: odd lengths, groups of 1, 4, 5 and 7, pages
// that do not divide the sequence, several layers, replays that begin late and end inside a window, every
// unit, combination and rule for the newest page.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "support/named_backend.h"
#include "support/parity.h"

namespace hindsight::test {
namespace {

struct Drawn {
  SmallTrace trace;
  StepRange steps;
  std::vector<std::pair<std::string, ParameterValue>> parameters;
};

class Draw {
 public:
  explicit Draw(uint64_t seed) : generator_(seed), seed_(seed) {}

  /// A shape that both backends take, for a method of the catalog.
  Drawn operator()(const MethodDoc& doc, bool any_type) {
    Drawn drawn;
    SmallTrace& trace = drawn.trace;
    const int64_t decoded = number(1, 45);
    trace.prompt_tokens = number(1, 140);
    trace.n_tokens = trace.prompt_tokens + decoded;
    trace.q_start = number(0, trace.prompt_tokens);
    trace.n_kv_heads = number(1, 3);
    trace.n_q_heads = trace.n_kv_heads * one_of<int64_t>({1, 4, 5, 7});
    trace.head_dim = one_of<int64_t>({64, 80, 96});
    trace.n_model_layers = 7;
    trace.layers = {0, 2, 3, 6};
    trace.dtype = any_type ? one_of({DType::float16, DType::bfloat16, DType::float32}) : DType::float32;
    trace.seed = seed_;
    drawn.steps.from = number(0, decoded - 1);
    if (number(0, 1)) drawn.steps.count = number(1, decoded - drawn.steps.from);

    const auto takes = [&](const std::string& path) { return has(doc, path); };
    const auto give = [&](const std::string& path, ParameterValue value) {
      if (takes(path)) drawn.parameters.emplace_back(path, std::move(value));
    };
    give("page_size", one_of<int64_t>({8, 11, 13, 16, 29, 64}));
    if (number(0, 1))
      give("budget.ratio", one_of({0.07, 0.3, 0.6}));
    else
      give("budget.tokens", number(1, 150));
    give("k_min", number(0, 4));
    give("full_when", one_of<std::string>({"tokens", "pages"}));
    give("gqa.unit", one_of<std::string>({"per_kv_head", "per_query_head"}));
    give("gqa.combine", one_of<std::string>({"max", "mean", "sum"}));
    give("newest", one_of<std::string>({"forced", "competes", "extra"}));
    if (!doc.evicts) drawn.parameters.emplace_back("retro.window", number(1, 12));
    return drawn;
  }

 private:
  static bool has(const MethodDoc& doc, const std::string& path) {
    return std::any_of(doc.parameters.begin(), doc.parameters.end(),
                       [&](const ParameterDoc& parameter) { return parameter.path == path; });
  }
  int64_t number(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(generator_);
  }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[number(0, static_cast<int64_t>(choices.size()) - 1)];
  }

  std::mt19937_64 generator_;
  uint64_t seed_;
};

struct Case {
  std::string backend, selector;
};
std::string name_of_case(const Case& c) { return c.backend + "_" + c.selector; }
void PrintTo(const Case& c, std::ostream* out) { *out << name_of_case(c); }

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const char* backend : {"cpu", "cuda"})
    for (const MethodDoc& doc : method_catalog().selectors) cases.push_back({backend, doc.name});
  return cases;
}

class RandomShapes : public ::testing::TestWithParam<Case> {};

TEST_P(RandomShapes, MeasureWhatTheOracleMeasures) {
  std::unique_ptr<Backend> backend;
  make_named_backend(GetParam().backend, backend);
  if (!backend) return;
  const std::unique_ptr<Backend> oracle = make_cpu_oracle();
  const MethodDoc& doc = *method_catalog().find_selector(GetParam().selector);
  // Scores that are rounded to 16 bits tie differently when they were summed otherwise, and CUDA's attention
  // over 16-bit values rounds the weights too: its own tests have the tolerances. The CPU widens every type
  // exactly.
  const bool any_type = GetParam().backend == "cpu" && doc.name != "quest_kernel";
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    const Drawn drawn = Draw(seed)(doc, any_type);
    std::string what;
    for (const auto& [path, value] : drawn.parameters) what += fmt::format(" {}={}", path, text_of(value));
    SCOPED_TRACE(fmt::format("seed {}: prompt {}, tokens {}, heads {}/{}, d {}, steps from {}{}", seed,
                             drawn.trace.prompt_tokens, drawn.trace.n_tokens, drawn.trace.n_q_heads,
                             drawn.trace.n_kv_heads, drawn.trace.head_dim, drawn.steps.from, what));
    const TempDir dir;
    write_small_trace(dir / "t.h5", drawn.trace);
    const MethodPoint point = method_point(doc.name, drawn.parameters);
    ASSERT_NO_FATAL_FAILURE(expect_parity(ReplayCase(dir / "t.h5", *oracle, drawn.steps).measure(point),
                                          ReplayCase(dir / "t.h5", *backend, drawn.steps).measure(point)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, RandomShapes, ::testing::ValuesIn(all_cases()),
                         [](const auto& parity) { return name_of_case(parity.param); });

}  // namespace
}  // namespace hindsight::test
