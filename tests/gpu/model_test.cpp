// Models that decode on CUDA, against the same models on the CPU: logits of every family with every kind of
// attention, and whole evaluations.

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <tuple>

#include "evaluation/hidden_errors.h"
#include "support/compare_rows_case.h"
#include "support/decoding_case.h"
#include "support/eval_case.h"
#include "support/gpu_test.h"

namespace hindsight::test {
namespace {

/// Float against float, in another order of sums; bfloat16 in two parts keeps 16 bits of an activation.
constexpr double float_tolerance = 1e-3;
/// ||a - b|| / ||b|| of logits: activations and cache in 8 or 11 bits, through four layers.
constexpr double bfloat16_tolerance = 0.05, float16_tolerance = 0.006, float32_tolerance = 1e-4;

double relative_l2(const Decoded& a, const Decoded& b) {
  double difference = 0, norm = 0;
  for (size_t s = 0; s < b.size(); ++s)
    for (size_t t = 0; t < b[s].size(); ++t)
      for (size_t i = 0; i < b[s][t].size(); ++i) {
        difference += std::pow(static_cast<double>(a[s][t][i]) - b[s][t][i], 2);
        norm += std::pow(static_cast<double>(b[s][t][i]), 2);
      }
  return std::sqrt(difference / norm);
}

constexpr int64_t page_size = 8;

RandomModelShape cuda_shape(std::string family, DType dtype) {
  RandomModelShape shape;
  shape.family = std::move(family);
  shape.hidden = 96;
  shape.ffn = 160;
  shape.head_dim = 64;
  shape.dtype = dtype;
  return shape;
}

std::vector<std::pair<std::string, ParameterValue>> window(int64_t w) { return {{"retro.window", w}}; }

struct FamilyCase {
  std::string name;
  RandomModelShape shape;
};
void PrintTo(const FamilyCase& family, std::ostream* out) { *out << family.name; }

class ModelOnCuda : public GpuTest<::testing::Test> {
 protected:
  Model on_cpu(const RandomModel& random) {
    const TempDir dir;
    random.write(dir.path());
    return Model(Checkpoint(dir.path()));
  }
  Model on_cuda(const RandomModel& random, Precision precision) {
    const TempDir dir;
    random.write(dir.path());
    return Model(Checkpoint(dir.path()), *cuda_, precision);
  }
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};

class FamilyOnCuda : public GpuTest<::testing::TestWithParam<FamilyCase>> {};

TEST_P(FamilyOnCuda, LogitsAreThoseOfTheCpu) {
  const RandomModel random(GetParam().shape);
  const TempDir dir;
  random.write(dir.path());
  const Checkpoint checkpoint(dir.path());
  const auto cpu = make_cpu_backend();
  const Model on_cpu(checkpoint), on_cuda(checkpoint, *cuda_, Precision::float32);
  const std::vector<DecodingMethod> methods{
      dense(), quest(0.3, {}, 1, page_size), quest(0.3, window(4), 1, page_size),
      quest(0.3, {{"retro.window", int64_t{3}}, {"retro.summaries", std::string("widen")}}, 0, page_size)};
  for (const DecodingMethod& method : methods)
    EXPECT_LT(
        largest_difference(decode(on_cuda, *cuda_, method, texts()), decode(on_cpu, *cpu, method, texts())),
        float_tolerance)
        << method.selector << " " << method.parameters.has("retro.window");
}

RandomModelShape with(RandomModelShape shape, const std::function<void(RandomModelShape&)>& change) {
  change(shape);
  return shape;
}

INSTANTIATE_TEST_SUITE_P(
    Table, FamilyOnCuda,
    ::testing::Values(FamilyCase{"Llama", cuda_shape("llama", DType::float32)},
                      FamilyCase{"LlamaBfloat16", cuda_shape("llama", DType::bfloat16)},
                      FamilyCase{"LlamaBiased", with(cuda_shape("llama", DType::float32),
                                                     [](auto& s) { s.attention_bias = true; })},
                      FamilyCase{"Llama3RopeTied", with(cuda_shape("llama", DType::float16),
                                                        [](auto& s) { s.llama3_rope = s.tied = true; })},
                      FamilyCase{"LlamaMha128", with(cuda_shape("llama", DType::bfloat16),
                                                     [](auto& s) {
                                                       s.n_kv_heads = 4;
                                                       s.head_dim = 128;
                                                     })},
                      FamilyCase{"Mistral", cuda_shape("mistral", DType::bfloat16)},
                      FamilyCase{"Qwen2", cuda_shape("qwen2", DType::float16)},
                      FamilyCase{"Qwen3", cuda_shape("qwen3", DType::bfloat16)}),
    [](const auto& family) { return family.param.name; });

TEST_F(ModelOnCuda, EveryOptionOfTheWindowIsThatOfTheCpu) {
  const RandomModel random(cuda_shape("llama", DType::float32));
  const Model cpu_model = on_cpu(random), cuda_model = on_cuda(random, Precision::float32);
  const auto choice = [](const char* path, const char* value) {
    return std::pair<std::string, ParameterValue>(path, std::string(value));
  };
  const auto four = window(4).front();
  const std::vector<std::vector<std::pair<std::string, ParameterValue>>> options{
      {four, choice("retro.query", "original")},
      {four, choice("retro.refresh", "recompute")},
      {four, choice("retro.refresh", "recompute"), choice("retro.query", "original")},
      {four, choice("gqa.unit", "per_query_head")},
      {four, choice("newest", "competes")},
      {four, choice("newest", "extra")}};
  for (size_t i = 0; i < options.size(); ++i) {
    const DecodingMethod method = quest(0.3, options[i], 1, page_size);
    EXPECT_LT(largest_difference(decode(cuda_model, *cuda_, method, texts()),
                                 decode(cpu_model, *cpu_, method, texts())),
              float_tolerance)
        << i;
  }
}

TEST_F(ModelOnCuda, EverySelectorDecodesAsOnTheCpu) {
  const RandomModel random(cuda_shape("llama", DType::float32));
  const Model cpu_model = on_cpu(random), cuda_model = on_cuda(random, Precision::float32);
  for (const char* selector : {"streaming", "tova", "oracle_pages", "random", "quest_eval"}) {
    const DecodingMethod method{selector, method_point(selector, {{"budget.ratio", 0.3},
                                                                  {"page_size", page_size},
                                                                  {"dense_layers", int64_t{1}}})
                                              .parameters};
    EXPECT_LT(largest_difference(decode(cuda_model, *cuda_, method, texts()),
                                 decode(cpu_model, *cpu_, method, texts())),
              float_tolerance)
        << selector;
  }
}

TEST_F(ModelOnCuda, AWindowOfOneIsTheSelectorBitForBit) {
  for (const Precision precision : {Precision::float32, Precision::storage}) {
    const Model model = on_cuda(RandomModel(cuda_shape("llama", DType::bfloat16)), precision);
    EXPECT_EQ(decode(model, *cuda_, quest(0.3, window(1), 1, 16), texts()),
              decode(model, *cuda_, quest(0.3, {}, 1, 16), texts()));
  }
}

TEST_F(ModelOnCuda, AWholeBudgetIsDenseToPrecision) {
  const struct {
    DType dtype;
    Precision precision;
    double tolerance;
  } cases[] = {{DType::float32, Precision::float32, float32_tolerance},
               {DType::bfloat16, Precision::float32, float32_tolerance},
               {DType::float16, Precision::storage, float16_tolerance},
               {DType::bfloat16, Precision::storage, bfloat16_tolerance}};
  for (const auto& c : cases) {
    const RandomModel random(cuda_shape("llama", c.dtype));
    const Model cpu_model = on_cpu(random), cuda_model = on_cuda(random, c.precision);
    const Decoded reference = decode(cpu_model, *cpu_, dense(), texts());
    EXPECT_LT(relative_l2(decode(cuda_model, *cuda_, dense(), texts()), reference), c.tolerance);
    for (const int64_t w : {1, 2, 4})
      EXPECT_LT(relative_l2(decode(cuda_model, *cuda_, quest(1.0, window(w), 1, 16), texts()), reference),
                c.tolerance)
          << w;
  }
}

/// Another sequence takes a step between any two of a decoder's, so that none is like the one before and none
/// is recorded.
TEST_F(ModelOnCuda, RecordedStepsAreThoseThatAreNot) {
  std::vector<Text> all = texts();
  const auto other = static_cast<int64_t>(all.size());
  all.push_back({random_tokens(5, 7), {}, 30});
  const auto decode_unrecorded = [&](const Model& model, const DecodingMethod& method) {
    const NextToken next{other, 1};
    return decode_prepared(
        model, *cuda_, method, all, [](Decoder&) {},
        [&](Decoder& decoder) {
          decoder.step({&next, 1});
        });
  };
  for (const Precision precision : {Precision::float32, Precision::storage}) {
    const Model model = on_cuda(RandomModel(cuda_shape("llama", DType::bfloat16)), precision);
    for (const DecodingMethod& method :
         {dense(), quest(0.3, {}, 1, 16), quest(0.3, window(4), 1, 16),
          quest(0.3, {{"retro.window", int64_t{4}}, {"retro.query", std::string("original")}}, 1, 16)})
      EXPECT_LT(relative_l2(decode(model, *cuda_, method, all), decode_unrecorded(model, method)), 1e-6);
  }
}

TEST_F(ModelOnCuda, LookingAtSelectionsChangesNoBit) {
  for (const Precision precision : {Precision::float32, Precision::storage}) {
    const Model model = on_cuda(RandomModel(cuda_shape("llama", DType::bfloat16)), precision);
    for (const DecodingMethod& method :
         {quest(0.3, {}, 1, 16), quest(0.3, window(4), 1, 16),
          quest(0.3, {{"retro.window", int64_t{4}}, {"retro.refresh", std::string("recompute")}}, 1, 16)}) {
      const Decoded alone = decode(model, *cuda_, method, texts());
      for (const bool with_true_mass : {false, true}) {
        int64_t seen = 0;
        EXPECT_EQ(decode_prepared(model, *cuda_, method, texts(),
                                  [&](Decoder& decoder) {
                                    decoder.observe_selections([&](int64_t, std::span<const WindowSpan>,
                                                                   SelectionDownload) { ++seen; },
                                                               with_true_mass);
                                  }),
                  alone);
        EXPECT_EQ(seen, 3 * 30);  // sparse layers, steps
      }
    }
  }
}

TEST_F(ModelOnCuda, HiddenRowsAreSeenAsOnTheCpu) {
  const RandomModel random(cuda_shape("llama", DType::float32));
  const Model cpu_model = on_cpu(random), cuda_model = on_cuda(random, Precision::float32);
  const auto rows_of = [&](const Model& model, Backend& backend) {
    std::map<std::pair<int64_t, int64_t>, std::vector<float>> rows;  // by layer and position
    decode_showing_rows(model, backend, quest(0.3, window(3), 1, page_size), {texts()[0]},
                        [&](int64_t layer, const WindowSpan& span, std::span<const float> hidden) {
                          const size_t width = hidden.size() / static_cast<size_t>(span.rows);
                          for (int64_t i = 0; i < span.rows; ++i) {
                            const auto row = hidden.subspan(static_cast<size_t>(i) * width, width);
                            rows[{layer, span.first_position() + i}].assign(row.begin(), row.end());
                          }
                        });
    return rows;
  };
  const auto cuda_rows = rows_of(cuda_model, *cuda_), cpu_rows = rows_of(cpu_model, *cpu_);
  ASSERT_EQ(cuda_rows.size(), cpu_rows.size());
  for (const auto& [place, row] : cpu_rows) {
    const std::vector<float>& other = cuda_rows.at(place);
    ASSERT_EQ(other.size(), row.size());
    for (size_t i = 0; i < row.size(); ++i)
      ASSERT_NEAR(other[i], row[i], float_tolerance) << place.first << " " << place.second;
  }
}

/// Of recorded steps too: errors against rows that differ from step to step, by the rows on the host.
TEST_F(ModelOnCuda, HiddenErrorsAreThoseOfTheRows) {
  const Model model = on_cuda(RandomModel(cuda_shape("llama", DType::bfloat16)), Precision::float32);
  const int64_t width = model.config().hidden;
  const std::vector<float> values = normal_values(64 * width, 9);
  const auto reference = cuda_->make_tensor<float, 2>({64, width});
  cuda_->from_host(reference, values);
  using Place = std::tuple<int64_t, int64_t, int64_t>;  // sequence, layer, position
  for (const DecodingMethod& method : {dense(), quest(0.3, {}, 1, 16), quest(0.3, window(4), 1, 16)}) {
    std::vector<std::pair<Place, double>> expected, seen;
    decode_showing_rows(
        model, *cuda_, method, texts(),
        [&](int64_t layer, const WindowSpan& span, std::span<const float> rows) {
          if (layer < 1) return;
          const auto size = static_cast<size_t>(width);
          for (int64_t i = 0; i < span.rows; ++i) {
            const int64_t position = span.first_position() + i;
            const auto r = std::span(values).subspan(static_cast<size_t>(position) * size, size);
            expected.push_back({{span.sequence, layer, position},
                                relative_error(rows.subspan(static_cast<size_t>(i) * size, size), r)});
          }
        });
    std::optional<HiddenErrors> errors;
    decode_prepared(
        model, *cuda_, method, texts(),
        [&](Decoder& decoder) {
          errors.emplace(*cuda_, decoder, 1, [&](int64_t, const WindowSpan& span) {
            return cuda_->rows_of(reference, span.first_position(), span.rows);
          });
        },
        [&](Decoder&) {
          errors->last_step().show(
              [&](int64_t sequence, int64_t layer, int64_t position, bool, double error) {
                seen.push_back({{sequence, layer, position}, error});
              });
        });
    ASSERT_EQ(seen.size(), expected.size());
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].first, expected[i].first);
      EXPECT_NEAR(seen[i].second, expected[i].second, 1e-6 * expected[i].second) << i;
    }
  }
}

