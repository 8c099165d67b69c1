#pragma once
// What a model's config.json (Hugging Face) says of its shape: the Llama family, Mistral, Qwen2 and Qwen3.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace hindsight {

/// Rotary embedding, halves rotated. How the inverse frequencies of a longer context are scaled.
struct RopeConfig {
  enum class Scaling { none, linear, llama3 };
  double theta = 10000;
  Scaling scaling = Scaling::none;
  double factor = 1;                             ///< of linear and llama3
  double low_frequency = 1, high_frequency = 4;  ///< of llama3: wavelengths of the original context between
  double original_context = 8192;                ///< which frequencies go over from scaled to unscaled
};

/// Letters as in backend.h: Hq, Hkv, d.
struct ModelConfig {
  std::string family;  ///< "llama", "mistral", "qwen2", "qwen3"
  int64_t n_layers = 0, hidden = 0, ffn = 0, vocabulary = 0;
  int64_t n_q_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t context = 0;  ///< most tokens of a sequence
  double norm_epsilon = 1e-6;
  RopeConfig rope;
  bool qkv_bias = false, output_bias = false;  ///< of the attention's projections
  bool qk_norm = false;                        ///< RMS norm of every head's query and key before rotation
  bool tied_embeddings = false;                ///< the embedding is the output matrix, too
  std::optional<int64_t> bos;                  ///< id of the beginning of sequence
  std::vector<int64_t> eos;                    ///< ids that end a text; may be none

  int64_t q_size() const { return n_q_heads * head_dim; }
  int64_t kv_size() const { return n_kv_heads * head_dim; }
};

/// Reads and checks a config.json. Throws ModelError (an InputError) naming the file and the key: not there,
/// not JSON, another family, something that would change the results and is not computed here (another
/// activation, quantised weights, ...), sizes that are absurd or contradict each other. A sliding window ends
/// the context: within it attention is full.
ModelConfig read_model_config(const std::filesystem::path& file);

}  // namespace hindsight
