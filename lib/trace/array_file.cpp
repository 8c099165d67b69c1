#include "trace/array_file.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "core/error.h"
#include "core/mapped_file.h"
#include "tensors/safetensors.h"

namespace hindsight {
namespace {

using Bytes = std::vector<std::byte>;

class ArrayFile {
 public:
  ArrayFile(const std::filesystem::path& file, bool uint16_is_bf16)
      : file_(file),
        name_(file.string()),
        uint16_is_bf16_(uint16_is_bf16),
        mapped_(file),
        data_(mapped_.bytes()) {}

  std::map<std::string, NamedArray> read() {
    if (data_.size() > 4 && std::memcmp(data_.data(), "PK\3\4", 4) == 0) return read_npz();
    if (looks_like_safetensors(data_)) return read_safetensors();
    throw TraceError(
        fmt::format("{}: neither .npz nor .safetensors; arrays saved as one of them would be right", name_));
  }

 private:
  [[noreturn]] void refuse(const std::string& place, const std::string& what) const {
    throw TraceError(fmt::format("{}: {}: {}", name_, place, what));
  }

  template <class T>
  T number(size_t offset, const std::string& place) const {
    if (offset > data_.size() || data_.size() - offset < sizeof(T)) refuse(place, "the file ends too early");
    T value;
    std::memcpy(&value, data_.data() + offset, sizeof(T));
    return value;
  }

  /// Product of a shape, where it is the size of something real.
  int64_t elements(const std::vector<int64_t>& shape, const std::string& place) const {
    int64_t n = 1;
    for (const int64_t extent : shape) {
      if (extent < 0 || (extent > 0 && n > (int64_t{1} << 47) / extent))
        refuse(place, "its shape is of an absurd size");
      n *= extent;
    }
    return n;
  }

  std::map<std::string, NamedArray> read_safetensors() const {
    const SafetensorsFile stored(file_);
    std::map<std::string, NamedArray> arrays;
    for (const auto& [name, tensor] : stored.tensors())
      if (tensor.dtype)  // token ids and the like are no attention
        arrays[name] = {*tensor.dtype, tensor.shape, {tensor.values.begin(), tensor.values.end()}};
    return arrays;
  }

  /// A zip archive of .npy files, stored or deflated; the central directory says what is where.
  std::map<std::string, NamedArray> read_npz() {
    constexpr uint32_t end_mark = 0x06054b50, entry_mark = 0x02014b50;
    size_t end = data_.size() < 22 ? 0 : data_.size() - 22;
    const size_t last_possible = end > 65535 ? end - 65535 : 0;
    while (number<uint32_t>(end, "archive") != end_mark) {
      if (end == last_possible) refuse("archive", "has no directory: truncated, or no .npz");
      --end;
    }
    uint64_t entries = number<uint16_t>(end + 10, "archive"), at = number<uint32_t>(end + 16, "archive");
    if (at == 0xffffffffu && end >= 20) {  // zip64: the locator stands before
      const auto zip64 = number<uint64_t>(end - 20 + 8, "archive");
      entries = number<uint64_t>(zip64 + 32, "archive");
      at = number<uint64_t>(zip64 + 48, "archive");
    }
    std::map<std::string, NamedArray> arrays;
    for (uint64_t i = 0; i < entries; ++i) {
      if (number<uint32_t>(at, "archive") != entry_mark) refuse("archive", "its directory is broken");
      const auto method = number<uint16_t>(at + 10, "archive");
      uint64_t packed = number<uint32_t>(at + 20, "archive"), whole = number<uint32_t>(at + 24, "archive");
      const auto name_size = number<uint16_t>(at + 28, "archive"),
                 extra_size = number<uint16_t>(at + 30, "archive");
      const auto comment_size = number<uint16_t>(at + 32, "archive");
      uint64_t local = number<uint32_t>(at + 42, "archive");
      if (at + 46 + name_size + extra_size > data_.size()) refuse("archive", "its directory is broken");
      std::string name(reinterpret_cast<const char*>(data_.data()) + at + 46, name_size);
      read_zip64_sizes(at + 46 + name_size, extra_size, whole, packed, local);
      at += 46u + name_size + extra_size + comment_size;
      if (!name.ends_with(".npy")) continue;
      name.resize(name.size() - 4);
      const std::string place = "array " + name;
      const uint64_t begin =
          local + 30 + number<uint16_t>(local + 26, place) + number<uint16_t>(local + 28, place);
      if (begin > data_.size() || packed > data_.size() - begin) refuse(place, "leaves the file");
      if (auto array = parse_npy(unpack(method, begin, packed, whole, place), place))
        arrays[name] = std::move(*array);
    }
    return arrays;
  }

  /// NumPy writes zip64 fields for every member, whatever its size.
  void read_zip64_sizes(size_t extra, size_t size, uint64_t& whole, uint64_t& packed, uint64_t& local) const {
    for (size_t at = extra; at + 4 <= extra + size;) {
      const auto id = number<uint16_t>(at, "archive"), length = number<uint16_t>(at + 2, "archive");
      size_t field = at + 4;
      if (id == 1)
        for (uint64_t* value : {&whole, &packed, &local})
          if (*value == 0xffffffffu && field + 8 <= at + 4 + length) {
            *value = number<uint64_t>(field, "archive");
            field += 8;
          }
      at += 4u + length;
    }
  }

