#pragma once
// Writes .safetensors files, right ones and wrong ones.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace hindsight::test {

struct TensorToWrite {
  std::vector<int64_t> shape;
  std::vector<float> values;
  DType dtype = DType::float32;
};

/// The size of the header, the header, and the values behind it.
inline void write_raw_safetensors(const std::filesystem::path& file, const std::string& header,
                                  const std::vector<std::byte>& values) {
  std::ofstream stream(file, std::ios::binary);
  const uint64_t size = header.size();
  stream.write(reinterpret_cast<const char*>(&size), sizeof(size));
  stream << header;
  stream.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size()));
}

inline void write_safetensors(const std::filesystem::path& file,
                              const std::map<std::string, TensorToWrite>& tensors) {
  static const std::map<DType, const char*> names{
      {DType::float32, "F32"}, {DType::float16, "F16"}, {DType::bfloat16, "BF16"}};
  nlohmann::json header;
  header["__metadata__"]["format"] = "pt";
  std::vector<std::byte> values;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = values.size();
    values.resize(begin + tensor.values.size() * static_cast<size_t>(size_of(tensor.dtype)));
    from_float(tensor.dtype, tensor.values, std::span(values).subspan(begin));
    header[name] = {
        {"dtype", names.at(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, values.size()}}};
  }
  write_raw_safetensors(file, header.dump(), values);
}

}  // namespace hindsight::test
