#pragma once
// Makes a trace from arrays that a user's own hooks have saved.

#include <filesystem>
#include <string>

#include "trace/trace_writer.h"

namespace hindsight {

struct ConvertOptions {
  int64_t prompt_tokens = 0;
  int64_t n_model_layers = 0;  ///< 0: the last layer found + 1
  double softmax_scale = 0;    ///< 0: 1/sqrt(head_dim)
  std::string model = "unknown", rope = "applied";
  /// Names of the arrays, {} standing for the layer: k and v [T, Hkv, d]; q [T - q_start, Hq, d], the last
  /// positions.
  std::string q_name = "layers.{}.q", k_name = "layers.{}.k", v_name = "layers.{}.v";
  bool uint16_is_bf16 = false;
};

/// Converts a .npz or .safetensors file. The storage type is the arrays' own (float32 where they differ).
/// Throws TraceError (arrays missing, mis-shaped, not finite), ConfigError (options), EnvironmentError
/// (output).
void convert_arrays(const std::filesystem::path& source, const std::filesystem::path& target,
                    const ConvertOptions& options);

}  // namespace hindsight
