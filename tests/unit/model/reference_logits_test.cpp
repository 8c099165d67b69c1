// Logits against those that other programs computed: tests/reference_logits has them with their generators.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/decoder.h"
#include "support/method_point.h"

namespace hindsight::test {
namespace {

/// ||a - b|| / ||b||. Float against double: sums of some hundred products, in eight layers.
constexpr double float_tolerance = 2e-5;

double relative_difference(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return a.size() == b.size() ? std::sqrt(difference / norm) : std::numeric_limits<double>::infinity();
}

/// Tokens, and the logits [positions, vocabulary] after some of them.
struct StoredLogits {
  explicit StoredLogits(const std::filesystem::path& path) : file(path) {
    tokens = integers("tokens");
    positions = integers("positions");
    const StoredTensor& stored = file.tensors().at("logits");
    values.resize(stored.values.size() / sizeof(float));
    std::memcpy(values.data(), stored.values.data(), stored.values.size());
  }
  std::span<const float> at(size_t i) const {
    const size_t vocabulary = values.size() / positions.size();
    return std::span(values).subspan(i * vocabulary, vocabulary);
  }

  SafetensorsFile file;
  std::vector<int32_t> tokens, positions;
  std::vector<float> values;

 private:
  std::vector<int32_t> integers(const std::string& name) const {
    const StoredTensor& stored = file.tensors().at(name);
    std::vector<int32_t> numbers(stored.values.size() / sizeof(int32_t));
    std::memcpy(numbers.data(), stored.values.data(), stored.values.size());
    return numbers;
  }
};

const std::filesystem::path stored_folder = HINDSIGHT_SOURCE_DIR "/tests/reference_logits";

class ReferenceModel : public ::testing::Test {
 protected:
  Model model_{Checkpoint(HINDSIGHT_SOURCE_DIR "/experiments/reference_model/model")};
  StoredLogits stored_{stored_folder / "reference_model.safetensors"};
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(ReferenceModel, LogitsAfterAPrompt) {
  for (size_t i = 0; i < stored_.positions.size(); ++i) {
    const auto n = static_cast<size_t>(stored_.positions[i]) + 1;
    const Prompt prompt = prefill(model_, *backend_, std::span(stored_.tokens).first(n));
    EXPECT_LT(relative_difference(prompt.logits, stored_.at(i)), float_tolerance) << stored_.positions[i];
  }
}

TEST_F(ReferenceModel, LogitsWhileItDecodes) {
  const std::vector<int64_t> capacities{2048};
  constexpr size_t prompt_tokens = 1990;
  const DecodingMethod dense{"dense", method_point("dense", {}).parameters};
  Decoder decoder(model_, *backend_, dense, capacities);
  decoder.start(0, prefill(model_, *backend_, std::span(stored_.tokens).first(prompt_tokens)));
  std::vector<float> logits;
  for (size_t position = prompt_tokens; position < 2048; ++position) {
    const NextToken next{0, stored_.tokens[position]};
    logits = decoder.step({&next, 1});
  }
  const auto at = std::find(stored_.positions.begin(), stored_.positions.end(), 2047);
  EXPECT_LT(relative_difference(logits, stored_.at(static_cast<size_t>(at - stored_.positions.begin()))),
            float_tolerance);
}

/// Folders of small models that transformers saved, with its logits.
class TransformersModel : public ::testing::TestWithParam<std::string> {};

TEST_P(TransformersModel, HasTheSameLogits) {
  const Model model{Checkpoint(stored_folder / GetParam())};
  const StoredLogits stored(stored_folder / GetParam() / "logits.safetensors");
  const auto backend = make_cpu_backend();
  for (size_t i = 0; i < stored.positions.size(); ++i) {
    const auto n = static_cast<size_t>(stored.positions[i]) + 1;
    const Prompt prompt = prefill(model, *backend, std::span(stored.tokens).first(n));
    EXPECT_LT(relative_difference(prompt.logits, stored.at(i)), float_tolerance) << stored.positions[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TransformersModel,
                         ::testing::Values("random_llama", "random_llama3_rope",
                                           "random_llama_biased_in_shards", "random_mistral", "random_qwen2",
                                           "random_qwen3"),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace hindsight::test
