"""Result files (format hindsight-result, version 1): README, "Result files"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray

from hindsight_analysis.errors import INPUT, CommandError

# Attributes of a point that are no parameter of its method.
NOT_PARAMETERS = {
    "name",
    "selector",
    "trace",
    "trace_digest",
    "steps",
    "measurements",
    "device",
    "average_steps",
    "repeats",
    "batch",
}


@dataclass(frozen=True)
class Point:
    """One point of a sweep on one trace: its method, parameters by dotted path, row of /summary."""

    id: str
    trace: str
    name: str
    selector: str
    parameters: dict[str, Any]  # and its steps and layers, where points of the file differ in them
    metrics: dict[str, float]  # columns of /summary; NaN where a metric does not apply


@dataclass(frozen=True)
class Result:
    file: Path
    device: str
    points: list[Point]

    def series(self, point: Point) -> xarray.Dataset:
        """The series of a point, with the coordinates step, layer, q_head, unit, ... by name."""
        return xarray.load_dataset(
            self.file, group=f"points/{point.id}", engine="h5netcdf", phony_dims="sort"
        )


def _plain(value):
    """A value of HDF5 as Python's own."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _range(point: h5py.Group) -> dict[str, str]:
    """The steps that were asked for (in older files: that there are) and the layers of a point.

    Points of answers that a model wrote with dense attention have neither.
    """
    if "step" not in point or "layer" not in point:
        return {"steps": _plain(point.attrs.get("steps", "")), "layers": ""}
    steps, layers = point["step"], point["layer"]
    return {
        "steps": _plain(point.attrs.get("steps", f"{steps[0]}-{steps[-1]}")),
        "layers": " ".join(str(layer) for layer in layers),
    }


def load_summary(file: Path) -> xarray.Dataset:
    """/summary as a dataset: a variable per column along the dimension `point`, indexed by the id.

    Raises CommandError.
    """
    with _open(file) as h5:
        if "summary" not in h5:
            raise CommandError(
                INPUT, f"{file}: has no /summary; a result of hindsight run would be right"
            )
        table = h5["summary"][...]
    columns = {
        name: (
            "point",
            np.char.decode(table[name]) if table.dtype[name].kind == "S" else table[name],
        )
        for name in table.dtype.names
    }
    return xarray.Dataset(columns).set_coords("point")


def load_result(file: Path) -> Result:
    """What is needed to draw a result; series are read when asked for. Raises CommandError."""
    summary = load_summary(file)
    with _open(file) as h5:
        try:
            attributes = [
                dict(h5[f"points/{point_id}"].attrs) for point_id in summary["point"].values
            ]
            ranges = [_range(h5[f"points/{point_id}"]) for point_id in summary["point"].values]
        except KeyError as error:
            raise CommandError(
                INPUT, f"{file}: /summary names a point that is not there: {error}"
            ) from error
        device = str(_plain(h5.attrs.get("device", "")))
    parameters = [
        {name: _plain(value) for name, value in found.items() if name not in NOT_PARAMETERS}
        for found in attributes
    ]
    # Points over other steps or layers are no samples of the same mean: they are drawn apart.
    for what in ("steps", "layers"):
        if len({found[what] for found in ranges} - {""}) > 1:
            for of_point, found in zip(parameters, ranges):
                of_point[what] = found[what]
    metrics = [
        str(name)
        for name, column in summary.data_vars.items()
        if column.dtype.kind in "fiu" and not any(name in found for found in parameters)
    ]
    points = [
        Point(
            id=str(summary["point"].values[row]),
            trace=str(summary["trace"].values[row]),
            name=str(summary["name"].values[row]),
            selector=str(summary["selector"].values[row]),
            parameters=parameters[row],
            metrics={name: float(summary[name].values[row]) for name in metrics},
        )
        for row in range(summary.sizes["point"])
    ]
    return Result(file, device, points)


def _open(file: Path) -> h5py.File:
    if not file.is_file():
        raise CommandError(
            INPUT, f"{file}: there is no such file; a result of hindsight run would be right"
        )
    try:
        h5 = h5py.File(file, "r")
    except OSError as error:
        raise CommandError(INPUT, f"{file}: is no HDF5 file: {error}") from error
    kind, version = _plain(h5.attrs.get("format", "")), h5.attrs.get("format_version", 0)
    if kind != "hindsight-result" or version != 1:
        h5.close()
        raise CommandError(
            INPUT,
            f"{file}: format {kind or 'not given'}, version {version}; hindsight-result, version 1 "
            "would be right",
        )
    return h5
