#pragma once
// Points as a sweep would finish them, and a look into HDF5 files that does not go through the reader.

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "hdf5/hdf5.h"
#include "results/result_store.h"

namespace hindsight::test {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

inline Provenance provenance_for_tests() {
  Provenance provenance;
  provenance.resolved_yaml = "version: 1\ntraces: [a.h5]\n";
  provenance.program_version = "0.1.0";
  provenance.git_revision = "abc";
  provenance.host = "node";
  provenance.device = "CPU, 2 threads";
  provenance.date = "2026-01-01T00:00:00Z";
  provenance.trace_digests = {{"traces/a b.h5", "d1"}, {"traces/c.h5", "d2"}};
  return provenance;
}

inline Protocol protocol_for_tests() { return {true, true, 3, 1, "CPU, 2 threads"}; }

/// A point whose values depend on `number` alone. 40 steps, layers 2 and 5, 4 heads, 2 units.
inline PointResult make_point(int number, const std::string& name = "retro") {
  PointResult point;
  point.id = "00000000000000" + std::to_string(10 + number);
  point.trace = "traces/a b.h5";
  point.trace_digest = "d1";
  point.name = name;
  point.selector = "quest";
  point.parameters.set("budget.ratio", 0.05 * (number + 1));
  point.parameters.set("gqa.unit", std::string("per_kv_head"));
  point.parameters.set("retro.window", int64_t{2});
  point.steps = "3-42";
  point.protocol = protocol_for_tests();
  std::vector<int64_t> steps(40);
  std::iota(steps.begin(), steps.end(), int64_t{3});
  point.coordinates = {{"step", steps},
                       {"layer", std::vector<int64_t>{2, 5}},
                       {"q_head", std::vector<int64_t>{0, 1, 2, 3}},
                       {"unit", std::vector<int64_t>{0, 1}},
                       {"late_rank_bin", std::vector<double>{0, 0.5, 1}},
                       {"stage", std::vector<std::string>{"score", "sélection"}}};
  const auto add = [&](const std::string& series, std::vector<std::string> dimensions,
                       std::vector<int64_t> shape) -> Series& {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    std::vector<double> values;
    for (int64_t i = 0; i < size; ++i) values.push_back(0.25 * static_cast<double>(i % 64) + number);
    point.series.push_back({series, std::move(dimensions), std::move(shape), std::move(values), false, "1",
                            "what " + series + " is"});
    return point.series.back();
  };
  add("rel_l2_final", {"step", "layer", "q_head"}, {40, 2, 4}).values[0] = nan;
  add("page_overlap", {"step", "layer", "unit"}, {40, 2, 2});
  Series& histogram = add("late_rank_histogram", {"layer", "late_rank_bin"}, {2, 3});
  histogram.integral = true;
  histogram.values = {1, 2, 3, 4, 5, 9007199254740991};
  add("latency_us_total", {"stage"}, {2});
  point.summary = {{"rel_l2_final_mean", 0.5 / (number + 1)}, {"page_overlap_mean", nan}};
  return point;
}

inline std::vector<PointResult> make_points(int count) {
  std::vector<PointResult> points;
  for (int number = 0; number < count; ++number) points.push_back(make_point(number));
  return points;
}

inline std::vector<std::string> ids_of(const std::vector<PointResult>& points) {
  std::vector<std::string> ids;
  for (const PointResult& point : points) ids.push_back(point.id);
  return ids;
}

/// Raw bytes of every dataset, and of every attribute that is no reference, by path.
inline std::map<std::string, std::vector<char>> contents_of(hid_t at, const std::string& path = "") {
  std::map<std::string, std::vector<char>> contents;
  const auto look_at_attributes = [&](hid_t object, const std::string& where) {
    for (const std::string& name : h5::attribute_names(object)) {
      const h5::Id attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), "open");
      const h5::Id type(H5Aget_type(attribute), "type");
      if (H5Tdetect_class(type, H5T_REFERENCE) > 0) continue;
      std::vector<char> bytes(H5Aget_storage_size(attribute));
      h5::check(H5Aread(attribute, type, bytes.data()), "read " + name);
      contents.emplace(where + "@" + name, std::move(bytes));
    }
  };
  look_at_attributes(at, path);
  for (const std::string& name : h5::link_names(at)) {
    const std::string where = path + "/" + name;
    if (h5::kind_of(at, name) == h5::Kind::group) {
      contents.merge(contents_of(h5::open_group(at, name), where));
      continue;
    }
    const h5::Id dataset = h5::open_dataset(at, name);
    const h5::Id type(H5Dget_type(dataset), "type");
    size_t size = H5Tget_size(type);
    for (const int64_t extent : h5::shape_of(dataset)) size *= static_cast<size_t>(extent);
    std::vector<char> bytes(size);
    h5::read_all(dataset, type, bytes.data());
    contents.emplace(where, std::move(bytes));
    look_at_attributes(dataset, where);
  }
  return contents;
}

inline std::map<std::string, std::vector<char>> contents_of(const std::filesystem::path& file) {
  return contents_of(h5::open_file(file));
}

/// Names of the files of a folder.
inline std::set<std::string> files_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

}  // namespace hindsight::test