  Bytes unpack(uint16_t method, uint64_t begin, uint64_t packed, uint64_t whole,
               const std::string& place) const {
    const auto* source = data_.data() + begin;
    if (method == 0) {
      if (packed != whole) refuse(place, "its sizes contradict each other");
      return Bytes(source, source + packed);
    }
    if (method != 8)
      refuse(place,
             fmt::format("compression method {} is not known; stored or deflated would be right", method));
    if (whole > packed * 1100 + 1100) refuse(place, "claims to inflate more than deflate can");
    Bytes target(whole);
    z_stream stream{};
    inflateInit2(&stream, -MAX_WBITS);
    // zlib counts in 32 bits: in pieces.
    size_t in = 0, out = 0;
    int status = Z_OK;
    while (status == Z_OK) {
      const size_t in_piece = std::min<size_t>(packed - in, 1u << 30),
                   out_piece = std::min<size_t>(whole - out, 1u << 30);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(source)) + in;
      stream.avail_in = static_cast<uInt>(in_piece);
      stream.next_out = reinterpret_cast<Bytef*>(target.data()) + out;
      stream.avail_out = static_cast<uInt>(out_piece);
      status = inflate(&stream, Z_NO_FLUSH);
      const size_t in_done = in_piece - stream.avail_in, out_done = out_piece - stream.avail_out;
      in += in_done;
      out += out_done;
      if (status == Z_OK && in_done == 0 && out_done == 0) status = Z_BUF_ERROR;
    }
    inflateEnd(&stream);
    if (status != Z_STREAM_END || out != whole) refuse(place, "does not inflate: damaged");
    return target;
  }

  /// Nothing for types that hold no attention (integers, objects).
  std::optional<NamedArray> parse_npy(const Bytes& npy, const std::string& place) const {
    if (npy.size() < 12 || std::memcmp(npy.data(), "\x93NUMPY", 6) != 0) refuse(place, "is no .npy");
    const int version = static_cast<int>(npy[6]);
    uint32_t header_size = 0;
    std::memcpy(&header_size, npy.data() + 8, version == 1 ? 2 : 4);
    const size_t base = version == 1 ? 10 : 12;
    if (header_size > npy.size() - base) refuse(place, "its header leaves the array");
    const std::string header(reinterpret_cast<const char*>(npy.data()) + base, header_size);
    const auto value_of = [&](const std::string& key) {
      const size_t at = header.find("'" + key + "'");
      const size_t colon = at == std::string::npos ? at : header.find(':', at);
      if (colon == std::string::npos) refuse(place, "its header lacks " + key);
      return header.substr(header.find_first_not_of(' ', colon + 1));
    };
    if (value_of("fortran_order").rfind("False", 0) != 0)
      refuse(place, "is in Fortran order; numpy.ascontiguousarray makes it right");
    const std::string type = value_of("descr").substr(1, 3);
    NamedArray array;
    const std::string shape = value_of("shape");
    const size_t close = shape.find(')');
    if (shape.empty() || shape[0] != '(' || close == std::string::npos)
      refuse(place, "its shape cannot be read");
    for (size_t i = 1; i < close;) {
      size_t end = i;
      while (end < close && shape[end] >= '0' && shape[end] <= '9') ++end;
      if (end > i && end - i < 16) array.shape.push_back(std::stoll(shape.substr(i, end - i)));
      i = end + 1;
    }
    const int64_t n = elements(array.shape, place);
    const bool is_double = type == "<f8";
    if (type == "<f4" || is_double)
      array.dtype = DType::float32;
    else if (type == "<f2")
      array.dtype = DType::float16;
    else if (type == "<u2" && uint16_is_bf16_)
      array.dtype = DType::bfloat16;
    else
      return std::nullopt;
    const std::byte* values = npy.data() + base + header_size;
    const size_t bytes = static_cast<size_t>(n * (is_double ? 8 : size_of(array.dtype)));
    if (npy.size() - base - header_size != bytes) refuse(place, "its size does not fit its shape");
    if (!is_double) {
      array.values.assign(values, values + bytes);
      return array;
    }
    std::vector<float> narrow(static_cast<size_t>(n));
    for (size_t i = 0; i < narrow.size(); ++i) {
      double value;
      std::memcpy(&value, values + 8 * i, 8);
      narrow[i] = static_cast<float>(value);
    }
    array.values.resize(narrow.size() * sizeof(float));
    from_float(DType::float32, narrow, array.values);
    return array;
  }

  std::filesystem::path file_;
  std::string name_;
  bool uint16_is_bf16_;
  MappedFile mapped_;
  std::span<const std::byte> data_;
};

}  // namespace

std::map<std::string, NamedArray> read_arrays(const std::filesystem::path& file, bool uint16_is_bf16) {
  try {
    return ArrayFile(file, uint16_is_bf16).read();
  } catch (const TraceError&) {
    throw;
  } catch (const InputError& error) {
    throw TraceError(error.what());
  }
}

}  // namespace hindsight
