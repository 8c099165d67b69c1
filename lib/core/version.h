#pragma once
// What was built, from what, by what. For `hindsight version` and for the provenance of results.

#include <string>

namespace hindsight {

std::string program_version();  ///< "0.1.0"
std::string
git_revision();  ///< "1a2b3c4d", with "+dirty" where the tree was changed; "unknown" outside a checkout
std::string compiler();            ///< "GNU 12.2.0 Release"
std::string cuda_architectures();  ///< "80, 90a", or "" without CUDA
std::string cuda_toolkit();        ///< "13.0.88", or "" without CUDA

}  // namespace hindsight
