"""Result files as other tools see them: named dimensions, and the same bytes for the same input."""

import h5py
import numpy as np
import pytest
import xarray
from results_sweep import LAYERS, Q_HEADS, STEPS, KV_HEADS, run_sweep


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run_sweep(tmp_path_factory.mktemp("sweep"))


def point_ids(result):
    with h5py.File(result) as file:
        return [row["point"].decode() for row in file["summary"]]


def open_point(result, point):
    return xarray.open_dataset(result, group=f"/points/{point}", engine="h5netcdf", phony_dims="sort")


def test_points_open_with_named_dimensions(result):
    ids = point_ids(result)
    assert len(ids) == 7
    for point in ids:
        with open_point(result, point) as data:
            assert not [name for name in data.sizes if name.startswith("phony")]
            assert data["rel_l2_final"].dims == ("step", "layer", "q_head")
            assert data["page_overlap"].dims == ("step", "layer", "unit")
            assert data["bytes_kv"].dims == ("step", "layer")
            assert data["latency_us_total"].dims == ("latency_step", "layer", "latency_repeat")
            assert list(data["step"].values) == list(range(STEPS))
            assert list(data["layer"].values) == LAYERS[1:]
            assert (data.sizes["q_head"], data.sizes["unit"]) == (Q_HEADS, KV_HEADS)
            for name, series in data.data_vars.items():
                assert series.attrs["units"] and series.attrs["description"], name
                assert series.dtype in (np.float32, np.int64), name


def test_a_selection_by_name_is_that_of_the_array(result):
    point = point_ids(result)[-1]
    with h5py.File(result) as file, open_point(result, point) as data:
        raw = file[f"points/{point}/rel_l2_final"][:]
        assert data["rel_l2_final"].sel(step=7, layer=3, q_head=2).item() == raw[7, LAYERS[1:].index(3), 2]


def test_attributes_name_the_method_and_its_parameters(result):
    attributes = []
    for point in point_ids(result):
        with open_point(result, point) as data:
            attributes.append(data.attrs)
    assert [(a["name"], a["selector"]) for a in attributes[:2]] == [("dense", "dense"), ("quest", "quest")]
    assert "retro.window" not in attributes[1]
    for point in attributes:
        assert (point["measurements"], point["repeats"], point["batch"]) == ("fidelity latency", 2, 1)
        assert point["device"].startswith("CPU, ")
    assert [(a["budget.ratio"], a["retro.window"]) for a in attributes[3:]] == [
        (0.2, 2),
        (0.2, 4),
        (0.5, 2),
        (0.5, 4),
    ]
    with h5py.File(result) as file:
        digest, trace = file.attrs["trace_sha256"].decode().split()
    assert {(a["trace"], a["trace_digest"]) for a in attributes} == {(trace, digest)}


def test_the_summary_is_the_mean_of_the_series(result):
    with h5py.File(result) as file:
        summary = file["summary"][:]
    for row in summary:
        with open_point(result, row["point"].decode()) as data:
            for metric in ("rel_l2_first", "rel_l2_final", "effective_exposure", "oracle_page_recall"):
                assert row[f"{metric}_mean"] == pytest.approx(
                    float(data[metric].astype(float).mean()), rel=1e-6
                )
            latencies = np.sort(data["latency_us_total"].values, axis=None)
            median = latencies[(latencies.size - 1) // 2]
            assert row["latency_us_total_p50"] == pytest.approx(float(median), rel=1e-6)


def test_the_summary_holds_parameters_as_columns(result):
    with h5py.File(result) as file:
        summary = file["summary"][:]
        n_keys = file["summary"].attrs["key_columns"]
    assert summary.dtype.names[:4] == ("point", "trace", "name", "selector")
    assert list(summary.dtype.names[4:n_keys]) == sorted(summary.dtype.names[4:n_keys])
    assert summary["budget.ratio"].dtype == np.float64 and np.isnan(summary["budget.ratio"][0])
    assert summary["retro.window"].dtype == np.int64
    assert list(summary["retro.window"]) == [0, 0, 0, 2, 4, 2, 4]
    assert all(summary.dtype[name] == np.float64 for name in summary.dtype.names[n_keys:])


def contents(result):
    """Bytes of every dataset and column that does not depend on the clock."""
    found = {}

    def visit(path, item):
        if not isinstance(item, h5py.Dataset) or "latency" in path or "time" in path:
            return
        if item.dtype.names is None:
            found[path] = item[()].tobytes()
            return
        for column in item.dtype.names:
            if "latency" not in column and "time" not in column:
                found[f"{path}:{column}"] = item[column].tobytes()

    with h5py.File(result) as file:
        file.visititems(visit)
    return found


def test_the_same_sweep_gives_the_same_bytes_whatever_the_threads(result, tmp_path):
    expected = contents(result)
    assert len(expected) > 7 * 15
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        assert contents(run_sweep(folder, threads=threads)) == expected


def test_a_resumed_sweep_equals_an_uninterrupted_one(result, tmp_path):
    first = run_sweep(
        tmp_path, methods="\n  - {name: quest, selector: quest, grid: {budget.ratio: [0.2, 0.5]}}\n"
    )
    assert len(point_ids(first)) == 2
    kept = {path: data for path, data in timings(first).items() if path.startswith("points/")}
    assert contents(run_sweep(tmp_path, "--resume")) == contents(result)
    assert point_ids(first) == point_ids(result)
    after = timings(first)
    assert kept and all(after[path] == data for path, data in kept.items()), "finished points were run again"


def timings(result):
    found = {}
    with h5py.File(result) as file:
        file.visititems(
            lambda path, item: (
                found.update({path: item[()].tobytes()})
                if isinstance(item, h5py.Dataset) and "latency_us" in path
                else None
            )
        )
    return found
