#pragma once
// HDF5 (C API, 1.10) wrapped once: handles close themselves, every failure is an h5::Error that carries
// HDF5's own reason, and HDF5 prints nothing. Objects are written without time stamps, so that the same
// content is the same bytes.

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace hindsight::h5 {

/// What HDF5 could not do, and its innermost reason.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An open HDF5 object; closed with its owner.
class Id {
 public:
  Id() = default;
  /// Takes ownership; throws Error("<doing>: <reason>") where `id` is negative.
  Id(hid_t id, const std::string& doing);
  ~Id();
  Id(Id&& other) noexcept : id_(other.id_) { other.id_ = H5I_INVALID_HID; }
  Id& operator=(Id&& other) noexcept;
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// Throws Error("<doing>: <reason>") where `status` is negative; else returns it.
int64_t check(int64_t status, const std::string& doing);

// --- files and groups
Id open_file(const std::filesystem::path& file);  ///< to read
Id open_file_to_change(const std::filesystem::path& file);
Id create_file(const std::filesystem::path& file);  ///< replaces
void flush(const Id& file);
Id open_group(hid_t at, const std::string& name);
Id create_group(hid_t at, const std::string& name);

enum class Link { none, hard, soft, external };
/// What the link `name` directly in group `at` is.
Link link_of(hid_t at, const std::string& name);
void remove_link(hid_t at, const std::string& name);
/// Names of the links in a group, sorted.
std::vector<std::string> link_names(hid_t at);
enum class Kind { group, dataset, other };
Kind kind_of(hid_t at, const std::string& name);

// --- attributes. Readers throw Error where the attribute is of another kind.
bool has_attribute(hid_t object, const std::string& name);
std::string read_string(hid_t object, const std::string& name);  ///< fixed or variable length, scalar
int64_t read_integer(hid_t object, const std::string& name);     ///< any integer type, scalar
double read_real(hid_t object, const std::string& name);         ///< any floating-point type, scalar
enum class AttributeKind { string, integer, real, other };
AttributeKind attribute_kind(hid_t object, const std::string& name);
std::vector<std::string> attribute_names(hid_t object);  ///< sorted
void write_string(hid_t object, const std::string& name, const std::string& value);
void write_integer(hid_t object, const std::string& name, int64_t value);
void write_real(hid_t object, const std::string& name, double value);

// --- datasets
Id open_dataset(hid_t at, const std::string& name);
std::vector<int64_t> shape_of(const Id& dataset);

struct Layout {
  std::optional<std::vector<int64_t>> chunk;  ///< none: contiguous
  int deflate = 0;                            ///< 0: none; else shuffled and deflated at this level
};
/// `file_type` as stored; native types such as H5T_NATIVE_FLOAT.
Id create_dataset(hid_t at, const std::string& name, hid_t file_type, const std::vector<int64_t>& shape,
                  const Layout& layout = {});
/// Rows [first, first + n) of the first dimension, all of the others.
void read_rows(const Id& dataset, int64_t first, int64_t n, hid_t memory_type, void* target);
void write_rows(const Id& dataset, int64_t first, int64_t n, hid_t memory_type, const void* source);
/// The whole dataset.
void read_all(const Id& dataset, hid_t memory_type, void* target);
void write_all(const Id& dataset, hid_t memory_type, const void* source);
/// A one-dimensional dataset of strings, stored with fixed length.
void write_strings(hid_t at, const std::string& name, const std::vector<std::string>& values);
std::vector<std::string> read_strings(const Id& dataset);

/// A string type of `length` bytes (at least 1), padded with zeros, UTF-8.
Id fixed_string_type(size_t length);
/// IEEE half as HDF5 knows it: 16 bits, 5 of them exponent.
Id half_type();

// --- dimension scales (netCDF and xarray read names of dimensions from them)
void make_scale(const Id& dataset, const std::string& name);
void attach_scale(const Id& dataset, const Id& scale, unsigned dimension);

}  // namespace hindsight::h5
