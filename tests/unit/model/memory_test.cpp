// What is said of memory before anything is made, against what is there then.

#include "model/memory.h"

#include <gtest/gtest.h>

#include "model/prompt.h"
#include "support/decoding_case.h"
#include "support/random_model.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

int64_t sum_of(const Decoder::Memory& memory) {
  const AttentionBytes& attention = memory.attention;
  return attention.cache + attention.summaries + attention.outputs + attention.workspace + memory.hidden +
         memory.workspace;
}

class MemoryOfModel : public ::testing::TestWithParam<RandomModelShape> {
 protected:
  MemoryOfModel() { RandomModel(GetParam()).write(dir_.path()); }
  TempDir dir_;
};

TEST_P(MemoryOfModel, WeightsAndPrompts) {
  const Checkpoint checkpoint(dir_.path());
  const Model model(checkpoint);
  // Vectors of norms and biases are not in what a model says.
  EXPECT_NEAR(static_cast<double>(weight_bytes(checkpoint.config(), checkpoint, false)),
              static_cast<double>(model.compute().weight_bytes()), 8e3);
  const auto backend = make_cpu_backend();
  EXPECT_EQ(prompt_bytes(model.config(), 37), prefill(model, *backend, random_tokens(37, 1)).bytes());
}

TEST_P(MemoryOfModel, Decoders) {
  const Model model{Checkpoint(dir_.path())};
  const auto backend = make_cpu_backend();
  const std::pair<std::string, ParameterValue> window{"retro.window", int64_t{5}};
  const std::vector<int64_t> capacities{50, 301, 17};
  for (const DecodingMethod& method :
       {dense(), quest(0.3), quest(0.3, {window}),
        quest(0.3, {window, {"gqa.unit", std::string("per_query_head")}}),
        quest(0.3, {window, {"retro.query", std::string("original")}}),
        quest(0.3, {window, {"retro.refresh", std::string("recompute")}}), quest(1.0, {window}, 0, 16)})
    EXPECT_EQ(decoder_bytes(model.config(), method, capacities, sizeof(float)),
              sum_of(Decoder(model, *backend, method, capacities).memory()))
        << method.parameters.integer("page_size");
}

INSTANTIATE_TEST_SUITE_P(Models, MemoryOfModel,
                         ::testing::Values(RandomModelShape{},
                                           RandomModelShape{.family = "qwen2", .tied = true},
                                           RandomModelShape{.n_kv_heads = 4, .dtype = DType::bfloat16}));

}  // namespace
}  // namespace hindsight::test