TEST_F(ModelOnCuda, EvaluationsAreThoseOfTheCpu) {
  RandomModelShape shape = cuda_shape("llama", DType::bfloat16);
  shape.vocabulary = 256;
  std::string text;
  for (int i = 0; i < 59; ++i) text += static_cast<char>('a' + i * 7 % 26);
  const std::string methods =
      "  - {name: dense, selector: dense}\n"
      "  - {name: quest, selector: quest, page_size: 8, k_min: 1, dense_layers: 1, budget.ratio: 0.3}\n"
      "  - {name: retro, selector: quest, page_size: 8, k_min: 1, dense_layers: 1, budget.ratio: 0.3, "
      "retro.window: 3}\n";
  for (const std::string mode : {"mode: teacher_forced\ndata: t.txt\ntokens: 60\nprompt_tokens: 30\n",
                                 "mode: generate\ndata: t.jsonl\n"}) {
    std::vector<PointResult> results[2];
    for (int way = 0; way < 2; ++way) {
      EvalCase files(shape);
      files.write("t.txt", text);
      files.write("t.jsonl", "{\"prompt\": \"" + text + "\", \"answer\": \"abcdefghijkl\"}\n");
      if (way == 0) files.backend = make_cuda_backend(0);
      results[way] = files.run(files.plan(mode + "measure: [recall]\n", methods));
    }
    ASSERT_EQ(results[0].size(), 3u);
    ASSERT_EQ(results[1].size(), 3u);
    for (size_t p = 0; p < 3; ++p)
      for (const auto& [column, value] : results[1][p].summary)
        if (!std::isnan(value)) {
          EXPECT_NEAR(summary(results[0][p], column), value, 2e-3) << column;
        }
  }
}

TEST_F(ModelOnCuda, WeightsStayAsTheyAreStored) {
  const RandomModel random(cuda_shape("llama", DType::bfloat16));
  int64_t elements = 0;
  for (const auto& [name, tensor] : random.tensors)
    if (tensor.shape.size() == 2) elements += static_cast<int64_t>(tensor.values.size());
  EXPECT_EQ(on_cuda(random, Precision::float32).compute().weight_bytes(), 2 * elements);
}

}  // namespace
}  // namespace hindsight::test
