#pragma once
// A small random trace file.

#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "hdf5/hdf5.h"
#include "trace/trace_writer.h"

namespace hindsight::test {

struct SmallTrace {
  int64_t n_tokens = 90, prompt_tokens = 50, n_q_heads = 4, n_kv_heads = 2, head_dim = 16, n_model_layers = 5;
  std::vector<int64_t> layers{0, 2, 3};
  DType dtype = DType::bfloat16;
  int64_t q_start = 50;
  uint64_t seed = 1;
  int deflate = 1;
};

inline TraceInfo info_of(const SmallTrace& trace) {
  TraceInfo info;
  info.model = "random";
  info.source = "synthetic";
  info.rope = "none";
  info.n_tokens = trace.n_tokens;
  info.prompt_tokens = trace.prompt_tokens;
  info.n_q_heads = trace.n_q_heads;
  info.n_kv_heads = trace.n_kv_heads;
  info.head_dim = trace.head_dim;
  info.n_model_layers = trace.n_model_layers;
  info.softmax_scale = 1 / std::sqrt(static_cast<double>(trace.head_dim));
  info.layers = trace.layers;
  return info;
}

inline void write_small_trace(const std::filesystem::path& file, const SmallTrace& trace = {}) {
  std::mt19937_64 generator(trace.seed);
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t rows, int64_t heads) {
    std::vector<float> values(static_cast<size_t>(rows * heads * trace.head_dim));
    for (float& value : values) value = 1.5f * normal(generator);
    return values;
  };
  TraceWriter writer(file, info_of(trace), {trace.dtype, trace.q_start, trace.deflate});
  for (const int64_t layer : trace.layers) {
    const std::vector<float> k = draw(trace.n_tokens, trace.n_kv_heads),
                             v = draw(trace.n_tokens, trace.n_kv_heads);
    const std::vector<float> q = draw(trace.n_tokens - trace.q_start, trace.n_q_heads);
    writer.write_kv(layer, 0, trace.n_tokens, k.data(), v.data());
    writer.write_q(layer, trace.q_start, trace.n_tokens - trace.q_start, q.data());
  }
  writer.finish();
}

/// Replaces a layer of a trace file by that of another one, whose type may differ.
inline void take_layer(const std::filesystem::path& file, const std::filesystem::path& other, int64_t layer) {
  const std::string group = "/layers/" + std::to_string(layer);
  const h5::Id target = h5::open_file_to_change(file), source = h5::open_file(other);
  h5::remove_link(target, group);
  h5::check(H5Ocopy(source, group.c_str(), target, group.c_str(), H5P_DEFAULT, H5P_DEFAULT), "copying");
}

}  // namespace hindsight::test
