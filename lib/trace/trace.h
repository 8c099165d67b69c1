#pragma once
// A trace: captured queries, keys and values of one sequence (formats: README, "Trace files"), read a layer
// at a time.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace hindsight {

/// What a trace file says of itself.
struct TraceInfo {
  std::string model, source, rope, capture;
  int64_t n_tokens = 0;       ///< T
  int64_t prompt_tokens = 0;  ///< P; decode steps are P..T-1
  int64_t n_q_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t n_model_layers = 0;
  double softmax_scale = 0;
  std::vector<int64_t> layers;  ///< model layer indices that the file holds, ascending
  int64_t n_decode_steps() const { return n_tokens - prompt_tokens; }
};

/// Keys, values and queries of one layer, in the storage type, row-major.
struct LayerTensors {
  int64_t layer = 0;
  DType dtype = DType::float32;       ///< of all three (a reader widens to float32 where they differ)
  int64_t n_tokens = 0, q_start = 0;  ///< q holds positions q_start..n_tokens-1
  int64_t n_q_heads = 0, n_kv_heads = 0, head_dim = 0;
  double softmax_scale = 0;
  std::vector<std::byte> k, v;  ///< [T, Hkv, d]
  std::vector<std::byte> q;     ///< [T - q_start, Hq, d]
};

/// Opens and checks a trace file; a layer is read on its own, so a trace larger than memory works.
class TraceReader {
 public:
  /// Reads and validates all but the layers' values. Throws TraceError naming the file and the dataset or
  /// attribute.
  explicit TraceReader(const std::filesystem::path& file);
  ~TraceReader();
  TraceReader(TraceReader&&) noexcept;
  TraceReader& operator=(TraceReader&&) noexcept;

  const TraceInfo& info() const;
  const std::filesystem::path& file() const;
  /// Storage type that read_layer will give, without reading the values.
  DType dtype(int64_t layer) const;
  /// Position of the first stored query of a layer.
  int64_t q_start(int64_t layer) const;
  /// Reads one layer, all of it finite. Throws TraceError: layer not in the file, NaN or infinity (with its
  /// index).
  LayerTensors read_layer(int64_t layer) const;
  /// Token ids [T], if the file has them.
  std::optional<std::vector<int32_t>> tokens() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// SHA-256 of the file's bytes, lower-case hex. Throws TraceError where it cannot be read.
std::string file_digest(const std::filesystem::path& file);

}  // namespace hindsight
