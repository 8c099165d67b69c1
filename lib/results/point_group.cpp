#include "results/point_group.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "results/protocol.h"

namespace hindsight {
namespace {

/// Attributes of a point that are no parameter of its method.
constexpr std::array<const char*, 10> not_parameters{"name",    "selector",     "trace",  "trace_digest",
                                                     "steps",   "measurements", "device", "average_steps",
                                                     "repeats", "batch"};

h5::Id write_coordinate(const h5::Id& group, const Coordinate& coordinate) {
  if (const auto* names = std::get_if<std::vector<std::string>>(&coordinate.values)) {
    h5::write_strings(group, coordinate.name, *names);
    h5::Id scale = h5::open_dataset(group, coordinate.name);
    h5::make_scale(scale, coordinate.name);
    return scale;
  }
  const auto* integers = std::get_if<std::vector<int64_t>>(&coordinate.values);
  const auto* reals = std::get_if<std::vector<double>>(&coordinate.values);
  const auto n = static_cast<int64_t>(integers ? integers->size() : reals->size());
  h5::Id scale = h5::create_dataset(group, coordinate.name, integers ? H5T_STD_I64LE : H5T_IEEE_F64LE, {n});
  h5::write_all(
      scale, integers ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE,
      integers ? static_cast<const void*>(integers->data()) : static_cast<const void*>(reals->data()));
  h5::make_scale(scale, coordinate.name);
  return scale;
}

void write_series(const h5::Id& group, const Series& series, const std::map<std::string, h5::Id>& scales) {
  h5::Layout layout;
  if (series.values.size() > 256) {
    int64_t row = 1;
    for (size_t axis = 1; axis < series.shape.size(); ++axis) row *= series.shape[axis];
    layout.chunk = series.shape;
    layout.chunk->front() =
        std::clamp<int64_t>((1 << 16) / std::max<int64_t>(1, row), 1, series.shape.front());
    layout.deflate = 1;
  }
  const h5::Id dataset = h5::create_dataset(
      group, series.name, series.integral ? H5T_STD_I64LE : H5T_IEEE_F32LE, series.shape, layout);
  h5::write_all(dataset, H5T_NATIVE_DOUBLE, series.values.data());
  h5::write_string(dataset, "units", series.unit);
  h5::write_string(dataset, "description", series.description);
  h5::write_string(dataset, "dimensions", fmt::format("{}", fmt::join(series.dimensions, " ")));
  for (size_t axis = 0; axis < series.dimensions.size(); ++axis)
    h5::attach_scale(dataset, scales.at(series.dimensions[axis]), static_cast<unsigned>(axis));
}

Coordinate read_coordinate(const h5::Id& dataset, const std::string& name) {
  const h5::Id type(H5Dget_type(dataset), "read a type");
  Coordinate coordinate{name, {}};
  const auto n = static_cast<size_t>(h5::shape_of(dataset).at(0));
  if (H5Tget_class(type) == H5T_STRING) {
    coordinate.values = h5::read_strings(dataset);
  } else if (H5Tget_class(type) == H5T_INTEGER) {
    std::vector<int64_t> values(n);
    h5::read_all(dataset, H5T_NATIVE_INT64, values.data());
    coordinate.values = std::move(values);
  } else {
    std::vector<double> values(n);
    h5::read_all(dataset, H5T_NATIVE_DOUBLE, values.data());
    coordinate.values = std::move(values);
  }
  return coordinate;
}

}  // namespace

void write_point(const h5::Id& points, const PointResult& point) {
  const h5::Id group = h5::create_group(points, point.id);
  h5::write_string(group, "name", point.name);
  h5::write_string(group, "selector", point.selector);
  h5::write_string(group, "trace", point.trace);
  h5::write_string(group, "trace_digest", point.trace_digest);
  h5::write_string(group, "steps", point.steps);
  write_protocol(group, point.protocol);
  for (const auto& [path, value] : point.parameters.values()) {
    if (const auto* number = std::get_if<int64_t>(&value)) h5::write_integer(group, path, *number);
    if (const auto* real = std::get_if<double>(&value)) h5::write_real(group, path, *real);
    if (const auto* text = std::get_if<std::string>(&value)) h5::write_string(group, path, *text);
  }
  std::map<std::string, h5::Id> scales;
  for (const Coordinate& coordinate : point.coordinates)
    scales.emplace(coordinate.name, write_coordinate(group, coordinate));
  for (const Series& series : point.series) write_series(group, series, scales);
}

PointResult read_point(const h5::Id& points, const std::string& id, bool with_series) {
  const h5::Id group = h5::open_group(points, id);
  PointResult point;
  point.id = id;
  point.name = h5::read_string(group, "name");
  point.selector = h5::read_string(group, "selector");
  point.trace = h5::read_string(group, "trace");
  point.trace_digest = h5::read_string(group, "trace_digest");
  if (h5::has_attribute(group, "measurements")) {
    point.steps = h5::read_string(group, "steps");
    point.protocol = read_protocol(group);
  }
  for (const std::string& name : h5::attribute_names(group)) {
    if (std::find(not_parameters.begin(), not_parameters.end(), name) != not_parameters.end()) continue;
    switch (h5::attribute_kind(group, name)) {
      case h5::AttributeKind::string:
        point.parameters.set(name, h5::read_string(group, name));
        break;
      case h5::AttributeKind::integer:
        point.parameters.set(name, h5::read_integer(group, name));
        break;
      case h5::AttributeKind::real:
        point.parameters.set(name, h5::read_real(group, name));
        break;
      case h5::AttributeKind::other:
        break;
    }
  }
  for (const std::string& name : h5::link_names(group)) {
    const h5::Id dataset = h5::open_dataset(group, name);
    if (!h5::has_attribute(dataset, "dimensions")) {
      point.coordinates.push_back(read_coordinate(dataset, name));
      continue;
    }
    Series series;
    series.name = name;
    series.unit = h5::read_string(dataset, "units");
    series.description = h5::read_string(dataset, "description");
    std::istringstream dimensions(h5::read_string(dataset, "dimensions"));
    for (std::string dimension; dimensions >> dimension;) series.dimensions.push_back(dimension);
    series.shape = h5::shape_of(dataset);
    const h5::Id type(H5Dget_type(dataset), "read a type");
    series.integral = H5Tget_class(type) == H5T_INTEGER;
    if (with_series) {
      int64_t size = 1;
      for (const int64_t extent : series.shape) size *= extent;
      series.values.resize(static_cast<size_t>(size));
      h5::read_all(dataset, H5T_NATIVE_DOUBLE, series.values.data());
    }
    point.series.push_back(std::move(series));
  }
  return point;
}

}  // namespace hindsight
