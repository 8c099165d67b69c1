#pragma once
// Named arrays saved by other programs: NumPy's .npz and .safetensors. Both are hostile input: sizes,
// offsets, overlaps and shapes are checked before anything is believed.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace hindsight {

struct NamedArray {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  std::vector<std::byte> values;  ///< row-major
};

/// The arrays of a file by name. float64 becomes float32; `uint16_is_bf16`: arrays of uint16 hold bfloat16
/// bits (NumPy has no such type). Throws TraceError naming file and array.
std::map<std::string, NamedArray> read_arrays(const std::filesystem::path& file, bool uint16_is_bf16);

}  // namespace hindsight
