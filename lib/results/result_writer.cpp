#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "results/point_group.h"
#include "results/result_store.h"
#include "results/summary_table.h"

namespace hindsight {
namespace {

namespace fs = std::filesystem;

/// Makes what was written to `path` (a file or a folder) survive a crash of the machine.
void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

bool is_result_file(const fs::path& file) {
  try {
    const h5::Id hdf5 = h5::open_file(file);
    return h5::has_attribute(hdf5, "format") && h5::read_string(hdf5, "format") == "hindsight-result";
  } catch (const h5::Error&) {
    return false;
  }
}

void write_provenance(const h5::Id& file, const Provenance& provenance) {
  h5::write_string(file, "format", "hindsight-result");
  h5::write_integer(file, "format_version", 1);
  h5::write_string(file, "program_version", provenance.program_version);
  h5::write_string(file, "git_revision", provenance.git_revision);
  h5::write_string(file, "host", provenance.host);
  h5::write_string(file, "device", provenance.device);
  h5::write_string(file, "driver", provenance.driver);
  h5::write_string(file, "date", provenance.date);
  h5::write_string(file, "configuration", provenance.resolved_yaml);
  std::string digests;  // as sha256sum prints them
  for (const auto& [trace, digest] : provenance.trace_digests) digests += digest + "  " + trace + "\n";
  h5::write_string(file, "trace_sha256", digests);
}

}  // namespace

struct ResultWriter::Impl {
  fs::path file, temporary;
  Provenance provenance;
  std::vector<std::string> order;
  std::vector<PointResult> finished;  // without series
  bool keeps_existing = false;        // the file on disk holds `finished`

  void prepare_folder() const {
    const fs::path folder = file.parent_path().empty() ? "." : file.parent_path();
    std::error_code error;
    fs::create_directories(folder, error);
    if (error || !fs::is_directory(folder))
      throw EnvironmentError(
          fmt::format("{}: the folder cannot be made: {}", file.string(), error.message()));
    if (access(folder.c_str(), W_OK) != 0)
      throw EnvironmentError(fmt::format("{}: the folder {} is not writable: {}", file.string(),
                                         folder.string(), std::strerror(errno)));
    if (fs::exists(file) && !is_result_file(file))
      throw EnvironmentError(fmt::format(
          "{}: exists and is no result file of hindsight; it is not replaced, name another output",
          file.string()));
  }

  /// Points in the order of the sweep; points of an earlier sweep after them.
  void sort_finished() {
    const auto place = [&](const PointResult& point) {
      return std::find(order.begin(), order.end(), point.id) - order.begin();
    };
    std::stable_sort(finished.begin(), finished.end(),
                     [&](const PointResult& a, const PointResult& b) { return place(a) < place(b); });
  }

  void write_summaries(const h5::Id& hdf5) const {
    for (const char* name : {"summary", "summary_over_traces"})
      if (h5::link_of(hdf5, name) != h5::Link::none)
        h5::check(H5Ldelete(hdf5, name, H5P_DEFAULT), "replace /summary");
    write_table(hdf5, "summary", summary_table(finished));
    const bool one_trace = std::all_of(finished.begin(), finished.end(), [&](const PointResult& point) {
      return point.trace_digest == finished.front().trace_digest;
    });
    if (!one_trace) write_table(hdf5, "summary_over_traces", summary_over_traces(finished));
  }
};

ResultWriter::ResultWriter(fs::path file, Provenance provenance, bool resume)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = std::move(file);
  impl_->temporary = impl_->file.string() + fmt::format(".partial-{}", getpid());
  impl_->provenance = std::move(provenance);
  impl_->prepare_folder();
  if (!resume || !fs::exists(impl_->file)) return;
  const ResultReader reader(impl_->file);
  for (const std::string& id : reader.point_ids()) impl_->finished.push_back(reader.read(id, false));
  for (PointResult& point : impl_->finished) point.series.clear();
  impl_->keeps_existing = true;
}

ResultWriter::~ResultWriter() = default;

bool ResultWriter::has(const std::string& point_id) const {
  return std::any_of(impl_->finished.begin(), impl_->finished.end(),
                     [&](const PointResult& point) { return point.id == point_id; });
}

void ResultWriter::set_order(std::vector<std::string> ids) {
  impl_->order = std::move(ids);
  impl_->sort_finished();
}

void ResultWriter::add(const PointResult& point) {
  PointResult row = point;
  row.series.clear();
  impl_->finished.push_back(std::move(row));
  impl_->sort_finished();
  try {
    if (impl_->keeps_existing)
      fs::copy_file(impl_->file, impl_->temporary, fs::copy_options::overwrite_existing);
    {
      const h5::Id hdf5 = impl_->keeps_existing ? h5::open_file_to_change(impl_->temporary)
                                                : h5::create_file(impl_->temporary);
      write_provenance(hdf5, impl_->provenance);
      const h5::Id points =
          impl_->keeps_existing ? h5::open_group(hdf5, "points") : h5::create_group(hdf5, "points");
      write_point(points, point);
      impl_->write_summaries(hdf5);
      h5::flush(hdf5);
    }
    sync(impl_->temporary);
    fs::rename(impl_->temporary, impl_->file);
    sync(impl_->file.parent_path().empty() ? "." : impl_->file.parent_path());
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove(impl_->temporary, ignored);
    throw EnvironmentError(
        fmt::format("{}: point {} cannot be written: {}", impl_->file.string(), point.id, error.what()));
  }
  impl_->keeps_existing = true;
}

const fs::path& ResultWriter::file() const { return impl_->file; }

}  // namespace hindsight
