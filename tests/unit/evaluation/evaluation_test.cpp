#include "evaluation/evaluation.h"
#include "results/dimension_means.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "evaluation/generation.h"
#include "support/eval_case.h"
#include "support/slow_decoder.h"

namespace hindsight::test {
namespace {

/// Printable text of `n` bytes.
std::string text_of(size_t n, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::string text;
  for (size_t i = 0; i < n; ++i) text += static_cast<char>('a' + generator() % 26);
  return text;
}

const std::string methods =
    "  - {name: dense, selector: dense}\n"
    "  - {name: quest, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, grid: {budget.ratio: [0.3, "
    "1]}}\n"
    "  - {name: retro, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.3, "
    "retro.window: 3}\n";

const std::string forced = "mode: teacher_forced\ndata: t.txt\ntokens: 60\nprompt_tokens: 30\n";

TEST(TeacherForced, LikelihoodsAreThoseOfTheSlowDecoder) {
  EvalCase files;
  files.write("t.txt", text_of(59, 1));
  const std::vector<PointResult> points = files.run(files.plan(forced, methods));
  ASSERT_EQ(points.size(), 4u);
  const std::vector<SlowMethod> slow{
      {.dense = true}, {.ratio = 0.3}, {.ratio = 1}, {.ratio = 0.3, .window = 3}};
  std::vector<int32_t> tokens{0};
  for (const char byte : text_of(59, 1)) tokens.push_back(byte);
  for (size_t p = 0; p < points.size(); ++p) {
    SlowDecoder decoder(files.model, slow[p]);
    decoder.prompt({tokens.begin(), tokens.begin() + 30});
    const Series& nll = series(points[p], "nll");
    EXPECT_EQ(nll.shape, (std::vector<int64_t>{1, 29}));
    for (size_t step = 0; step < 29; ++step) {
      const std::vector<double> logits = decoder.step(tokens[30 + step]);
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit);
      const double expected = std::log(sum) - logits[static_cast<size_t>(tokens[31 + step])];
      EXPECT_NEAR(nll.values[step], expected, 1e-4) << points[p].name << " " << step;
    }
  }
}

/// Undefined values are equal.
bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

void expect_same(const Series& own, const PointResult& other) {
  const Series& theirs = series(other, own.name);
  ASSERT_EQ(own.shape, theirs.shape);
  for (size_t i = 0; i < own.values.size(); ++i)
    EXPECT_TRUE(same(own.values[i], theirs.values[i])) << own.name << " " << i;
}

/// Methods whose pages are counted, as the library and as the slow decoder know them.
const std::string sparse_methods =
    "  - {name: quest, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.3}\n"
    "  - {name: retro, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.3, "
    "retro.window: 3}\n"
    "  - {name: again, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.3, "
    "retro.window: 5, retro.refresh: recompute}\n"
    "  - {name: heads, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.3, "
    "retro.window: 4, gqa.unit: per_query_head}\n";
const std::vector<SlowMethod> slow_sparse_methods{{.ratio = 0.3},
                                                  {.ratio = 0.3, .window = 3},
                                                  {.ratio = 0.3, .window = 5, .attend_again = true},
                                                  {.ratio = 0.3, .window = 4, .per_query_head = true}};

/// Exposure and recall of a point with one sequence of `steps` steps, against the sets of a slow decoder.
void expect_selections_of(const SlowDecoder& decoder, const PointResult& point, int64_t prompt_tokens,
                          int64_t steps) {
  const struct {
    const char* name;
    double (SlowDecoder::*value)(int64_t, int64_t) const;
    double tolerance;
  } metrics[] = {{"effective_exposure", &SlowDecoder::exposure, 1e-6},
                 {"oracle_page_recall", &SlowDecoder::page_recall, 1e-6},
                 {"mass_recall_first", &SlowDecoder::mass_recall, 1e-5}};
  for (const auto& metric : metrics) {
    const Series& values = series(point, metric.name);
    ASSERT_EQ(values.dimensions, (std::vector<std::string>{"step", "layer"}));
    ASSERT_EQ(values.shape, (std::vector<int64_t>{steps, 3}));
    double sum = 0;
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t layer = 1; layer < 4; ++layer) {
        const double expected = (decoder.*metric.value)(layer, prompt_tokens + step);
        EXPECT_NEAR(values.values[static_cast<size_t>(step * 3 + layer - 1)], expected, metric.tolerance)
            << point.name << " " << metric.name << " " << step << " " << layer;
        sum += expected;
      }
    EXPECT_NEAR(summary(point, std::string(metric.name) + "_mean"), sum / static_cast<double>(3 * steps),
                1e-5);
  }
}

