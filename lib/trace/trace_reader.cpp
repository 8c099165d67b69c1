#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "hdf5/hdf5.h"
#include "trace/trace_writer.h"

namespace hindsight {
namespace {

/// A dataset of a layer, checked but not read.
struct Stored {
  h5::Id dataset;
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
};

int64_t elements_of(const Stored& stored) { return stored.shape[0] * stored.shape[1] * stored.shape[2]; }

}  // namespace

struct TraceReader::Impl {
  std::filesystem::path file;
  h5::Id hdf5;
  TraceInfo info;

  [[noreturn]] void refuse(const std::string& place, const std::string& what) const {
    throw TraceError(fmt::format("{}: {}: {}", file.string(), place, what));
  }

  /// Runs `action`; what HDF5 refuses becomes a TraceError that names the place.
  template <class Action>
  auto at(const std::string& place, Action&& action) const {
    try {
      return action();
    } catch (const h5::Error& error) {
      refuse(place, error.what());
    }
  }

  void open();
  void read_attributes();
  void find_layers();
  /// Refuses anything but a real object of that kind directly in the group.
  void expect(hid_t group, const std::string& name, const std::string& place, h5::Kind kind) const;
  Stored open_stored(int64_t layer, const std::string& name, const std::array<int64_t, 3>& shape) const;
  int64_t q_start(int64_t layer) const;
  std::array<Stored, 3> open_layer(int64_t layer, int64_t* q_start_out) const;
  /// Reads a dataset in the storage type `as` (its own, or float32) and checks that all of it is finite.
  std::vector<std::byte> read(const Stored& stored, DType as, const std::string& place) const;
};

void TraceReader::Impl::open() {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status))
    throw TraceError(
        fmt::format("{}: no such file; the path of a trace (HDF5) would be right", file.string()));
  if (!std::filesystem::is_regular_file(status))
    throw TraceError(fmt::format("{}: not a regular file; a trace (HDF5) would be right", file.string()));
  if (access(file.c_str(), R_OK) != 0)
    throw TraceError(fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  try {
    hdf5 = h5::open_file(file);
  } catch (const h5::Error& failure) {
    throw TraceError(
        fmt::format("{}: not a whole HDF5 file ({}); a trace made by a finished capture would be right",
                    file.string(), failure.what()));
  }
}

void TraceReader::Impl::read_attributes() {
  const auto required = [&](const char* name) {
    if (!h5::has_attribute(hdf5, name)) refuse(fmt::format("attribute {}", name), "is missing");
  };
  const auto text = [&](const char* name) {
    required(name);
    return at(fmt::format("attribute {}", name), [&] { return h5::read_string(hdf5, name); });
  };
  const auto integer = [&](const char* name) {
    required(name);
    return at(fmt::format("attribute {}", name), [&] { return h5::read_integer(hdf5, name); });
  };
  if (const std::string format = text("format"); format != "hindsight-trace")
    refuse("attribute format", fmt::format("'{}' is another format; hindsight-trace would be right", format));
  if (const int64_t version = integer("format_version"); version != 1)
    refuse("attribute format_version", fmt::format("version {} is not known; 1 would be right", version));
  info.model = text("model");
  info.source = text("source");
  info.rope = text("rope");
  if (h5::has_attribute(hdf5, "capture")) info.capture = text("capture");
  info.n_tokens = integer("n_tokens");
  info.prompt_tokens = integer("prompt_tokens");
  info.n_q_heads = integer("n_q_heads");
  info.n_kv_heads = integer("n_kv_heads");
  info.head_dim = integer("head_dim");
  info.n_model_layers = integer("n_model_layers");
  required("softmax_scale");
  info.softmax_scale = at("attribute softmax_scale", [&] { return h5::read_real(hdf5, "softmax_scale"); });
  if (const auto problems = problems_of(info); !problems.empty())
    throw TraceError(fmt::format("{}: {}", file.string(), problems.front()));
}

