#include "model/weight_source.h"

#include <stdexcept>

namespace hindsight {

void WeightSource::load(Backend& backend, const std::string& name, DType dtype, int64_t elements,
                        void* target) const {
  const std::vector<float> values = read(name);
  if (static_cast<int64_t>(values.size()) != elements)
    throw std::invalid_argument(name + ": has another size");
  std::vector<std::byte> stored(values.size() * static_cast<size_t>(size_of(dtype)));
  from_float(dtype, values, stored);
  backend.upload(target, stored.data(), static_cast<int64_t>(stored.size()));
}

}  // namespace hindsight
