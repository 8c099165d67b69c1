#include "core/version.h"

#include "hindsight_build.h"

namespace hindsight {

std::string program_version() { return HINDSIGHT_VERSION; }
std::string git_revision() { return HINDSIGHT_GIT_REVISION; }
std::string compiler() { return HINDSIGHT_COMPILER; }
std::string cuda_architectures() { return HINDSIGHT_CUDA_ARCHITECTURES; }
std::string cuda_toolkit() { return HINDSIGHT_CUDA_TOOLKIT; }

}  // namespace hindsight