void TraceReader::Impl::expect(hid_t group, const std::string& name, const std::string& place,
                               h5::Kind kind) const {
  const char* wanted = kind == h5::Kind::group ? "a group" : "a dataset";
  switch (h5::link_of(group, name)) {
    case h5::Link::none:
      refuse(place, fmt::format("is missing; {} would be right", wanted));
    case h5::Link::soft:
      refuse(place, fmt::format("is a soft link; {} of this file would be right", wanted));
    case h5::Link::external:
      refuse(place, fmt::format("is an external link; {} of this file would be right", wanted));
    case h5::Link::hard:
      break;
  }
  if (at(place, [&] { return h5::kind_of(group, name); }) != kind)
    refuse(place, fmt::format("is of another kind; {} would be right", wanted));
}

void TraceReader::Impl::find_layers() {
  expect(hdf5, "layers", "/layers", h5::Kind::group);
  const h5::Id layers = at("/layers", [&] { return h5::open_group(hdf5, "layers"); });
  for (const std::string& name : at("/layers", [&] { return h5::link_names(layers); })) {
    int64_t layer = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
    if (error != std::errc() || end != name.data() + name.size() || std::to_string(layer) != name ||
        layer < 0 || layer >= info.n_model_layers)
      refuse("/layers/" + name, fmt::format("is no layer of the model; names from 0 to {} would be right",
                                            info.n_model_layers - 1));
    expect(layers, name, "/layers/" + name, h5::Kind::group);
    info.layers.push_back(layer);
  }
  std::sort(info.layers.begin(), info.layers.end());
  if (info.layers.empty()) refuse("/layers", "holds no layer; at least one would be right");
  for (const int64_t layer : info.layers) {
    int64_t start = 0;
    open_layer(layer, &start);
  }
  if (h5::link_of(hdf5, "tokens") != h5::Link::none) {
    expect(hdf5, "tokens", "/tokens", h5::Kind::dataset);
    const h5::Id tokens = at("/tokens", [&] { return h5::open_dataset(hdf5, "tokens"); });
    const h5::Id type(H5Dget_type(tokens), "read a type");
    if (H5Tget_class(type) != H5T_INTEGER) refuse("/tokens", "is not of integers; int32 would be right");
    if (const auto shape = h5::shape_of(tokens); shape != std::vector<int64_t>{info.n_tokens})
      refuse("/tokens",
             fmt::format("has shape [{}]; [{}] would be right", fmt::join(shape, ", "), info.n_tokens));
  }
}

Stored TraceReader::Impl::open_stored(int64_t layer, const std::string& name,
                                      const std::array<int64_t, 3>& shape) const {
  const std::string group_name = fmt::format("layers/{}", layer),
                    place = fmt::format("/{}/{}", group_name, name);
  const h5::Id group = at("/" + group_name, [&] { return h5::open_group(hdf5, group_name); });
  expect(group, name, place, h5::Kind::dataset);
  Stored stored;
  at(place, [&] {
    stored.dataset = h5::open_dataset(group, name);
    stored.shape = h5::shape_of(stored.dataset);
    const h5::Id list(H5Dget_create_plist(stored.dataset), "read a layout");
    if (H5Pget_layout(list) == H5D_VIRTUAL || H5Pget_external_count(list) > 0)
      refuse(place, "keeps its values in other files; values in this file would be right");
    const h5::Id type(H5Dget_type(stored.dataset), "read a type");
    const size_t bytes = H5Tget_size(type);
    const bool marked_bf16 =
        h5::has_attribute(stored.dataset, "dtype") && h5::read_string(stored.dataset, "dtype") == "bf16";
    const H5T_class_t kind = H5Tget_class(type);
    const h5::Id half = h5::half_type();
    if (kind == H5T_FLOAT && bytes == 4)
      stored.dtype = DType::float32;
    else if (kind == H5T_FLOAT && bytes == 2 && H5Tget_ebias(type) == H5Tget_ebias(half))
      stored.dtype = DType::float16;
    else if (kind == H5T_INTEGER && bytes == 2 && H5Tget_sign(type) == H5T_SGN_NONE && marked_bf16)
      stored.dtype = DType::bfloat16;
    else
      refuse(place,
             "has an element type that is not known; float16, float32, or uint16 with the attribute dtype = "
             "\"bf16\" "
             "would be right");
  });
  if (stored.shape != std::vector<int64_t>(shape.begin(), shape.end()))
    refuse(place, fmt::format("has shape [{}]; [{}] would be right", fmt::join(stored.shape, ", "),
                              fmt::join(shape, ", ")));
  // Asked before anything is allocated: Linux grants more than there is, and kills whoever uses it.
  const int64_t memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (elements_of(stored) > memory_bytes / static_cast<int64_t>(sizeof(float)))
    refuse(place, fmt::format("{} elements do not fit in the {} MB of memory here", elements_of(stored),
                              memory_bytes >> 20));
  return stored;
}

