#include "hdf5/hdf5.h"

#include <hdf5_hl.h>

#include <algorithm>
#include <cstring>

namespace hindsight::h5 {
namespace {

/// HDF5 prints its errors unless told not to, each thread for itself; every entry of this file that can fail
/// comes after this.
void mute() {
  [[maybe_unused]] static thread_local const herr_t muted = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

/// The innermost description of HDF5's error stack: the cause, not the calls that passed it on.
std::string reason() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned depth, const H5E_error2_t* error, void* into) -> herr_t {
        if (depth == 0 && error->desc) *static_cast<std::string*>(into) = error->desc;
        return 0;
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "HDF5 gives no reason" : text;
}

Id no_times(hid_t property_class) {
  Id list(H5Pcreate(property_class), "create a property list");
  check(H5Pset_obj_track_times(list, false), "switch time stamps off");
  return list;
}

/// The formats of HDF5 1.8 to 1.10: older ones cannot hold an attribute of more than 64 kB, such as a long
/// configuration.
Id file_access() {
  Id list(H5Pcreate(H5P_FILE_ACCESS), "create a property list");
  check(H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V110), "choose a file format");
  return list;
}

std::vector<hsize_t> extents(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }

/// Opens an attribute and checks that it is a single value.
Id open_scalar_attribute(hid_t object, const std::string& name) {
  mute();
  Id attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), "open attribute " + name);
  const Id space(H5Aget_space(attribute), "read attribute " + name);
  if (H5Sget_simple_extent_npoints(space) != 1) throw Error("attribute " + name + " is not a single value");
  return attribute;
}

void write_attribute(hid_t object, const std::string& name, hid_t type, const void* value) {
  mute();
  const Id space(H5Screate(H5S_SCALAR), "create a scalar");
  if (has_attribute(object, name)) check(H5Adelete(object, name.c_str()), "replace attribute " + name);
  const Id attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                     "create attribute " + name);
  check(H5Awrite(attribute, type, value), "write attribute " + name);
}

/// Memory and file spaces of rows [first, first + n).
std::pair<Id, Id> select_rows(const Id& dataset, int64_t first, int64_t n) {
  Id file_space(H5Dget_space(dataset), "read a shape");
  std::vector<int64_t> shape = shape_of(dataset);
  std::vector<hsize_t> start(shape.size(), 0), count = extents(shape);
  start[0] = static_cast<hsize_t>(first);
  count[0] = static_cast<hsize_t>(n);
  check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
        "select rows");
  Id memory_space(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), "create a shape");
  return {std::move(memory_space), std::move(file_space)};
}

}  // namespace

Id::Id(hid_t id, const std::string& doing) : id_(id) { check(id, doing); }

Id::~Id() {
  if (id_ >= 0) H5Idec_ref(id_);
}

Id& Id::operator=(Id&& other) noexcept {
  std::swap(id_, other.id_);
  return *this;
}

int64_t check(int64_t status, const std::string& doing) {
  if (status < 0) throw Error("cannot " + doing + ": " + reason());
  return status;
}

Id open_file(const std::filesystem::path& file) {
  mute();
  return Id(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), "open as HDF5");
}
Id open_file_to_change(const std::filesystem::path& file) {
  mute();
  const Id access = file_access();
  return Id(H5Fopen(file.c_str(), H5F_ACC_RDWR, access), "open as HDF5");
}
Id create_file(const std::filesystem::path& file) {
  mute();
  const Id list = no_times(H5P_FILE_CREATE);
  const Id access = file_access();
  return Id(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, list, access), "create the file");
}
void flush(const Id& file) { check(H5Fflush(file, H5F_SCOPE_GLOBAL), "flush the file"); }

Id open_group(hid_t at, const std::string& name) {
  mute();
  return Id(H5Gopen2(at, name.c_str(), H5P_DEFAULT), "open group " + name);
}
Id create_group(hid_t at, const std::string& name) {
  mute();
  const Id list = no_times(H5P_GROUP_CREATE);
  return Id(H5Gcreate2(at, name.c_str(), H5P_DEFAULT, list, H5P_DEFAULT), "create group " + name);
}

Link link_of(hid_t at, const std::string& name) {
  mute();
  if (H5Lexists(at, name.c_str(), H5P_DEFAULT) <= 0) return Link::none;
  H5L_info_t info;
  check(H5Lget_info(at, name.c_str(), &info, H5P_DEFAULT), "look at link " + name);
  if (info.type == H5L_TYPE_HARD) return Link::hard;
  return info.type == H5L_TYPE_SOFT ? Link::soft : Link::external;
}

