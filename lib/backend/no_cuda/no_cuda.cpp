// Stands in for backend/cuda in builds without CUDA: says so plainly.
#include "backend/backend.h"
#include "core/error.h"

namespace hindsight {

std::unique_ptr<Backend> make_cuda_backend(int index) {
  throw EnvironmentError(
      "device cuda:" + std::to_string(index) +
      ": this build has no CUDA backend; use --device cpu, or build with -DHINDSIGHT_CUDA=ON");
}
int cuda_device_count() { return 0; }
bool cuda_built_in() { return false; }
std::vector<std::string> cuda_device_names() { return {}; }

}  // namespace hindsight
