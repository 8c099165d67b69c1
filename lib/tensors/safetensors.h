#pragma once
// .safetensors files: named tensors behind a JSON header. Hostile input: sizes, offsets, overlaps, shapes and
// repeated names are checked before anything is believed, and no value is read before it is asked for.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace hindsight {

/// A tensor where it lies in the mapped file.
struct StoredTensor {
  std::string type;            ///< as the file names it: "BF16", "I64", ...
  std::optional<DType> dtype;  ///< none: no type that attention or weights are stored in
  std::vector<int64_t> shape;
  std::span<const std::byte> values;  ///< row-major, little-endian; of any alignment
};

class SafetensorsFile {
 public:
  /// Maps the file and checks its header. Throws InputError naming the file, the tensor and what is wrong.
  explicit SafetensorsFile(const std::filesystem::path& file);

  /// By name. Valid as long as this object, wherever it is moved.
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }

 private:
  MappedFile mapped_;
  std::map<std::string, StoredTensor> tensors_;
};

/// Whether the bytes may be the beginning of such a file.
bool looks_like_safetensors(std::span<const std::byte> beginning);

}  // namespace hindsight
