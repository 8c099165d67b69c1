#pragma once
// "did you mean": the known name nearest to a misspelt one.

#include <string>
#include <vector>

namespace hindsight {

/// The known name with the least edit distance; known must not be empty.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

}  // namespace hindsight