void remove_link(hid_t at, const std::string& name) {
  mute();
  check(H5Ldelete(at, name.c_str(), H5P_DEFAULT), "remove link " + name);
}

std::vector<std::string> link_names(hid_t at) {
  mute();
  std::vector<std::string> names;
  hsize_t index = 0;
  check(H5Literate(
            at, H5_INDEX_NAME, H5_ITER_INC, &index,
            [](hid_t, const char* name, const H5L_info_t*, void* into) -> herr_t {
              static_cast<std::vector<std::string>*>(into)->emplace_back(name);
              return 0;
            },
            &names),
        "list a group");
  return names;
}

Kind kind_of(hid_t at, const std::string& name) {
  mute();
  H5O_info_t info;
  check(H5Oget_info_by_name(at, name.c_str(), &info, H5P_DEFAULT), "look at " + name);
  if (info.type == H5O_TYPE_GROUP) return Kind::group;
  return info.type == H5O_TYPE_DATASET ? Kind::dataset : Kind::other;
}

bool has_attribute(hid_t object, const std::string& name) {
  mute();
  return check(H5Aexists(object, name.c_str()), "look for attribute " + name) > 0;
}

std::string read_string(hid_t object, const std::string& name) {
  const Id attribute = open_scalar_attribute(object, name);
  const Id type(H5Aget_type(attribute), "read attribute " + name);
  if (H5Tget_class(type) != H5T_STRING) throw Error("attribute " + name + " is not a string");
  if (H5Tis_variable_str(type) > 0) {
    Id memory(H5Tcopy(H5T_C_S1), "make a string type");
    check(H5Tset_size(memory, H5T_VARIABLE), "make a string type");
    check(H5Tset_cset(memory, H5Tget_cset(type)), "make a string type");
    char* text = nullptr;
    check(H5Aread(attribute, memory, &text), "read attribute " + name);
    std::string value = text ? text : "";
    H5free_memory(text);
    return value;
  }
  std::string value(H5Tget_size(type), '\0');
  check(H5Aread(attribute, type, value.data()), "read attribute " + name);
  value.resize(std::strlen(value.c_str()));
  if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) value.erase(value.find_last_not_of(' ') + 1);
  return value;
}

int64_t read_integer(hid_t object, const std::string& name) {
  const Id attribute = open_scalar_attribute(object, name);
  const Id type(H5Aget_type(attribute), "read attribute " + name);
  if (H5Tget_class(type) != H5T_INTEGER) throw Error("attribute " + name + " is not an integer");
  if (H5Tget_size(type) == 8 && H5Tget_sign(type) == H5T_SGN_NONE) {
    uint64_t value = 0;
    check(H5Aread(attribute, H5T_NATIVE_UINT64, &value), "read attribute " + name);
    if (value > static_cast<uint64_t>(INT64_MAX)) throw Error("attribute " + name + " is too large");
    return static_cast<int64_t>(value);
  }
  int64_t value = 0;
  check(H5Aread(attribute, H5T_NATIVE_INT64, &value), "read attribute " + name);
  return value;
}

double read_real(hid_t object, const std::string& name) {
  const Id attribute = open_scalar_attribute(object, name);
  const Id type(H5Aget_type(attribute), "read attribute " + name);
  if (H5Tget_class(type) != H5T_FLOAT) throw Error("attribute " + name + " is not a floating-point number");
  double value = 0;
  check(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), "read attribute " + name);
  return value;
}

AttributeKind attribute_kind(hid_t object, const std::string& name) {
  const Id attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), "open attribute " + name);
  const Id type(H5Aget_type(attribute), "read attribute " + name);
  switch (H5Tget_class(type)) {
    case H5T_STRING:
      return AttributeKind::string;
    case H5T_INTEGER:
      return AttributeKind::integer;
    case H5T_FLOAT:
      return AttributeKind::real;
    default:
      return AttributeKind::other;
  }
}

std::vector<std::string> attribute_names(hid_t object) {
  mute();
  std::vector<std::string> names;
  hsize_t index = 0;
  check(H5Aiterate2(
            object, H5_INDEX_NAME, H5_ITER_INC, &index,
            [](hid_t, const char* name, const H5A_info_t*, void* into) -> herr_t {
              static_cast<std::vector<std::string>*>(into)->emplace_back(name);
              return 0;
            },
            &names),
        "list attributes");
  return names;
}

void write_string(hid_t object, const std::string& name, const std::string& value) {
  const Id type = fixed_string_type(value.size());
  write_attribute(object, name, type, value.c_str());
}
void write_integer(hid_t object, const std::string& name, int64_t value) {
  write_attribute(object, name, H5T_NATIVE_INT64, &value);
}
void write_real(hid_t object, const std::string& name, double value) {
  write_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
}

