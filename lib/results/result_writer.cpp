#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <system_error>

#include "core/error.h"
#include "results/point_group.h"
#include "results/protocol.h"
#include "results/result_store.h"
#include "results/summary_over_traces.h"
#include "results/summary_table.h"

namespace hindsight {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const fs::path& file) { return file.parent_path().empty() ? "." : file.parent_path(); }

/// Makes what was written to a file survive a crash of the machine. Throws std::system_error.
void sync_file(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool failed = descriptor < 0 || ::fsync(descriptor) != 0;
  const std::error_code error(errno, std::generic_category());
  if (descriptor >= 0) ::close(descriptor);
  if (failed) throw std::system_error(error, "the file cannot be synchronised");
}

/// Makes a rename in the folder survive a crash, where the file system can.
void sync_folder(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

/// While a point is added, the file it goes to is called so; the number is that of the process.
constexpr const char* temporary_mark = ".partial-";

/// Removes what runs that were killed left behind: temporary files of processes that are no more.
void remove_leftovers(const fs::path& file) {
  const std::string prefix = file.filename().string() + temporary_mark;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(file), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    pid_t process = 0;
    const auto [end, error] =
        std::from_chars(name.data() + prefix.size(), name.data() + name.size(), process);
    if (error != std::errc() || end != name.data() + name.size() || process <= 0) continue;
    if (::kill(process, 0) != 0 && errno == ESRCH) fs::remove(entry.path(), ignored);
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

void remove_summaries(const h5::Id& hdf5) {
  for (const char* name : {"summary", "summary_over_traces"})
    if (h5::link_of(hdf5, name) != h5::Link::none) h5::remove_link(hdf5, name);
}

void write_summaries(const h5::Id& hdf5, const std::vector<PointResult>& finished) {
  write_table(hdf5, "summary", summary_table(finished));
  const bool one_trace = std::all_of(finished.begin(), finished.end(), [&](const PointResult& point) {
    return point.trace_digest == finished.front().trace_digest;
  });
  if (!one_trace) write_table(hdf5, "summary_over_traces", summary_over_traces(finished));
}

/// Points in the order of the sweep; points of an earlier sweep after them.
void sort_points(std::vector<PointResult>& points, const std::vector<std::string>& order) {
  const auto place = [&](const PointResult& point) {
    return std::find(order.begin(), order.end(), point.id) - order.begin();
  };
  std::stable_sort(points.begin(), points.end(),
                   [&](const PointResult& a, const PointResult& b) { return place(a) < place(b); });
}

}  // namespace

struct ResultWriter::Impl {
  fs::path file, temporary;
  Provenance provenance;
  std::vector<std::string> order;
  std::vector<PointResult> finished;  // without series
  bool keeps_existing = false;        // the file on disk holds `finished`

  /// Finds now what would otherwise be found when the first point is finished.
  void check_that_it_can_be_written() const {
    const fs::path folder = folder_of(file);
    std::error_code error;
    fs::create_directories(folder, error);
    if (error || !fs::is_directory(folder, error))
      throw EnvironmentError(
          fmt::format("{}: its folder cannot be made: {}", file.string(), error.message()));
    const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0)
      throw EnvironmentError(
          fmt::format("{}: cannot be written to {}: {}; name an output in a folder that is writable",
                      file.string(), folder.string(), std::strerror(errno)));
    ::close(descriptor);
    fs::remove(temporary, error);
    if (fs::exists(file, error) && !is_result_file(file))
      throw EnvironmentError(fmt::format(
          "{}: exists and is no result file of hindsight; it is not replaced, name another output",
          file.string()));
  }

  void resume_from(const ResultReader& reader, const Protocol& protocol) {
    finished = reader.read_all();
    for (PointResult& point : finished) {
      point.series.clear();
      // A point that is kept is not measured again: what it lacks would be missing without a word.
      if (!agree(point.protocol, protocol))
        throw ConfigError(fmt::format(
            "{}: --resume: its points hold {}; asked for is {}; another output (-o) or what it holds would "
            "be right",
            file.string(), described(point.protocol), described(protocol)));
    }
    // Traces that only the kept points were measured on.
    for (const auto& kept : reader.provenance().trace_digests)
      if (std::find(provenance.trace_digests.begin(), provenance.trace_digests.end(), kept) ==
          provenance.trace_digests.end())
        provenance.trace_digests.push_back(kept);
    keeps_existing = true;
  }

  using Nth = std::function<const PointResult&(int64_t)>;

  /// `rows`: of the points that are there; those of the new ones are added.
  void write_temporary(int64_t n, const Nth& nth, std::vector<PointResult>& rows) const {
    if (keeps_existing) fs::copy_file(file, temporary, fs::copy_options::overwrite_existing);
    const h5::Id hdf5 = keeps_existing ? h5::open_file_to_change(temporary) : h5::create_file(temporary);
    write_provenance(hdf5, provenance);
    // Removed before points are written, so that they take their space: HDF5 forgets free space on closing.
    if (keeps_existing) remove_summaries(hdf5);
    const h5::Id points = keeps_existing ? h5::open_group(hdf5, "points") : h5::create_group(hdf5, "points");
    for (int64_t i = 0; i < n; ++i) {
      const PointResult& point = nth(i);
      write_point(points, point);
      rows.push_back(point);
      rows.back().series.clear();
    }
    sort_points(rows, order);
    write_summaries(hdf5, rows);
    h5::flush(hdf5);
  }

  /// `what` is said where it cannot be written. What `nth` throws is passed on.
  void add(int64_t n, const Nth& nth, const std::string& what) {
    std::vector<PointResult> rows = finished;
    const auto give_up = [&] {
      std::error_code ignored;
      fs::remove(temporary, ignored);
    };
    try {
      write_temporary(n, nth, rows);
      sync_file(temporary);
      fs::rename(temporary, file);
      sync_folder(folder_of(file));
    } catch (const Error&) {
      give_up();
      throw;
    } catch (const std::exception& error) {
      give_up();
      throw EnvironmentError(fmt::format("{}: {} cannot be written: {}", file.string(), what, error.what()));
    }
    finished = std::move(rows);
    keeps_existing = true;
  }
};

ResultWriter::ResultWriter(fs::path file, Provenance provenance, std::optional<Protocol> resume)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = std::move(file);
  impl_->temporary = impl_->file.string() + fmt::format("{}{}", temporary_mark, getpid());
  impl_->provenance = std::move(provenance);
  impl_->check_that_it_can_be_written();
  remove_leftovers(impl_->file);
  if (resume && fs::exists(impl_->file)) impl_->resume_from(ResultReader(impl_->file), *resume);
}

ResultWriter::~ResultWriter() = default;

bool ResultWriter::has(const std::string& point_id) const {
  return std::any_of(impl_->finished.begin(), impl_->finished.end(),
                     [&](const PointResult& point) { return point.id == point_id; });
}

void ResultWriter::set_order(std::vector<std::string> ids) {
  impl_->order = std::move(ids);
  sort_points(impl_->finished, impl_->order);
}

void ResultWriter::add(const PointResult& point) {
  impl_->add(
      1, [&](int64_t) -> const PointResult& { return point; }, "point " + point.id);
}

void ResultWriter::add_all(int64_t n, const std::function<PointResult(int64_t)>& nth) {
  PointResult point;
  impl_->add(
      n, [&](int64_t i) -> const PointResult& { return point = nth(i); }, fmt::format("{} points", n));
}

}  // namespace hindsight
