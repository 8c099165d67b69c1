#include "evaluation/trace_capture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "support/eval_case.h"
#include "trace/trace.h"

namespace hindsight::test {
namespace {

const std::string experiments = HINDSIGHT_SOURCE_DIR "/experiments";

std::vector<float> widened(DType dtype, const std::vector<std::byte>& stored) {
  std::vector<float> values(stored.size() / static_cast<size_t>(size_of(dtype)));
  to_float(dtype, stored, values);
  return values;
}

/// ||a - b|| / ||b|| over the elements of a, the first of b.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

TEST(TraceCapture, IsThePythonCapturesTrace) {
  const TempDir dir;
  const Checkpoint checkpoint(experiments + "/reference_model/model");
  const std::vector<int32_t> text = read_text(experiments + "/traces/quickstart.prompt", checkpoint.config());
  ASSERT_EQ(text.size(), 1536u);
  CaptureOptions options;
  options.prompt_tokens = 1500;
  options.tokens = 1600;
  options.generate = 64;
  options.layers = {5, 2, 5};
  const auto backend = make_cpu_backend();
  double last = 0;
  capture_trace(checkpoint, "model", *backend, text, dir / "t.h5", options, [&](double done, double total) {
    EXPECT_LE(last, done);
    EXPECT_LE(done, total);
    last = done;
  });

  const TraceReader ours(dir / "t.h5"), theirs(experiments + "/traces/quickstart.h5");
  EXPECT_EQ(ours.info().model, "model");
  EXPECT_EQ(ours.info().prompt_tokens, 1500);
  EXPECT_EQ(ours.info().layers, (std::vector<int64_t>{2, 5}));
  const std::vector<int32_t> all = *theirs.tokens();
  EXPECT_EQ(*ours.tokens(), std::vector<int32_t>(all.begin(), all.begin() + 1600));
  for (const int64_t layer : {2, 5}) {
    const LayerTensors a = ours.read_layer(layer), b = theirs.read_layer(layer);
    ASSERT_EQ(a.dtype, DType::bfloat16);
    // Stored as bfloat16, of which a hundredth is rounded to the other side.
    EXPECT_LT(relative_difference(widened(a.dtype, a.k), widened(b.dtype, b.k)), 1e-3);
    EXPECT_LT(relative_difference(widened(a.dtype, a.v), widened(b.dtype, b.v)), 1e-3);
    // Ours begin at position 1500, theirs at 1536.
    const std::vector<float> q = widened(a.dtype, a.q);
    const int64_t ahead = 36 * a.n_q_heads * a.head_dim;
    EXPECT_LT(relative_difference({q.begin() + ahead, q.end()}, widened(b.dtype, b.q)), 1e-3);
  }
}

TEST(TraceCapture, TokenIdsAndWithoutGeneration) {
  EvalCase files({.vocabulary = 64});
  files.write("ids.jsonl", "{\"tokens\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}\n{\"tokens\": [1]}\n");
  const Checkpoint checkpoint(files.dir / "model");
  const std::vector<int32_t> text = read_text(files.dir / "ids.jsonl", checkpoint.config());
  EXPECT_EQ(text.size(), 10u);
  CaptureOptions options;
  options.prompt_tokens = 4;
  options.tokens = 9;
  options.dtype = DType::float32;
  options.label = "small";
  capture_trace(checkpoint, "model", *files.backend, text, files.dir / "t.h5", options,
                [](double, double) {});
  const TraceReader reader(files.dir / "t.h5");
  EXPECT_EQ(reader.info().model, "small");
  EXPECT_EQ(reader.info().layers.size(), 4u);
  EXPECT_EQ(*reader.tokens(), std::vector<int32_t>(text.begin(), text.begin() + 9));
  EXPECT_EQ(reader.read_layer(0).q_start, 4);
}

struct BadCapture {
  std::string says;
  std::function<void(CaptureOptions&)> change;
};

TEST(TraceCapture, OptionsThatContradictAreRefusedBeforeAFileIsMade) {
  EvalCase files({.vocabulary = 64});
  const Checkpoint checkpoint(files.dir / "model");
  const std::vector<BadCapture> table{
      {"--tokens: 600 is out of range", [](CaptureOptions& o) { o.tokens = 600; }},
      {"--prompt-tokens: 20 is out of range", [](CaptureOptions& o) { o.prompt_tokens = 20; }},
      {"--prompt-tokens: 0 is out of range", [](CaptureOptions& o) { o.prompt_tokens = 0; }},
      {"--generate: 11 is out of range", [](CaptureOptions& o) { o.generate = 11; }},
      {"--text: has 15 tokens; at least", [](CaptureOptions& o) { o.generate = 4; }},
      {"--layers: 4 is out of range", [](CaptureOptions& o) { o.layers = {4}; }},
      {"--temperature: is negative", [](CaptureOptions& o) { o.sampling.temperature = -1; }}};
  for (const BadCapture& bad : table) {
    CaptureOptions options;
    options.prompt_tokens = 10;
    options.tokens = 20;
    options.generate = 5;
    bad.change(options);
    try {
      capture_trace(checkpoint, "model", *files.backend, std::vector<int32_t>(15, 1), files.dir / "t.h5",
                    options, [](double, double) {});
      ADD_FAILURE() << bad.says << " was accepted";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(bad.says), std::string::npos) << error.what();
    }
  }
  EXPECT_FALSE(std::filesystem::exists(files.dir / "t.h5"));
}

TEST(TraceCapture, TextsThatTheModelCannotRead) {
  EvalCase files({.vocabulary = 64});
  const ModelConfig config = Checkpoint(files.dir / "model").config();
  files.write("t.txt", "text");
  files.write("empty.jsonl", "\n");
  files.write("other.jsonl", "{\"prompt\": [1]}\n");
  for (const char* name : {"t.txt", "empty.jsonl", "other.jsonl", "none.jsonl"})
    EXPECT_THROW(read_text(files.dir / name, config), InputError) << name;
}

}  // namespace
}  // namespace hindsight::test
