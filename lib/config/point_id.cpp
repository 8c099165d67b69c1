#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/sha.h>

#include <array>

#include "config/sweep_plan.h"

namespace hindsight {

std::string point_id(const MethodPoint& point, const StepRange& steps, const std::vector<int64_t>& layers,
                     const std::string& trace_digest) {
  std::string text = fmt::format("name={}\nselector={}\n", point.name, point.selector);
  for (const auto& [path, value] : point.parameters.values())
    text += fmt::format("{}={}\n", path, text_of(value));
  text += fmt::format("steps={}+{}\nlayers={}\ntrace={}\n", steps.from,
                      steps.count ? fmt::format("{}", *steps.count) : "all", fmt::join(layers, ","),
                      trace_digest);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return fmt::format("{:02x}", fmt::join(digest.begin(), digest.begin() + 8, ""));
}

}  // namespace hindsight