int64_t TraceReader::Impl::q_start(int64_t layer) const {
  const std::string place = fmt::format("/layers/{}/q", layer);
  const h5::Id group = at(place, [&] { return h5::open_group(hdf5, fmt::format("layers/{}", layer)); });
  expect(group, "q", place, h5::Kind::dataset);
  const h5::Id dataset = at(place, [&] { return h5::open_dataset(group, "q"); });
  if (!h5::has_attribute(dataset, "q_start")) refuse(place, "attribute q_start is missing");
  const int64_t start = at(place, [&] { return h5::read_integer(dataset, "q_start"); });
  if (start < 0 || start > info.prompt_tokens)
    refuse(place, fmt::format("attribute q_start: {} is out of range; 0 to prompt_tokens = {} would be right",
                              start, info.prompt_tokens));
  return start;
}

std::array<Stored, 3> TraceReader::Impl::open_layer(int64_t layer, int64_t* q_start_out) const {
  *q_start_out = q_start(layer);
  const std::array<int64_t, 3> kv{info.n_tokens, info.n_kv_heads, info.head_dim};
  const std::array<int64_t, 3> queries{info.n_tokens - *q_start_out, info.n_q_heads, info.head_dim};
  return {open_stored(layer, "k", kv), open_stored(layer, "v", kv), open_stored(layer, "q", queries)};
}

namespace {

/// Index of the first value whose exponent is all ones: NaN or infinity in each of the types; their number
/// where there is none. `Bits` is as wide as a value.
template <class Bits>
int64_t first_with_exponent(std::span<const std::byte> bytes, Bits exponent) {
  const auto n = static_cast<int64_t>(bytes.size() / sizeof(Bits));
  const auto is_there = [&](int64_t i) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    return (bits & exponent) == exponent;
  };
  // Whether there is one in a piece is a loop without a way out, of many values at once.
  constexpr int64_t piece = 4096;
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t end = std::min(begin + piece, n);
    bool found = false;
    for (int64_t i = begin; i < end; ++i) found |= is_there(i);
    for (int64_t i = begin; found; ++i)
      if (is_there(i)) return i;
  }
  return n;
}

int64_t first_not_finite(DType dtype, std::span<const std::byte> bytes) {
  if (dtype == DType::float32) return first_with_exponent<uint32_t>(bytes, 0x7f800000u);
  return first_with_exponent<uint16_t>(bytes, dtype == DType::float16 ? 0x7c00u : 0x7f80u);
}

}  // namespace

