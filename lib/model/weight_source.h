#pragma once
// Where a model's weights come from.

#include <string>
#include <vector>

#include "backend/backend.h"

namespace hindsight {

/// Tensors by the names of tensors_of() (checkpoint.h).
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual DType dtype(const std::string& name) const = 0;
  /// Row-major, widened.
  virtual std::vector<float> read(const std::string& name) const = 0;
  /// The tensor's `elements` in `dtype`, to memory of the backend.
  virtual void load(Backend& backend, const std::string& name, DType dtype, int64_t elements,
                    void* target) const;
};

}  // namespace hindsight
