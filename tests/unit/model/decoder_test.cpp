#include "model/decoder.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "support/decoding_case.h"
#include "support/slow_decoder.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

/// Of logits, computed in float by four layers of sums of 50 products; relative where they are above 1.
constexpr double logit_tolerance = 5e-5;

Model loaded(const RandomModel& random) {
  const TempDir dir;
  random.write(dir.path());
  return Model(Checkpoint(dir.path()));
}

Decoded decode_slowly(const RandomModel& model, const SlowMethod& method, const std::vector<Text>& all) {
  Decoded decoded;
  for (const Text& text : all) {
    SlowDecoder slow(model, method);
    auto& steps = decoded.emplace_back();
    const auto narrow = [](const std::vector<double>& wide) {
      return std::vector<float>(wide.begin(), wide.end());
    };
    steps.push_back(narrow(slow.prompt(text.prompt)));
    for (const int32_t token : text.rest) steps.push_back(narrow(slow.step(token)));
  }
  return decoded;
}

struct FamilyCase {
  std::string name;
  RandomModelShape shape;
};
void PrintTo(const FamilyCase& family, std::ostream* out) { *out << family.name; }

class DecoderOfFamily : public ::testing::TestWithParam<FamilyCase> {};

TEST_P(DecoderOfFamily, DecodesAsComputedSlowlyInDouble) {
  const RandomModel random(GetParam().shape);
  const Model model = loaded(random);
  const auto backend = make_cpu_backend();
  EXPECT_LT(largest_difference(decode(model, *backend, dense(), texts()),
                               decode_slowly(random, {.dense = true}, texts())),
            logit_tolerance);
  EXPECT_LT(largest_difference(decode(model, *backend, quest(0.3, {{"retro.window", int64_t{3}}}), texts()),
                               decode_slowly(random, {.ratio = 0.3, .window = 3}, texts())),
            logit_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Table, DecoderOfFamily,
                         ::testing::Values(FamilyCase{"Llama", {}}, FamilyCase{"LlamaTied", {.tied = true}},
                                           FamilyCase{"LlamaBiased", {.attention_bias = true}},
                                           FamilyCase{"Llama3Rope", {.head_dim = 16, .llama3_rope = true}},
                                           FamilyCase{"LlamaMha", {.n_kv_heads = 4}},
                                           FamilyCase{"LlamaWideHeads", {.head_dim = 12}},
                                           FamilyCase{"Mistral",
                                                      {.family = "mistral", .dtype = DType::bfloat16}},
                                           FamilyCase{"Qwen2", {.family = "qwen2", .dtype = DType::float16}},
                                           FamilyCase{"Qwen3", {.family = "qwen3", .tied = true}}),
                         [](const auto& family) { return family.param.name; });

/// A method as the library and as the slow decoder know it.
struct MethodCase {
  std::string name;
  DecodingMethod fast;
  SlowMethod slow;
};
void PrintTo(const MethodCase& method, std::ostream* out) { *out << method.name; }

std::vector<MethodCase> methods() {
  const auto window = [](int64_t w) { return std::pair<std::string, ParameterValue>("retro.window", w); };
  const auto choice = [](const char* path, const char* value) {
    return std::pair<std::string, ParameterValue>(path, std::string(value));
  };
  const auto original = choice("retro.query", "original"), again = choice("retro.refresh", "recompute"),
             widen = choice("retro.summaries", "widen"), per_head = choice("gqa.unit", "per_query_head");
  std::vector<MethodCase> all{
      {"Quest", quest(0.3), {.ratio = 0.3}},
      {"Window2", quest(0.3, {window(2)}), {.ratio = 0.3, .window = 2}},
      {"Window4", quest(0.2, {window(4)}), {.ratio = 0.2, .window = 4}},
      {"WindowBeyondTheText", quest(0.3, {window(40)}), {.ratio = 0.3, .window = 40}},
      {"NoDenseLayer", quest(0.3, {window(4)}, 0), {.ratio = 0.3, .dense_layers = 0, .window = 4}},
      {"OneSparseLayer", quest(0.3, {window(4)}, 3), {.ratio = 0.3, .dense_layers = 3, .window = 4}},
      {"NoSparseLayer", quest(0.3, {window(4)}, 4), {.ratio = 0.3, .dense_layers = 4, .window = 4}},
      {"PerQueryHead",
       quest(0.3, {window(3), per_head}),
       {.ratio = 0.3, .window = 3, .per_query_head = true}},
      {"OriginalQuery",
       quest(0.3, {window(4), original}),
       {.ratio = 0.3, .window = 4, .original_query = true}},
      {"AttendAgain", quest(0.3, {window(4), again}), {.ratio = 0.3, .window = 4, .attend_again = true}},
      {"AttendAgainOriginally",
       quest(0.3, {window(4), again, original}),
       {.ratio = 0.3, .window = 4, .original_query = true, .attend_again = true}},
      {"Widen", quest(0.3, {window(4), widen}), {.ratio = 0.3, .window = 4, .widen = true}},
  };
  for (const int64_t w : {1, 4}) {
    DecodingMethod by_mass = quest(0.3, {window(w)});
    by_mass.selector = "oracle_pages";
    by_mass.parameters = method_point("oracle_pages", {{"budget.ratio", 0.3},
                                                       {"page_size", int64_t{4}},
                                                       {"k_min", int64_t{1}},
                                                       {"dense_layers", int64_t{1}},
                                                       window(w)})
                             .parameters;
    all.push_back({w == 1 ? "OraclePages" : "OraclePagesWindow4",
                   by_mass,
                   {.ratio = 0.3, .window = w, .by_mass = true}});
  }
  return all;
}

class DecoderWithMethod : public ::testing::TestWithParam<MethodCase> {};

TEST_P(DecoderWithMethod, DecodesAsComputedSlowlyInDouble) {
  const RandomModel random({.seed = 7});
  const Model model = loaded(random);
  const auto backend = make_cpu_backend();
  EXPECT_LT(largest_difference(decode(model, *backend, GetParam().fast, texts()),
                               decode_slowly(random, GetParam().slow, texts())),
            logit_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Table, DecoderWithMethod, ::testing::ValuesIn(methods()),
                         [](const auto& method) { return method.param.name; });

/// That the cases above could fail: what an option changes is far above the tolerance.
TEST(SlowDecoder, TellsTheOptionsApart) {
  const RandomModel random({.seed = 7});
  const SlowMethod retro{.ratio = 0.3, .window = 4};
  const Decoded base = decode_slowly(random, retro, texts());
  const auto moves = [&](auto change) {
    SlowMethod other = retro;
    change(other);
    return largest_difference(base, decode_slowly(random, other, texts())) > 20 * logit_tolerance;
  };
  EXPECT_TRUE(moves([](SlowMethod& m) { m.window = 1; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.window = 3; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.ratio = 1; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.overwrite = false; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.original_query = true; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.attend_again = true; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.widen = true; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.per_query_head = true; }));
  EXPECT_TRUE(moves([](SlowMethod& m) { m.by_mass = true; }));
}

class OneModel : public ::testing::Test {
 protected:
  RandomModel random_{RandomModelShape{.seed = 11}};
  Model model_ = loaded(random_);
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(OneModel, AWindowOfOneIsTheSelectorBitForBit) {
  EXPECT_EQ(decode(model_, *backend_, quest(0.3, {{"retro.window", int64_t{1}}}), texts()),
            decode(model_, *backend_, quest(0.3), texts()));
}

TEST_F(OneModel, AWholeBudgetIsDenseWhateverTheWindow) {
  const Decoded reference = decode(model_, *backend_, dense(), texts());
  const Decoded whole = decode(model_, *backend_, quest(1.0), texts());
  EXPECT_LT(largest_difference(whole, reference), logit_tolerance);
  for (const int64_t window : {2, 5})
    for (const char* refresh : {"merge", "recompute"})
      EXPECT_EQ(
          decode(model_, *backend_,
                 quest(1.0, {{"retro.window", window}, {"retro.refresh", std::string(refresh)}}), texts()),
          whole);
}

TEST_F(OneModel, ASequenceIsDecodedTheSameAloneAndInABatch) {
  for (const DecodingMethod& method : {dense(), quest(0.3), quest(0.3, {{"retro.window", int64_t{4}}})}) {
    const Decoded together = decode(model_, *backend_, method, texts());
    for (size_t s = 0; s < texts().size(); ++s)
      EXPECT_EQ(decode(model_, *backend_, method, {texts()[s]}).front(), together[s]) << s;
  }
}

TEST_F(OneModel, TheNumberOfThreadsChangesNoBit) {
  const int before = omp_get_max_threads();
  std::optional<Decoded> first;
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    const Decoded decoded = decode(model_, *backend_, quest(0.3, {{"retro.window", int64_t{4}}}), texts());
    if (!first) first = decoded;
    EXPECT_EQ(decoded, *first) << threads;
  }
  omp_set_num_threads(before);
}

TEST_F(OneModel, EverySelectorDecodes) {
  const auto with = [&](const char* selector, double ratio) {
    return DecodingMethod{selector, method_point(selector, {{"budget.ratio", ratio},
                                                            {"page_size", int64_t{4}},
                                                            {"dense_layers", int64_t{1}}})
                                        .parameters};
  };
  const Decoded reference = decode(model_, *backend_, dense(), texts());
  for (const char* selector : {"streaming", "tova", "oracle_pages", "random"})
    EXPECT_LT(largest_difference(decode(model_, *backend_, with(selector, 1.0), texts()), reference),
              logit_tolerance)
        << selector;
  // Quest's presets round a budget down to pages, also a whole one.
  for (const char* selector : {"streaming", "tova", "oracle_pages", "random", "quest_eval", "quest_kernel"})
    EXPECT_GT(largest_difference(decode(model_, *backend_, with(selector, 0.2), texts()), reference),
              20 * logit_tolerance)
        << selector;
}

TEST_F(OneModel, HiddenRowsOfEveryLayerAreSeenFirstAndRevised) {
  // [layer][position] -> how often, for sequence 0.
  std::map<int64_t, std::map<int64_t, int64_t>> seen;
  const std::vector<Text> one{texts()[0]};
  decode_showing_rows(model_, *backend_, quest(0.3, {{"retro.window", int64_t{4}}}), one,
                      [&](int64_t layer, const WindowSpan& span, std::span<const float> rows) {
                        EXPECT_EQ(static_cast<int64_t>(rows.size()), span.rows * 32);
                        for (int64_t past = 0; past < span.rows; ++past) ++seen[layer][span.position - past];
                      });
  ASSERT_EQ(seen.size(), 4u);
  for (const int64_t layer : {0, 3}) EXPECT_EQ(seen[layer][23 + 10], 1) << layer;  // dense; last
  for (const int64_t layer : {1, 2}) {
    EXPECT_EQ(seen[layer][23 + 10], 4) << layer;
    EXPECT_EQ(seen[layer][23 + 23], 1) << layer;  // the sequence ends
    EXPECT_EQ(seen[layer][23 + 22], 2) << layer;
  }
}

/// What left the cache stays away, in a batch of sequences that begin and end where they do.
TEST_F(OneModel, EvictorsNeverLoadAgainWhatTheyDropped) {
  for (const char* selector : {"tova", "streaming"}) {
    const DecodingMethod method{selector, method_point(selector, {{"budget.ratio", 0.3},
                                                                  {"page_size", int64_t{4}},
                                                                  {"dense_layers", int64_t{1}}})
                                              .parameters};
    std::map<std::pair<int64_t, int64_t>, std::set<int32_t>> held;  // by layer and sequence
    int64_t dropped = 0;
    decode_prepared(model_, *backend_, method, texts(), [&](Decoder& decoder) {
      decoder.observe_selections(
          [&](int64_t layer, std::span<const WindowSpan> spans, SelectionDownload on_its_way) {
            const PageSelection selection = on_its_way.get();
            for (size_t i = 0; i < spans.size(); ++i) {
              const auto loaded = selection.loaded.of(static_cast<int64_t>(i), 0);
              const std::set<int32_t> now(loaded.begin(), loaded.end());
              const auto [before, is_first] = held.try_emplace({layer, spans[i].sequence}, now);
              if (is_first) continue;
              for (const int32_t page : now)
                EXPECT_TRUE(before->second.contains(page) || page * 4 == spans[i].position) << selector;
              dropped += static_cast<int64_t>(before->second.size()) + (spans[i].position % 4 == 0 ? 1 : 0) -
                         static_cast<int64_t>(now.size());
              before->second = now;
            }
          },
          false);
    });
    EXPECT_GT(dropped, 20) << selector;
  }
}

TEST_F(OneModel, TokensThatTheModelLacksAreRefused) {
  const std::vector<int32_t> tokens{1, 64};
  EXPECT_THROW(prefill(model_, *backend_, tokens), std::out_of_range);
  EXPECT_THROW(prefill(model_, *backend_, {}), std::invalid_argument);
}

TEST_F(OneModel, ASequenceEndsAtItsCapacity) {
  const std::vector<int64_t> capacities{24};
  Decoder decoder(model_, *backend_, quest(0.3), capacities);
  decoder.start(0, prefill(model_, *backend_, random_tokens(23, 1)));
  EXPECT_THROW(decoder.start(0, prefill(model_, *backend_, random_tokens(5, 1))), std::invalid_argument);
  const NextToken next{0, 1};
  EXPECT_NO_THROW(decoder.step({&next, 1}));
  EXPECT_THROW(decoder.step({&next, 1}), std::invalid_argument);
}

}  // namespace
}  // namespace hindsight::test