std::vector<std::byte> TraceReader::Impl::read(const Stored& stored, DType as,
                                               const std::string& place) const {
  const int64_t elements = elements_of(stored);
  std::vector<std::byte> bytes(static_cast<size_t>(elements * size_of(stored.dtype)));
  at(place, [&] {
    const h5::Id half = h5::half_type();
    const hid_t memory = stored.dtype == DType::float32   ? H5T_NATIVE_FLOAT
                         : stored.dtype == DType::float16 ? static_cast<hid_t>(half)
                                                          : H5T_NATIVE_UINT16;
    h5::read_all(stored.dataset, memory, bytes.data());
  });

  const int64_t i = first_not_finite(stored.dtype, bytes);
  if (i < elements)
    refuse(place, fmt::format("is NaN or infinite at [{}, {}, {}]; finite values would be right",
                              i / (stored.shape[1] * stored.shape[2]), i / stored.shape[2] % stored.shape[1],
                              i % stored.shape[2]));
  if (as == stored.dtype) return bytes;
  std::vector<float> wide(static_cast<size_t>(elements));
  to_float(stored.dtype, bytes, wide);
  std::vector<std::byte> converted(wide.size() * sizeof(float));
  from_float(DType::float32, wide, converted);
  return converted;
}

TraceReader::TraceReader(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  impl_->file = file;
  impl_->open();
  try {
    impl_->read_attributes();
    impl_->find_layers();
  } catch (const h5::Error& error) {
    throw TraceError(fmt::format("{}: {}", file.string(), error.what()));
  }
}
TraceReader::~TraceReader() = default;
TraceReader::TraceReader(TraceReader&&) noexcept = default;
TraceReader& TraceReader::operator=(TraceReader&&) noexcept = default;

const TraceInfo& TraceReader::info() const { return impl_->info; }
const std::filesystem::path& TraceReader::file() const { return impl_->file; }

DType TraceReader::dtype(int64_t layer) const {
  int64_t start = 0;
  const auto [k, v, q] = impl_->open_layer(layer, &start);
  return k.dtype == v.dtype && v.dtype == q.dtype ? k.dtype : DType::float32;
}

int64_t TraceReader::q_start(int64_t layer) const { return impl_->q_start(layer); }

LayerTensors TraceReader::read_layer(int64_t layer) const {
  if (!std::binary_search(impl_->info.layers.begin(), impl_->info.layers.end(), layer))
    impl_->refuse(fmt::format("/layers/{}", layer),
                  fmt::format("is not in the file; it holds {}", fmt::join(impl_->info.layers, ", ")));
  LayerTensors tensors;
  tensors.layer = layer;
  const auto [k, v, q] = impl_->open_layer(layer, &tensors.q_start);
  tensors.dtype = k.dtype == v.dtype && v.dtype == q.dtype ? k.dtype : DType::float32;
  tensors.n_tokens = impl_->info.n_tokens;
  tensors.n_q_heads = impl_->info.n_q_heads;
  tensors.n_kv_heads = impl_->info.n_kv_heads;
  tensors.head_dim = impl_->info.head_dim;
  tensors.softmax_scale = impl_->info.softmax_scale;
  tensors.k = impl_->read(k, tensors.dtype, fmt::format("/layers/{}/k", layer));
  tensors.v = impl_->read(v, tensors.dtype, fmt::format("/layers/{}/v", layer));
  tensors.q = impl_->read(q, tensors.dtype, fmt::format("/layers/{}/q", layer));
  return tensors;
}

std::optional<std::vector<int32_t>> TraceReader::tokens() const {
  if (h5::link_of(impl_->hdf5, "tokens") == h5::Link::none) return std::nullopt;
  std::vector<int32_t> tokens(static_cast<size_t>(impl_->info.n_tokens));
  impl_->at("/tokens",
            [&] { h5::read_all(h5::open_dataset(impl_->hdf5, "tokens"), H5T_NATIVE_INT32, tokens.data()); });
  return tokens;
}

std::string file_digest(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw TraceError(fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(1 << 20);
  while (stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || stream.gcount() > 0)
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(stream.gcount()));
  std::array<unsigned char, 32> digest{};
  EVP_DigestFinal_ex(context.get(), digest.data(), nullptr);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

}  // namespace hindsight
