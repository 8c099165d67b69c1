#include "tensors/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"

namespace hindsight {
namespace {

using Json = nlohmann::json;

constexpr uint64_t most_header_bytes = 100'000'000;  // the format's own limit
constexpr size_t size_bytes = 8;                     // the header's size stands first

/// Types of the format and their bytes. Those with a DType can be computed with.
struct ElementType {
  const char* name;
  int64_t bytes;
  std::optional<DType> dtype;
};
constexpr ElementType element_types[] = {
    {"F16", 2, DType::float16}, {"BF16", 2, DType::bfloat16}, {"F32", 4, DType::float32},
    {"F64", 8, std::nullopt},   {"I8", 1, std::nullopt},      {"U8", 1, std::nullopt},
    {"I16", 2, std::nullopt},   {"U16", 2, std::nullopt},     {"I32", 4, std::nullopt},
    {"U32", 4, std::nullopt},   {"I64", 8, std::nullopt},     {"U64", 8, std::nullopt},
    {"BOOL", 1, std::nullopt},  {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt}};

class HeaderReader {
 public:
  HeaderReader(std::string file, std::span<const std::byte> bytes)
      : file_(std::move(file)), bytes_(bytes), header_(parse()) {}

  std::map<std::string, StoredTensor> read() {
    std::map<std::string, StoredTensor> tensors;
    for (const auto& [name, entry] : header_.items())
      if (name != "__metadata__") tensors.emplace(name, read_tensor(name, entry));
    refuse_overlaps(tensors);
    return tensors;
  }

 private:
  [[noreturn]] void refuse(const std::string& place, const std::string& what) const {
    throw InputError(fmt::format("{}: {}: {}", file_, place, what));
  }

  Json parse() {
    uint64_t size = 0;
    if (bytes_.size() < size_bytes) refuse("header", "the file ends too early");
    std::memcpy(&size, bytes_.data(), size_bytes);
    if (size > bytes_.size() - size_bytes)
      refuse("header", fmt::format("{} bytes are more than the file has", size));
    if (size > most_header_bytes)
      refuse("header", fmt::format("{} bytes are more than the format's {}", size, most_header_bytes));
    values_ = bytes_.subspan(size_bytes + static_cast<size_t>(size));
    const auto* text = reinterpret_cast<const char*>(bytes_.data()) + size_bytes;
    // Of a name that stands twice a parser keeps one, and which one is its own affair.
    std::set<std::string> names;
    std::string twice;
    const auto note_names = [&](int depth, Json::parse_event_t event, Json& parsed) {
      if (depth == 1 && event == Json::parse_event_t::key &&
          !names.insert(parsed.get<std::string>()).second && twice.empty())
        twice = parsed.get<std::string>();
      return true;
    };
    Json header = Json::parse(text, text + size, note_names, false);
    if (!header.is_object()) refuse("header", "is no JSON object");
    if (!twice.empty()) refuse("tensor " + twice, "stands twice in the header");
    return header;
  }

  StoredTensor read_tensor(const std::string& name, const Json& entry) const {
    const std::string place = "tensor " + name;
    StoredTensor tensor;
    std::vector<uint64_t> offsets;
    try {
      tensor.type = entry.at("dtype").get<std::string>();
      tensor.shape = shape_of(entry.at("shape"), place);
      for (const Json& offset : entry.at("data_offsets")) {
        if (!offset.is_number_unsigned()) refuse(place, "its data_offsets are no unsigned integers");
        offsets.push_back(offset.get<uint64_t>());
      }
    } catch (const Json::exception&) {
      refuse(place, "its header entry lacks dtype, shape or data_offsets");
    }
    const auto* type =
        std::find_if(std::begin(element_types), std::end(element_types),
                     [&](const ElementType& candidate) { return tensor.type == candidate.name; });
    if (type == std::end(element_types)) refuse(place, fmt::format("its type {} is not known", tensor.type));
    tensor.dtype = type->dtype;
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > values_.size())
      refuse(place, "its data_offsets leave the file");
    const auto bytes = static_cast<uint64_t>(elements(tensor.shape, place) * type->bytes);
    if (offsets[1] - offsets[0] != bytes) refuse(place, "its data_offsets do not fit its shape");
    tensor.values = values_.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(bytes));
    return tensor;
  }

  std::vector<int64_t> shape_of(const Json& entry, const std::string& place) const {
    std::vector<int64_t> shape;
    for (const Json& extent : entry) {
      if (!extent.is_number_unsigned() || extent.get<uint64_t>() > uint64_t{1} << 47)
        refuse(place, "its shape is of an absurd size");
      shape.push_back(extent.get<int64_t>());
    }
    return shape;
  }

  /// Product of a shape, where it is the size of something real.
  int64_t elements(const std::vector<int64_t>& shape, const std::string& place) const {
    int64_t n = 1;
    for (const int64_t extent : shape) {
      if (extent > 0 && n > (int64_t{1} << 47) / extent) refuse(place, "its shape is of an absurd size");
      n *= extent;
    }
    return n;
  }

  void refuse_overlaps(const std::map<std::string, StoredTensor>& tensors) const {
    std::vector<std::pair<const std::byte*, const std::string*>> begins;
    for (const auto& [name, tensor] : tensors)
      if (!tensor.values.empty()) begins.emplace_back(tensor.values.data(), &name);
    std::sort(begins.begin(), begins.end());
    for (size_t i = 1; i < begins.size(); ++i) {
      const std::span<const std::byte> before = tensors.at(*begins[i - 1].second).values;
      if (begins[i].first < before.data() + before.size())
        refuse("tensor " + *begins[i].second, "overlaps tensor " + *begins[i - 1].second);
    }
  }

  std::string file_;
  std::span<const std::byte> bytes_, values_;
  Json header_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : mapped_(file), tensors_(HeaderReader(file.string(), mapped_.bytes()).read()) {}

bool looks_like_safetensors(std::span<const std::byte> beginning) {
  return beginning.size() > size_bytes && static_cast<char>(beginning[size_bytes]) == '{';
}

}  // namespace hindsight