Id open_dataset(hid_t at, const std::string& name) {
  mute();
  return Id(H5Dopen2(at, name.c_str(), H5P_DEFAULT), "open dataset " + name);
}

std::vector<int64_t> shape_of(const Id& dataset) {
  const Id space(H5Dget_space(dataset), "read a shape");
  const int rank = static_cast<int>(check(H5Sget_simple_extent_ndims(space), "read a shape"));
  std::vector<hsize_t> extent(static_cast<size_t>(rank));
  if (rank > 0) check(H5Sget_simple_extent_dims(space, extent.data(), nullptr), "read a shape");
  return {extent.begin(), extent.end()};
}

Id create_dataset(hid_t at, const std::string& name, hid_t file_type, const std::vector<int64_t>& shape,
                  const Layout& layout) {
  mute();
  const std::vector<hsize_t> extent = extents(shape);
  const Id space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), "create a shape");
  const Id list = no_times(H5P_DATASET_CREATE);
  if (layout.chunk) {
    const std::vector<hsize_t> chunk = extents(*layout.chunk);
    check(H5Pset_chunk(list, static_cast<int>(chunk.size()), chunk.data()), "chunk dataset " + name);
    if (layout.deflate > 0) {
      check(H5Pset_shuffle(list), "shuffle dataset " + name);
      check(H5Pset_deflate(list, static_cast<unsigned>(layout.deflate)), "deflate dataset " + name);
    }
  }
  return Id(H5Dcreate2(at, name.c_str(), file_type, space, H5P_DEFAULT, list, H5P_DEFAULT),
            "create dataset " + name);
}

void read_rows(const Id& dataset, int64_t first, int64_t n, hid_t memory_type, void* target) {
  if (n == 0) return;
  const auto [memory_space, file_space] = select_rows(dataset, first, n);
  check(H5Dread(dataset, memory_type, memory_space, file_space, H5P_DEFAULT, target), "read a dataset");
}
void write_rows(const Id& dataset, int64_t first, int64_t n, hid_t memory_type, const void* source) {
  if (n == 0) return;
  const auto [memory_space, file_space] = select_rows(dataset, first, n);
  check(H5Dwrite(dataset, memory_type, memory_space, file_space, H5P_DEFAULT, source), "write a dataset");
}
void read_all(const Id& dataset, hid_t memory_type, void* target) {
  check(H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, target), "read a dataset");
}
void write_all(const Id& dataset, hid_t memory_type, const void* source) {
  check(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, source), "write a dataset");
}

void write_strings(hid_t at, const std::string& name, const std::vector<std::string>& values) {
  size_t length = 1;
  for (const std::string& value : values) length = std::max(length, value.size());
  std::string packed(length * values.size(), '\0');
  for (size_t i = 0; i < values.size(); ++i) values[i].copy(packed.data() + i * length, length);
  const Id type = fixed_string_type(length);
  const Id dataset = create_dataset(at, name, type, {static_cast<int64_t>(values.size())});
  write_all(dataset, type, packed.data());
}

std::vector<std::string> read_strings(const Id& dataset) {
  const Id type(H5Dget_type(dataset), "read a type");
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0)
    throw Error("dataset is not of strings of fixed length");
  const size_t length = H5Tget_size(type);
  const auto count = static_cast<size_t>(shape_of(dataset).at(0));
  std::string packed(length * count, '\0');
  read_all(dataset, type, packed.data());
  std::vector<std::string> values;
  for (size_t i = 0; i < count; ++i) {
    const std::string value = packed.substr(i * length, length);
    values.push_back(value.substr(0, value.find('\0')));
  }
  return values;
}

Id fixed_string_type(size_t length) {
  Id type(H5Tcopy(H5T_C_S1), "make a string type");
  check(H5Tset_size(type, std::max<size_t>(1, length)), "make a string type");
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), "make a string type");
  check(H5Tset_cset(type, H5T_CSET_UTF8), "make a string type");
  return type;
}

Id half_type() {
  Id type(H5Tcopy(H5T_IEEE_F32LE), "make a half type");
  check(H5Tset_fields(type, 15, 10, 5, 0, 10), "make a half type");
  check(H5Tset_size(type, 2), "make a half type");
  check(H5Tset_ebias(type, 15), "make a half type");
  return type;
}

void make_scale(const Id& dataset, const std::string& name) {
  check(H5DSset_scale(dataset, name.c_str()), "make dimension scale " + name);
}
void attach_scale(const Id& dataset, const Id& scale, unsigned dimension) {
  check(H5DSattach_scale(dataset, scale, dimension), "attach a dimension scale");
}

}  // namespace hindsight::h5
