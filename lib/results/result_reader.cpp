#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "results/old_point.h"
#include "results/point_group.h"
#include "results/result_store.h"
#include "results/summary_table.h"

namespace hindsight {

struct ResultReader::Impl {
  std::filesystem::path file;
  h5::Id hdf5, points;
  Provenance provenance;
  std::vector<std::string> ids;
  KeyedTable summary{Table({}), 0};
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
      throw EnvironmentError(fmt::format(
          "{}: attribute format: not hindsight-result; a file that hindsight run wrote would be right",
          file.string()));
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
    impl_->summary = read_table(root, "summary");
    const std::vector<std::string>& columns = impl_->summary.table.columns();
    if (columns.empty() || columns.front() != "point")
      throw h5::Error("/summary: its first column is not point");
    for (const auto& row : impl_->summary.table.rows()) impl_->ids.push_back(cell_text(row.front()));
  } catch (const h5::Error& error) {
    throw EnvironmentError(fmt::format("{}: not a whole result file: {}", file.string(), error.what()));
  }
}

ResultReader::~ResultReader() = default;
const std::filesystem::path& ResultReader::file() const { return impl_->file; }
const Provenance& ResultReader::provenance() const { return impl_->provenance; }
std::vector<std::string> ResultReader::point_ids() const { return impl_->ids; }

PointResult ResultReader::read(const std::string& id, bool with_series) const {
  const auto found = std::find(impl_->ids.begin(), impl_->ids.end(), id);
  try {
    if (found == impl_->ids.end()) throw h5::Error("it is not in /summary");
    PointResult point = read_point(impl_->points, id, with_series);
    if (point.protocol.device.empty()) complete_old_point(point, impl_->provenance);
    const auto& [table, n_keys] = impl_->summary;
    const auto& row = table.rows()[static_cast<size_t>(found - impl_->ids.begin())];
    for (size_t column = n_keys; column < row.size(); ++column)
      if (const auto* value = std::get_if<double>(&row[column]))
        point.summary.emplace_back(table.columns()[column], *value);
    return point;
  } catch (const h5::Error& error) {
    throw EnvironmentError(fmt::format("{}: point {}: {}", impl_->file.string(), id, error.what()));
  }
}

std::vector<PointResult> ResultReader::read_all() const {
  std::vector<PointResult> points;
  for (const std::string& id : impl_->ids) points.push_back(read(id, false));
  return points;
}

}  // namespace hindsight
