#pragma once
// /points/<id>: a point's parameters as attributes, its series as datasets with dimension scales, so that
// xarray, netCDF and Panoply open the group with named dimensions.

#include "hdf5/hdf5.h"
#include "results/result.h"

namespace hindsight {

void write_point(const h5::Id& points, const PointResult& point);
/// All but the summary, which /summary holds, and steps and protocol where the point does not say them.
/// Values of series only `with_series`.
PointResult read_point(const h5::Id& points, const std::string& id, bool with_series);

}  // namespace hindsight
