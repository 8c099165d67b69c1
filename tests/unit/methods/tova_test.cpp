// TOVA against its definition: explicit sets of tokens, softmax over them in double.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "support/attention_case.h"
#include "support/method_point.h"

namespace hindsight::test {
namespace {

struct TovaCase {
  std::string name;
  int64_t page_size;
  std::vector<std::pair<std::string, ParameterValue>> budget;
  std::function<int64_t(int64_t position)> k;  ///< pages
};
void PrintTo(const TovaCase& tova, std::ostream* out) { *out << tova.name; }

/// Attention weight of pages among `pages`, mean over all heads.
std::map<int32_t, double> page_weights(const WideLayer& layer, int64_t position,
                                       const std::set<int32_t>& pages, int64_t page_size) {
  std::map<int32_t, double> weights;
  const std::set<int64_t> tokens = tokens_of(pages, page_size, position);
  for (int64_t head = 0; head < layer.t.n_q_heads; ++head) {
    const double lse = attend_tokens(layer, position, head, tokens).lse;
    for (const int64_t token : tokens) {
      const double logit = attend_tokens(layer, position, head, {token}).lse;
      weights[static_cast<int32_t>(token / page_size)] +=
          std::exp(logit - lse) / static_cast<double>(layer.t.n_q_heads);
    }
  }
  return weights;
}

/// The pages after each step.
std::vector<std::set<int32_t>> expected_pages(const WideLayer& layer, const TovaCase& tova) {
  std::vector<std::set<int32_t>> all;
  std::set<int32_t> cache;
  for (int64_t position = 0; position < layer.t.n_tokens; ++position) {
    const auto newest = static_cast<int32_t>(position / tova.page_size);
    cache.insert(newest);
    if (position < layer.t.q_start) continue;
    const auto weights = page_weights(layer, position, cache, tova.page_size);
    while (static_cast<int64_t>(cache.size()) > tova.k(position)) {
      int32_t least = -1;
      for (const int32_t page : cache)
        if (page != newest && (least < 0 || weights.at(page) <= weights.at(least))) least = page;
      cache.erase(least);
    }
    all.push_back(cache);
  }
  return all;
}

class Tova : public ::testing::TestWithParam<TovaCase> {};

TEST_P(Tova, KeepsWhatTheDefinitionKeeps) {
  const TovaCase& tova = GetParam();
  const LayerTensors tensors = random_layer({.n_tokens = 90, .prompt_tokens = 50, .query_norm = 2});
  const WideLayer wide(tensors);
  const auto backend = make_cpu_backend();
  const auto layer = backend->load_layer({&tensors, 1});
  const auto cache = backend->make_cache(*layer, tova.page_size);
  const TokenRange all{0, 0, tensors.n_tokens};
  backend->append(*cache, *layer, {&all, 1});
  auto given = tova.budget;
  given.insert(given.end(), {{"page_size", tova.page_size}, {"k_min", int64_t{1}}});
  const auto selector = make_selector("tova", method_point("tova", given).parameters);
  const int64_t capacity = selector->list_capacity(50, 89), units = layer->units(Unit::per_kv_head);

  const std::vector<std::set<int32_t>> expected = expected_pages(wide, tova);
  // Blocks of different sizes: what is kept goes on from one to the next.
  for (int64_t first = 0, n = 1; first < 40; first += n, n = 7) {
    n = std::min<int64_t>(n, 40 - first);
    std::vector<BlockStep> steps;
    for (int64_t i = 0; i < n; ++i)
      steps.push_back({0, static_cast<int32_t>(50 + first + i), static_cast<int32_t>(first + i), 1});
    const Block block = backend->make_block(std::move(steps));
    const PageLists lists{backend->make_tensor<int32_t, 3>({n, units, capacity}),
                          backend->make_tensor<int32_t, 2>({n, units})};
    selector->select({*backend, *layer, *cache, block, {}}, {}, lists);
    const std::vector<int32_t> pages = backend->to_host(lists.pages), count = backend->to_host(lists.count);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t unit = 0; unit < units; ++unit) {
        const auto begin = pages.begin() + (i * units + unit) * capacity;
        EXPECT_EQ(std::set<int32_t>(begin, begin + count[i * units + unit]), expected[first + i])
            << "step " << first + i << " unit " << unit;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, Tova,
    ::testing::Values(
        TovaCase{"TokensFixed", 1, {{"budget.tokens", int64_t{20}}}, [](int64_t) { return 20; }},
        TovaCase{
            "TokensRatio", 1, {{"budget.ratio", 0.25}}, [](int64_t position) { return (position + 1) / 4; }},
        TovaCase{"PagesFixed", 4, {{"budget.tokens", int64_t{24}}}, [](int64_t) { return 6; }},
        TovaCase{
            "PagesRatio", 4, {{"budget.ratio", 0.25}}, [](int64_t position) { return (position + 1) / 16; }},
        TovaCase{"NewestAlone", 4, {{"budget.tokens", int64_t{1}}}, [](int64_t) { return 1; }},
        TovaCase{"Everything", 4, {{"budget.ratio", 1.0}}, [](int64_t) { return 1000; }}),
    [](const auto& tova) { return tova.param.name; });

}  // namespace
}  // namespace hindsight::test