TEST(Selections, AreThoseOfTheSlowDecoderInTeacherForcing) {
  EvalCase files;
  files.write("t.txt", text_of(59, 1));
  const std::vector<PointResult> points =
      files.run(files.plan(forced + "measure: [recall]\n", sparse_methods));
  ASSERT_EQ(points.size(), slow_sparse_methods.size());
  std::vector<int32_t> tokens{0};
  for (const char byte : text_of(59, 1)) tokens.push_back(byte);
  for (size_t p = 0; p < points.size(); ++p) {
    SlowDecoder decoder(files.model, slow_sparse_methods[p]);
    decoder.prompt({tokens.begin(), tokens.begin() + 30});
    for (size_t step = 0; step < 29; ++step) decoder.step(tokens[30 + step]);
    expect_selections_of(decoder, points[p], 30, 29);
  }
  EXPECT_EQ(summary(points[0], "effective_exposure_mean"), 1);
  EXPECT_GT(summary(points[1], "effective_exposure_mean"), 1.02);
  // The last layer does not compute past positions: they are shown nothing there.
  const Series& exposure = series(points[1], "effective_exposure");
  for (size_t step = 0; step < 29; ++step) EXPECT_EQ(exposure.values[step * 3 + 2], 1) << step;
}

TEST(Selections, AreThoseOfTheSlowDecoderInGeneration) {
  EvalCase files;
  files.write("d.jsonl", "{\"prompt\": \"abcdefghijklmnopqrstuvwxyz\"}\n");
  const std::vector<PointResult> points = files.run(
      files.plan("mode: generate\ndata: d.jsonl\nmax_new_tokens: 12\nmeasure: [recall]\n", sparse_methods));
  for (size_t p = 0; p < points.size(); ++p) {
    SlowDecoder decoder(files.model, slow_sparse_methods[p]);
    const std::string prompt = std::string(1, '\0') + "abcdefghijklmnopqrstuvwxyz";
    decoder.prompt({prompt.begin(), prompt.end()});
    const Series& written = series(points[p], "written");
    for (size_t i = 0; i < 11; ++i) decoder.step(static_cast<int32_t>(written.values[i]));
    expect_selections_of(decoder, points[p], 27, 11);
  }
}

TEST(Selections, MeasuringRecallChangesNothingElse) {
  EvalCase files;
  files.write("t.txt", text_of(59 * 3, 2));
  files.write("d.jsonl", "{\"prompt\": \"abcdefgh\"}\n{\"prompt\": \"xyz\"}\n");
  const std::string all =
      sparse_methods +
      "  - {name: dense, selector: dense}\n"
      "  - {name: tova, selector: tova, page_size: 4, dense_layers: 1, budget.ratio: 0.3}\n"
      "  - {name: streaming, selector: streaming, page_size: 4, dense_layers: 1, "
      "budget.ratio: 0.3}\n"
      "  - {name: oracle, selector: oracle_pages, page_size: 4, dense_layers: 1, "
      "budget.ratio: 0.3, k_min: 1}\n";
  for (const std::string& mode :
       {forced, std::string("mode: generate\ndata: d.jsonl\nmax_new_tokens: 12\n")}) {
    const auto with = files.run(files.plan(mode + "measure: [recall]\noutput: with.h5\n", all));
    const auto without = files.run(files.plan(mode + "output: without.h5\n", all));
    ASSERT_EQ(with.size(), without.size());
    for (size_t p = 0; p < with.size(); ++p) {
      EXPECT_EQ(with[p].id, without[p].id);
      for (const Series& own : without[p].series) expect_same(own, with[p]);
      const size_t more = without[p].name == "dense" ? 0 : 2;
      EXPECT_EQ(with[p].series.size(), without[p].series.size() + more) << with[p].name;
      if (more == 0) continue;
      const bool is_best = with[p].name == "oracle";
      EXPECT_EQ(summary(with[p], "oracle_page_recall_mean") > 0.9999, is_best) << with[p].name;
    }
    // A file holds points that were measured alike.
    SilentObserver observer;
    EXPECT_THROW(files.run(files.plan(mode + "output: with.h5\n", all), observer, true), ConfigError);
    std::filesystem::remove(files.dir / "with.h5");
    std::filesystem::remove(files.dir / "without.h5");
  }
  EXPECT_THROW(files.plan(forced + "measure: [fidelity]\n"), ConfigError);
}

