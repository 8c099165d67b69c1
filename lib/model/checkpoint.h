#pragma once
// The weights of a model folder: config.json with model.safetensors, or with the shards that
// model.safetensors.index.json names. Files stay mapped; a tensor is read when it is asked for.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "model/model_config.h"
#include "model/weight_source.h"
#include "tensors/safetensors.h"

namespace hindsight {

/// A tensor that a model of this shape has.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};

/// Every tensor of the model, with its shape, by Hugging Face's names ("model.layers.3.mlp.up_proj.weight").
std::vector<TensorSpec> tensors_of(const ModelConfig& config);

class Checkpoint final : public WeightSource {
 public:
  /// Opens and checks the folder: all tensors of the model are there, each once, with the shape that the
  /// configuration asks for and a type that can be computed with; none that is not known. Throws InputError
  /// naming file and tensor.
  explicit Checkpoint(const std::filesystem::path& folder);

  const ModelConfig& config() const { return config_; }
  /// The tensor's values, row-major, widened. `name` is one of tensors_of(config()). Throws InputError where
  /// one of them is NaN or infinite.
  std::vector<float> read(const std::string& name) const override;
  /// The type that the tensor is stored in.
  DType dtype(const std::string& name) const override;
  /// The type that most values are stored in.
  DType dtype() const;
  /// SHA-256 over configuration and all tensors (names, shapes, types, values), whatever the shards: the
  /// model's identity. Reads everything once.
  std::string digest() const;

 private:
  struct Found {
    const StoredTensor* tensor;
    std::filesystem::path file;
  };
  void open_files();
  void take_tensors(const SafetensorsFile& file, const std::filesystem::path& path);
  void check_against_config();

  std::filesystem::path folder_;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Found> tensors_;
};

}  // namespace hindsight
