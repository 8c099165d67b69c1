#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "core/error.h"
#include "results/point_group.h"
#include "results/result_store.h"

namespace hindsight {

struct ResultReader::Impl {
  std::filesystem::path file;
  h5::Id hdf5, points;
  Provenance provenance;
  std::vector<std::string> ids;
  std::vector<std::vector<std::pair<std::string, double>>> reals;  // float64 columns of /summary, per point

  void read_summary() {
    const h5::Id dataset = h5::open_dataset(hdf5, "summary");
    const h5::Id type(H5Dget_type(dataset), "read a type");
    if (H5Tget_class(type) != H5T_COMPOUND) throw h5::Error("/summary is no table");
    const size_t row_bytes = H5Tget_size(type);
    const auto rows = static_cast<size_t>(h5::shape_of(dataset).at(0));
    std::vector<char> packed(row_bytes * rows);
    h5::read_all(dataset, type, packed.data());
    ids.resize(rows);
    reals.resize(rows);
    for (int member = 0; member < H5Tget_nmembers(type); ++member) {
      const auto index = static_cast<unsigned>(member);
      char* raw_name = H5Tget_member_name(type, index);
      const std::string name = raw_name;
      H5free_memory(raw_name);
      const h5::Id member_type(H5Tget_member_type(type, index), "read a type");
      const size_t offset = H5Tget_member_offset(type, index), bytes = H5Tget_size(member_type);
      for (size_t row = 0; row < rows; ++row) {
        const char* value = packed.data() + row * row_bytes + offset;
        if (name == "point") ids[row] = std::string(value, strnlen(value, bytes));
        if (H5Tget_class(member_type) != H5T_FLOAT) continue;
        double real = 0;
        std::memcpy(&real, value, sizeof(real));
        reals[row].emplace_back(name, real);
      }
    }
  }
};

ResultReader::ResultReader(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  impl_->file = file;
  if (!std::filesystem::exists(file))
    throw EnvironmentError(
        fmt::format("{}: no such file; the path of a result file would be right", file.string()));
  try {
    impl_->hdf5 = h5::open_file(file);
    const h5::Id& root = impl_->hdf5;
    if (!h5::has_attribute(root, "format") || h5::read_string(root, "format") != "hindsight-result")
      throw EnvironmentError(fmt::format("{}: attribute format: no result file of hindsight", file.string()));
    if (const int64_t version = h5::read_integer(root, "format_version"); version != 1)
      throw ConfigError(fmt::format("{}: attribute format_version: version {} is not known; 1 would be right",
                                    file.string(), version));
    Provenance& provenance = impl_->provenance;
    provenance.program_version = h5::read_string(root, "program_version");
    provenance.git_revision = h5::read_string(root, "git_revision");
    provenance.host = h5::read_string(root, "host");
    provenance.device = h5::read_string(root, "device");
    provenance.driver = h5::read_string(root, "driver");
    provenance.date = h5::read_string(root, "date");
    provenance.resolved_yaml = h5::read_string(root, "configuration");
    std::istringstream digests(h5::read_string(root, "trace_sha256"));
    for (std::string digest, trace; digests >> digest && std::getline(digests >> std::ws, trace);)
      provenance.trace_digests.emplace_back(trace, digest);
    impl_->points = h5::open_group(root, "points");
    impl_->read_summary();
  } catch (const h5::Error& error) {
    throw EnvironmentError(fmt::format("{}: not a whole result file: {}", file.string(), error.what()));
  }
}

ResultReader::~ResultReader() = default;
const Provenance& ResultReader::provenance() const { return impl_->provenance; }
std::vector<std::string> ResultReader::point_ids() const { return impl_->ids; }

PointResult ResultReader::read(const std::string& id, bool with_series) const {
  const auto found = std::find(impl_->ids.begin(), impl_->ids.end(), id);
  try {
    if (found == impl_->ids.end()) throw h5::Error("it is not in /summary");
    PointResult point = read_point(impl_->points, id, with_series);
    for (const auto& [name, value] : impl_->reals[static_cast<size_t>(found - impl_->ids.begin())]) {
      // Columns of parameters, also of those that other points have.
      const bool is_parameter = name.find('.') != std::string::npos || point.parameters.has(name);
      if (!is_parameter) point.summary.emplace_back(name, value);
    }
    return point;
  } catch (const h5::Error& error) {
    throw EnvironmentError(fmt::format("{}: point {}: {}", impl_->file.string(), id, error.what()));
  }
}

}  // namespace hindsight