TEST(Selections, AreMeansOverTheSequencesOfABatch) {
  EvalCase files;
  const std::string line_a = "{\"prompt\": \"abcdefghij\", \"answer\": \"klmnopqr\"}\n";
  const std::string line_b = "{\"prompt\": \"xyzuvw\", \"answer\": \"mnopq\"}\n";
  files.write("a.jsonl", line_a);
  files.write("b.jsonl", line_b);
  files.write("both.jsonl", line_a + line_b);
  const auto retro = [&](const std::string& data) {
    return files.run(
        files.plan("mode: teacher_forced\ndata: " + data + "\nmeasure: [recall]\noutput: " + data + ".h5\n",
                   sparse_methods))[1];
  };
  const PointResult a = retro("a.jsonl"), b = retro("b.jsonl"), both = retro("both.jsonl");
  for (const char* name : {"effective_exposure", "oracle_page_recall", "mass_recall_first"})
    for (size_t i = 0; i < series(both, name).values.size(); ++i) {
      const auto& of_b = series(b, name).values;
      const double first = series(a, name).values[i];
      EXPECT_NEAR(series(both, name).values[i], i < of_b.size() ? (first + of_b[i]) / 2 : first, 1e-6)
          << name;
    }
}

TEST(TeacherForced, DenseAgreesWithItselfAndWholeBudgetsToo) {
  EvalCase files;
  files.write("t.txt", text_of(59 * 3, 2));
  const std::vector<PointResult> points = files.run(files.plan(forced + "batch: 2\n", methods));
  for (const size_t p : {size_t{0}, size_t{2}}) {
    EXPECT_NEAR(summary(points[p], "delta_nll_mean"), 0, 1e-6);
    EXPECT_NEAR(summary(points[p], "logit_kl_mean"), 0, 1e-6);
    EXPECT_EQ(summary(points[p], "token_agreement_mean"), 1);
    EXPECT_LT(summary(points[p], "hidden_rel_l2_final_mean"), 1e-5);
  }
  for (const size_t p : {size_t{1}, size_t{3}}) {
    EXPECT_GT(summary(points[p], "logit_kl_mean"), 1e-3);
    EXPECT_GT(summary(points[p], "hidden_rel_l2_final_mean"), 1e-2);
  }
  const Series& hidden = series(points[3], "hidden_rel_l2_final");
  EXPECT_EQ(hidden.dimensions, (std::vector<std::string>{"step", "layer"}));
  EXPECT_EQ(hidden.shape, (std::vector<int64_t>{29, 3}));
  // Only a window changes what was computed first, and not in the last layer.
  EXPECT_EQ(series(points[1], "hidden_rel_l2_first").values, series(points[1], "hidden_rel_l2_final").values);
  const Series& first = series(points[3], "hidden_rel_l2_first");
  int64_t revised = 0;
  for (size_t i = 0; i < hidden.values.size(); ++i) {
    if (i % 3 == 2) {
      EXPECT_EQ(first.values[i], hidden.values[i]) << i;
    }
    revised += first.values[i] != hidden.values[i] ? 1 : 0;
  }
  EXPECT_GT(revised, 20);
}

TEST(TeacherForced, SequencesOfDifferentLengthsEndInNaN) {
  EvalCase files;
  files.write("d.jsonl",
              "{\"prompt\": \"abc\", \"answer\": \"defgh\"}\n{\"prompt\": \"abcde\", \"answer\": \"xy\"}\n");
  const std::vector<PointResult> points = files.run(files.plan("mode: teacher_forced\ndata: d.jsonl\n"));
  const Series& nll = series(points[0], "nll");
  ASSERT_EQ(nll.shape, (std::vector<int64_t>{2, 4}));
  EXPECT_FALSE(std::isnan(nll.values[3]));
  EXPECT_FALSE(std::isnan(nll.values[4]));
  for (const size_t i : {5, 6, 7}) EXPECT_TRUE(std::isnan(nll.values[i])) << i;
}

