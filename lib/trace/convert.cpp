#include "trace/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "trace/array_file.h"

namespace hindsight {
namespace {

std::string name_for(const std::string& pattern, int64_t layer) {
  std::string name = pattern;
  name.replace(name.find("{}"), 2, std::to_string(layer));
  return name;
}

class Conversion {
 public:
  Conversion(const std::filesystem::path& source, const ConvertOptions& options)
      : source_(source.string()), options_(options), arrays_(read_arrays(source, options.uint16_is_bf16)) {}

  void write(const std::filesystem::path& target) {
    constexpr int64_t most_layers = 1 << 16;
    for (int64_t layer = 0; layer < most_layers; ++layer)
      if (arrays_.contains(name_for(options_.k_name, layer))) info_.layers.push_back(layer);
    if (info_.layers.empty()) {
      std::vector<std::string> names;
      for (const auto& [name, array] : arrays_) names.push_back(name);
      throw TraceError(fmt::format(
          "{}: holds no array named {} for any layer; it holds {}", source_, options_.k_name,
          names.empty() ? "none of a floating-point type" : fmt::format("{}", fmt::join(names, ", "))));
    }
    describe();
    TraceWriter writer(target, info_, {dtype_, q_start_, 1});
    for (const int64_t layer : info_.layers) {
      const std::vector<float> k =
          widened(name_for(options_.k_name, layer), {info_.n_tokens, info_.n_kv_heads, info_.head_dim});
      const std::vector<float> v =
          widened(name_for(options_.v_name, layer), {info_.n_tokens, info_.n_kv_heads, info_.head_dim});
      const std::vector<float> q = widened(name_for(options_.q_name, layer),
                                           {info_.n_tokens - q_start_, info_.n_q_heads, info_.head_dim});
      writer.write_kv(layer, 0, info_.n_tokens, k.data(), v.data());
      writer.write_q(layer, q_start_, info_.n_tokens - q_start_, q.data());
    }
    writer.finish();
  }

 private:
  const NamedArray& array(const std::string& name) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) throw TraceError(fmt::format("{}: array {}: is missing", source_, name));
    if (found->second.shape.size() != 3)
      throw TraceError(fmt::format("{}: array {}: has shape [{}]; [tokens, heads, head_dim] would be right",
                                   source_, name, fmt::join(found->second.shape, ", ")));
    return found->second;
  }

  /// Sizes from the first layer; every other layer is checked against them.
  void describe() {
    const int64_t first = info_.layers.front();
    const NamedArray &k = array(name_for(options_.k_name, first)),
                     &q = array(name_for(options_.q_name, first));
    info_.model = options_.model;
    info_.source = "converted";
    info_.rope = options_.rope;
    info_.capture = "hindsight trace convert";
    info_.n_tokens = k.shape[0];
    info_.n_kv_heads = k.shape[1];
    info_.head_dim = k.shape[2];
    info_.n_q_heads = q.shape[1];
    info_.prompt_tokens = options_.prompt_tokens;
    info_.n_model_layers = options_.n_model_layers > 0 ? options_.n_model_layers : info_.layers.back() + 1;
    info_.softmax_scale = options_.softmax_scale > 0
                              ? options_.softmax_scale
                              : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, info_.head_dim)));
    q_start_ = info_.n_tokens - q.shape[0];
    if (q_start_ < 0 || q_start_ > options_.prompt_tokens)
      throw TraceError(
          fmt::format("{}: array {}: has {} rows, which leaves decode positions from {} without a query; at "
                      "least {} rows would be right",
                      source_, name_for(options_.q_name, first), q.shape[0], options_.prompt_tokens,
                      info_.n_tokens - options_.prompt_tokens));
    dtype_ = k.dtype;
    for (const int64_t layer : info_.layers)
      for (const std::string& pattern : {options_.q_name, options_.k_name, options_.v_name})
        if (array(name_for(pattern, layer)).dtype != dtype_) dtype_ = DType::float32;
  }

  std::vector<float> widened(const std::string& name, const std::vector<int64_t>& shape) const {
    const NamedArray& source = array(name);
    if (source.shape != shape)
      throw TraceError(fmt::format("{}: array {}: has shape [{}]; [{}] would be right", source_, name,
                                   fmt::join(source.shape, ", "), fmt::join(shape, ", ")));
    std::vector<float> values(source.values.size() / static_cast<size_t>(size_of(source.dtype)));
    to_float(source.dtype, source.values, values);
    const auto bad =
        std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
    if (bad != values.end())
      throw TraceError(
          fmt::format("{}: array {}: is NaN or infinite at element {}", source_, name, bad - values.begin()));
    return values;
  }

  std::string source_;
  const ConvertOptions& options_;
  std::map<std::string, NamedArray> arrays_;
  TraceInfo info_;
  int64_t q_start_ = 0;
  DType dtype_ = DType::float32;
};

}  // namespace

void convert_arrays(const std::filesystem::path& source, const std::filesystem::path& target,
                    const ConvertOptions& options) {
  for (const std::string& pattern : {options.q_name, options.k_name, options.v_name})
    if (pattern.find("{}") == std::string::npos)
      throw ConfigError(fmt::format(
          "array name '{}' has no {{}} for the layer; e.g. layers.{{}}.k would be right", pattern));
  Conversion(source, options).write(target);
}

}  // namespace hindsight
