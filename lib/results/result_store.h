#pragma once
// The result file: format hindsight-result, version 1. Every finished point is durable on its own.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "results/result.h"

namespace hindsight {

/// What the result file says of the run as a whole.
struct Provenance {
  std::string resolved_yaml;
  std::string program_version, git_revision;
  std::string host, device, driver, date;
  std::vector<std::pair<std::string, std::string>> trace_digests;  ///< (trace file, SHA-256)
};

/// Writes a result file. The file appears with the first added point and is replaced by rename each time, so
/// that a reader, or a run killed at any moment, finds a whole file with the finished points.
class ResultWriter {
 public:
  /// `resume`: keep the points of an existing file, which must have been measured so; without it an existing
  /// file is replaced when the first point is added. Throws EnvironmentError (folder missing or not writable;
  /// a file that is no result file is never replaced), ConfigError (resume from a file of another format, or
  /// of points measured otherwise).
  ResultWriter(std::filesystem::path file, Provenance provenance, std::optional<Protocol> resume);
  ~ResultWriter();
  bool has(const std::string& point_id) const;
  /// Points are stored in /summary in `order` (all ids of the sweep), whatever the order of adding: a resumed
  /// file equals an uninterrupted one.
  void set_order(std::vector<std::string> ids);
  void add(const PointResult& point);
  /// Adds n points, all or none: the file shows them together.
  void add_all(int64_t n, const std::function<PointResult(int64_t)>& nth);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads a result file back. Throws EnvironmentError where the file is missing, damaged or no result file,
/// ConfigError where it is of another version.
class ResultReader {
 public:
  explicit ResultReader(const std::filesystem::path& file);
  ~ResultReader();
  const std::filesystem::path& file() const;
  const Provenance& provenance() const;
  /// Ids in file order.
  std::vector<std::string> point_ids() const;
  /// All of a point but the values of its series, unless `with_series`.
  PointResult read(const std::string& id, bool with_series) const;
  /// All points in file order, without the values of their series.
  std::vector<PointResult> read_all() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hindsight