/// Mean of steps [12 * range, ...) of a series [outer, 29 steps, n_inner].
double mean_of_twelve(const Series& values, size_t outer, size_t range, size_t inner = 0,
                      size_t n_inner = 1) {
  const size_t first = range * 12, last = std::min<size_t>(29, first + 12);
  double sum = 0;
  for (size_t step = first; step < last; ++step) sum += values.values[(outer * 29 + step) * n_inner + inner];
  return sum / static_cast<double>(last - first);
}

TEST(TeacherForced, SeriesHoldMeansOfAsManyStepsAsAskedFor) {
  EvalCase files;
  files.write("t.txt", text_of(59 * 2, 6));
  const std::string retro = sparse_methods.substr(sparse_methods.find("  - {name: retro"));
  const PointResult every = files.run(files.plan(forced + "output: every.h5\n", retro))[0];
  const PointResult means = files.run(files.plan(forced + "average_steps: 12\noutput: means.h5\n", retro))[0];
  EXPECT_EQ(means.id, every.id);
  EXPECT_EQ(means.summary, every.summary);
  for (const Coordinate& coordinate : means.coordinates) {
    if (coordinate.name != "step") continue;
    EXPECT_EQ(std::get<std::vector<int64_t>>(coordinate.values), (std::vector<int64_t>{0, 12, 24}));
  }
  for (size_t range = 0; range < 3; ++range) {
    for (const char* name :
         {"nll", "delta_nll", "sequence_hidden_rel_l2_first", "sequence_hidden_rel_l2_final"}) {
      ASSERT_EQ(series(means, name).shape, (std::vector<int64_t>{2, 3})) << name;
      for (size_t sequence = 0; sequence < 2; ++sequence)
        EXPECT_NEAR(series(means, name).values[sequence * 3 + range],
                    mean_of_twelve(series(every, name), sequence, range), 1e-6)
            << name;
    }
    for (const char* name : {"hidden_rel_l2_final", "effective_exposure"})
      for (size_t layer = 0; layer < 3; ++layer)
        EXPECT_NEAR(series(means, name).values[range * 3 + layer],
                    mean_of_twelve(series(every, name), 0, range, layer, 3), 1e-6)
            << name;
  }
  // Of 29 steps the last mean is of five; it counts as five.
  EXPECT_EQ(series(means, averaged_steps).values, (std::vector<double>{12, 12, 5, 12, 12, 5}));
  const auto by_layer_of_means = dimension_means(means, Along::layer),
             by_layer_of_all = dimension_means(every, Along::layer);
  ASSERT_EQ(by_layer_of_means.size(), 3u);
  for (size_t layer = 0; layer < 3; ++layer) {
    ASSERT_EQ(by_layer_of_means[layer].means.size(), by_layer_of_all[layer].means.size());
    for (size_t i = 0; i < by_layer_of_all[layer].means.size(); ++i)
      EXPECT_NEAR(by_layer_of_means[layer].means[i].second, by_layer_of_all[layer].means[i].second, 1e-6)
          << by_layer_of_all[layer].means[i].first;
  }
  // Of a sequence, the mean over its layers; of a step, over the sequences.
  for (size_t step = 0; step < 29; ++step) {
    const Series& by_layer = series(every, "hidden_rel_l2_final");
    const Series& by_sequence = series(every, "sequence_hidden_rel_l2_final");
    EXPECT_NEAR(
        (by_sequence.values[step] + by_sequence.values[29 + step]) / 2,
        (by_layer.values[step * 3] + by_layer.values[step * 3 + 1] + by_layer.values[step * 3 + 2]) / 3,
        1e-6);
  }
  SilentObserver observer;
  EXPECT_THROW(files.run(files.plan(forced + "output: means.h5\n", retro), observer, true), ConfigError);
  EXPECT_THROW(files.plan("mode: generate\ndata: t.txt\naverage_steps: 2\n"), ConfigError);
}

TEST(Evaluation, BatchAndThreadsChangeNoBit) {
  EvalCase files;
  files.write("t.txt", text_of(59 * 5, 3));
  const std::vector<PointResult> one = files.run(files.plan(forced + "batch: 1\noutput: one.h5\n", methods));
  const std::vector<PointResult> five =
      files.run(files.plan(forced + "batch: 5\noutput: five.h5\n", methods));
  ASSERT_EQ(one.size(), five.size());
  for (size_t p = 0; p < one.size(); ++p) {
    EXPECT_EQ(one[p].id, five[p].id);
    for (const auto& [column, value] : one[p].summary)
      EXPECT_TRUE(same(value, summary(five[p], column))) << column;
    for (const Series& own : one[p].series) expect_same(own, five[p]);
  }
}

TEST(Evaluation, AnInterruptedRunIsResumed) {
  EvalCase files;
  files.write("t.txt", text_of(59, 4));
  const EvalPlan plan = files.plan(forced, methods);
  const std::vector<PointResult> whole = files.run(plan);
  std::filesystem::remove(plan.output);
  SilentObserver impatient;
  impatient.interrupt_at = 70;  // in the third point: a check for each of 29 steps, and one for the reference
  EXPECT_THROW(files.run(plan, impatient), Interrupted);
  EXPECT_EQ(ResultReader(plan.output).point_ids().size(), 2u);
  SilentObserver observer;
  const std::vector<PointResult> resumed = files.run(plan, observer, true);
  EXPECT_EQ(observer.share(), 1);
  ASSERT_EQ(resumed.size(), whole.size());
  for (size_t p = 0; p < whole.size(); ++p) {
    EXPECT_EQ(resumed[p].id, whole[p].id);
    EXPECT_EQ(series(resumed[p], "nll").values, series(whole[p], "nll").values);
  }
  // What was measured in another mode is not mixed in.
  files.write("d.jsonl", "{\"prompt\": \"abc\", \"answer\": \"de\"}\n");
  EXPECT_THROW(files.run(files.plan("mode: generate\ndata: d.jsonl\n"), observer, true), ConfigError);
}

TEST(Evaluation, ThePrecisionOfADeviceHasNoMeaningOnTheCpu) {
  EvalCase files;
  files.write("t.txt", text_of(59, 4));
  EXPECT_EQ(precision_of(files.plan(forced)), Precision::float32);
  EXPECT_EQ(files.resolve(files.plan(forced + "precision: float32\n")).points.front().id,
            files.resolve(files.plan(forced)).points.front().id);
  const EvalPlan plan = files.plan(forced + "precision: storage\n");
  EXPECT_EQ(precision_of(plan), Precision::storage);
  EXPECT_NE(plan.resolved_yaml.find("precision: storage"), std::string::npos);
  EXPECT_THROW(files.resolve(plan), ConfigError);
  EXPECT_THROW(files.plan(forced + "precision: half\n"), ConfigError);
}

TEST(Evaluation, IdsFollowWhatDecidesResults) {
  EvalCase files;
  files.write("t.txt", text_of(59, 5));
  const auto id = [&](const std::string& settings) {
    return files.resolve(files.plan(settings)).points.front().id;
  };
  const std::string first = id(forced);
  EXPECT_EQ(id(forced + "batch: 3\noutput: other.h5\n"), first);
  EXPECT_NE(id("mode: teacher_forced\ndata: t.txt\ntokens: 59\nprompt_tokens: 30\n"), first);
  files.model.tensors["model.norm.weight"].values[0] += 1;
  files.model.write(files.dir / "model");
  EXPECT_NE(id(forced), first);
}

TEST(Generation, WritesWhatTheSlowDecoderFindsLikeliest) {
  EvalCase files;
  files.write("d.jsonl", "{\"prompt\": \"abcdefgh\"}\n{\"prompt\": \"xyz\"}\n");
  const std::vector<PointResult> points = files.run(
      files.plan("mode: generate\ndata: d.jsonl\nmax_new_tokens: 12\n",
                 "  - {name: r, selector: quest, page_size: 4, k_min: 1, dense_layers: 1, budget.ratio: 0.4, "
                 "retro.window: 2}\n"));
  const Series& written = series(points[0], "written");
  ASSERT_EQ(written.shape, (std::vector<int64_t>{2, 12}));
  int64_t at = 0;
  for (const std::string& prompt : {std::string("\0abcdefgh", 9), std::string("\0xyz", 4)}) {
    SlowDecoder decoder(files.model, {.ratio = 0.4, .window = 2});
    std::vector<double> logits = decoder.prompt({prompt.begin(), prompt.end()});
    for (int64_t i = 0; i < 12; ++i) {
      const auto token =
          static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      EXPECT_EQ(written.values[at++], token);
      logits = decoder.step(token);
    }
  }
  EXPECT_TRUE(std::isnan(summary(points[0], "accuracy_mean")));  // nothing was expected
}

TEST(Generation, EndsAtTheModelsEndOfText) {
  EvalCase files;
  files.write("d.jsonl", "{\"prompt\": \"abcdefgh\"}\n");
  const std::string settings = "mode: generate\ndata: d.jsonl\nmax_new_tokens: 12\n";
  const std::vector<double> all = series(files.run(files.plan(settings))[0], "written").values;
  files.model.config["eos_token_id"] = static_cast<int64_t>(all[4]);
  files.model.write_config(files.dir / "model");
  const std::vector<double> ended = series(files.run(files.plan(settings))[0], "written").values;
  const auto first = std::find(all.begin(), all.end(), all[4]) - all.begin();
  EXPECT_EQ(ended, std::vector<double>(all.begin(), all.begin() + first + 1));
}

TEST(Generation, DrawsDependOnTheSeedAlone) {
  EvalCase files;
  files.write("d.jsonl",
              "{\"prompt\": \"abcdefgh\"}\n{\"prompt\": \"abcdefgh\"}\n{\"prompt\": \"abcdefgh\"}\n");
  const auto written = [&](const std::string& more) {
    return series(files.run(files.plan("mode: generate\ndata: d.jsonl\nmax_new_tokens: 20\n" + more))[0],
                  "written")
        .values;
  };
  const auto one = written("sampling: {temperature: 1, seed: 1}\n");
  EXPECT_EQ(written("sampling: {temperature: 1, seed: 1}\nbatch: 1\n"), one);
  EXPECT_NE(written("sampling: {temperature: 1, seed: 2}\n"), one);
  EXPECT_NE(std::vector<double>(one.begin(), one.begin() + 20),
            std::vector<double>(one.begin() + 20, one.begin() + 40));
  EXPECT_EQ(written("sampling: {temperature: 0.00001, seed: 1}\n"), written(""));  // as good as greedy
}

TEST(AnswerScore, PartsAreRightAsAWholeAndAtTheirPlace) {
  EvalSequence sequence;
  sequence.answer = {1, 2, 3, 4, 5, 6};
  sequence.scored = {{0, 2}, {2, 4}, {5, 6}};
  const auto score = [&](std::vector<int32_t> written) { return score_answer(written, sequence); };
  const AnswerScore right = score({1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(right.accuracy, 1);
  EXPECT_EQ(right.exact, 1);
  EXPECT_EQ(right.first_error, 6);
  const AnswerScore unscored = score({1, 2, 3, 4, 0, 6});
  EXPECT_EQ(unscored.accuracy, 1);
  EXPECT_EQ(unscored.before_first_error, 1);
  EXPECT_EQ(unscored.exact, 0);
  EXPECT_EQ(unscored.first_error, 4);
  const AnswerScore middle = score({1, 2, 3, 0, 5, 6});
  EXPECT_NEAR(middle.accuracy, 2.0 / 3, 1e-12);
  EXPECT_NEAR(middle.before_first_error, 1.0 / 3, 1e-12);
  const AnswerScore wrong_first = score({0, 2, 3, 4, 5, 6});
  EXPECT_NEAR(wrong_first.accuracy, 2.0 / 3, 1e-12);
  EXPECT_EQ(wrong_first.before_first_error, 0);
  const AnswerScore short_one = score({1, 2, 3});
  EXPECT_NEAR(short_one.accuracy, 1.0 / 3, 1e-12);
  EXPECT_EQ(short_one.first_error, 3);
}

TEST(Sampling, FollowsTheDistribution) {
  const std::vector<float> logits{std::log(1.0f), std::log(2.0f), std::log(5.0f), -1000};
  std::vector<double> share(4, 0.0);
  constexpr int64_t draws = 20000;
  for (int64_t i = 0; i < draws; ++i)
    share[static_cast<size_t>(next_token(logits, {1, 7}, 0, i))] += 1.0 / draws;
  const double expected[] = {1.0 / 8, 2.0 / 8, 5.0 / 8, 0};
  // Five standard errors of a share of a half.
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(share[i], expected[i], 5 * 0.5 / std::sqrt(draws)) << i;
}

}  // namespace
}  // namespace hindsight::test
