"""Figures of a small result file, made here as hindsight run writes it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hindsight_analysis import figures
from hindsight_analysis.lines import (
    Line,
    axis_parameter,
    budget_parameter,
    by_values,
    joined_labels,
    lines_along,
    merge_coincident,
    reference_budget,
)
from hindsight_analysis.results import Point, load_result, load_summary

STEPS, LAYERS, HEADS = 6, [2, 3], 4
STAGES = ["append", "score", "select", "attend", "merge", "total"]


def sweep():
    """(trace, name, parameters, error): quest is retro with window 1; one retro has two traces."""
    points = [("a.h5", "dense", {}, 0.0)]
    for budget in (0.1, 0.2, 0.5):
        points.append(("a.h5", "quest", {"budget.ratio": budget}, 1 - budget))
        for window in (1, 2, 8):
            parameters = {"budget.ratio": budget, "retro.window": window}
            points.append(("a.h5", "retro", parameters, (1 - budget) / window))
    points.append(("b.h5", "retro", {"budget.ratio": 0.2, "retro.window": 8}, 0.3))
    return points


def write_result(file, points, leave_out=()):
    """`leave_out`: beginnings of the names of metrics that the result lacks."""
    rows = []
    with h5py.File(file, "w") as h5:
        h5.attrs["format"], h5.attrs["format_version"] = "hindsight-result", 1
        h5.attrs["device"] = "CPU, 2 threads"
        for number, (trace, name, parameters, error) in enumerate(points):
            metrics = {
                "rel_l2_final_mean": error,
                "mass_recall_final_mean": 1 - error,
                "effective_exposure_mean": 1 + 0.1 * (parameters.get("retro.window", 1) - 1),
                "page_overlap_mean": 0.5,
                "cumulative_error_mean": error,
                **{f"latency_us_{stage}_p50": 10.0 for stage in STAGES},
            }
            metrics = {
                metric: v
                for metric, v in metrics.items()
                if not metric.startswith(tuple(leave_out))
            }
            point_id = f"{number:016x}"
            budget, window = parameters.get("budget.ratio", np.nan), parameters.get(
                "retro.window", 0
            )
            rows.append(
                (
                    point_id.encode(),
                    trace.encode(),
                    name.encode(),
                    b"quest",
                    budget,
                    window,
                    *metrics.values(),
                )
            )
            group = h5.create_group(f"points/{point_id}")
            for attribute, value in {
                "trace": trace,
                "name": name,
                "selector": "quest",
                **parameters,
            }.items():
                group.attrs[attribute] = np.bytes_(value) if isinstance(value, str) else value
            write_series(group, error)
        columns = [("point", "S16"), ("trace", "S4"), ("name", "S5"), ("selector", "S5")]
        columns += [
            ("budget.ratio", "f8"),
            ("retro.window", "i8"),
            *((metric, "f8") for metric in metrics),
        ]
        h5["summary"] = np.array(rows, columns)
    return file


def write_series(group, error):
    dimensions = {"step": range(STEPS), "layer": LAYERS, "q_head": range(HEADS)}
    series = group.create_dataset(
        "cumulative_error", data=np.full((STEPS, len(LAYERS), HEADS), error, "f4")
    )
    for axis, (name, values) in enumerate(dimensions.items()):
        group[name] = np.array(values)
        group[name].make_scale(name)
        series.dims[axis].attach_scale(group[name])


@pytest.fixture
def result_file(tmp_path):
    return write_result(tmp_path / "result.h5", sweep())


def drawn_lines(figure):
    """By label; the caps of error bars have none."""
    named = [line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): line.get_xydata().tolist() for line in named}


def test_summary_is_a_table_by_name(result_file):
    summary = load_summary(result_file)
    retro = summary.where((summary["name"] == "retro") & (summary["trace"] == "a.h5"), drop=True)
    assert retro["retro.window"].values.tolist() == [1, 2, 8] * 3
    assert summary["point"].dtype.kind == "U"


def test_points_have_their_own_parameters_and_series(result_file):
    result = load_result(result_file)
    dense, quest, retro = result.points[:3]
    assert (dense.parameters, quest.parameters) == ({}, {"budget.ratio": 0.1})
    assert retro.parameters == {"budget.ratio": 0.1, "retro.window": 1}
    assert "budget.ratio" not in quest.metrics and quest.metrics["rel_l2_final_mean"] == 0.9
    series = result.series(quest)["cumulative_error"]
    assert series.dims == ("step", "layer", "q_head") and series["layer"].values.tolist() == LAYERS


def test_points_over_other_steps_are_no_samples_of_the_same_mean(result_file):
    with h5py.File(result_file, "r+") as file:
        for point in file["points"].values():
            late = point.attrs["trace"] == b"b.h5"
            point.attrs["steps"] = np.bytes_("10-end" if late else "0-9")
    points = load_result(result_file).points
    lines = {
        line.label: line
        for line in lines_along(points, "budget.ratio", lambda p: p.metrics["rel_l2_final_mean"])
    }
    assert lines["retro, window 8, steps 0-9"].interval == [0, 0, 0]
    assert lines["retro, window 8, steps 10-end"].y == [0.3]


def test_a_line_is_a_variant_and_its_values_are_means_over_traces(result_file):
    points = load_result(result_file).points
    lines = {
        line.label: line
        for line in lines_along(points, "budget.ratio", lambda p: p.metrics["rel_l2_final_mean"])
    }
    assert list(lines) == ["quest", "retro, window 1", "retro, window 2", "retro, window 8"]
    assert lines["retro, window 8"].x == [0.1, 0.2, 0.5]
    assert lines["retro, window 8"].y == pytest.approx([0.9 / 8, (0.8 / 8 + 0.3) / 2, 0.5 / 8])
    # Two values half a width d apart from their mean: s = d sqrt(2), t = 12.706, n = 2.
    assert lines["retro, window 8"].interval == pytest.approx([0, 12.706 * 0.1, 0])


def test_a_methods_points_are_in_order_of_their_numbers_however_they_were_measured(result_file):
    points = load_result(result_file).points
    shuffled = points[::-1]
    values = [
        (p.name, p.parameters.get("budget.ratio"), p.parameters.get("retro.window"))
        for p in by_values(shuffled)
    ]
    for name in {name for name, *_ in values}:
        of_method = [(budget, window or 0) for n, budget, window in values if n == name]
        assert of_method == sorted(of_method)
    assert [n for n, *_ in values] == sorted(
        [n for n, *_ in values], key=[p.name for p in shuffled].index
    )


def test_words_keep_their_order_and_what_is_not_said_comes_before_numbers():
    def point(number, refresh, window=None):
        parameters = {"retro.refresh": refresh, "retro.window": window}
        said = {name: value for name, value in parameters.items() if value is not None}
        return Point(str(number), "a.h5", "retro", "quest", said, {})

    points = [
        point(0, "recompute", 8),
        point(1, "merge", 16),
        point(2, "recompute", 4),
        point(3, "merge"),
    ]
    assert [p.id for p in by_values(points)] == ["2", "0", "3", "1"]


@pytest.mark.parametrize(
    "varied, along",
    [
        (
            [{"budget.ratio": b, "page_size": p} for b in (0.1, 0.2) for p in (8, 16, 32)],
            "budget.ratio",
        ),
        ([{"budget.ratio": 0.1, "page_size": p} for p in (8, 16)], "page_size"),
        (
            [
                {"budget.ratio": 0.1, "page_size": p, "retro.window": w}
                for p in (8, 16)
                for w in (1, 2)
            ],
            "page_size",
        ),
        ([{"budget.ratio": 0.1, "gqa.combine": how} for how in ("mean", "max")], None),
    ],
)
def test_figures_are_drawn_against_what_was_varied(tmp_path, varied, along):
    sweep = [("a.h5", "m", parameters, 0.1 * (i + 1)) for i, parameters in enumerate(varied)]
    result = load_result(write_result(tmp_path / "result.h5", sweep))
    assert axis_parameter(result.points) == along
    axes = figures.error_by_budget(result).axes[0]
    if along is None:
        rows = [label.get_text() for label in axes.get_yticklabels()]
        assert rows == ["m, combine mean", "m, combine max"]
        assert {line.get_xdata()[0] for line in axes.get_lines()} == {0.1, 0.2}
    else:
        assert axes.get_xlabel() == figures.AXIS_LABELS[along]


def test_intervals_of_several_traces_are_drawn(result_file):
    with_interval = figures.error_by_budget(load_result(result_file)).axes[0].containers
    assert len(with_interval) == 1 and with_interval[0].has_yerr


def test_lines_on_each_other_are_one():
    lines = [
        Line("quest", "quest", 0, 1, [1, 2], [0.5, 0.25]),
        Line("retro", "retro, window 1", 0, 2, [1, 2], [0.5, 0.25]),
        Line("retro", "retro, window 2", 1, 2, [1, 2], [0.5, 0.24]),
    ]
    assert [line.label for line in merge_coincident(lines)] == [
        "quest = retro, window 1",
        "retro, window 2",
    ]
    assert (
        joined_labels(["quest", "retro, window 1", "retro, window 2"])
        == "quest = retro, window 1 / 2"
    )


def test_reference_budget_is_one_that_most_methods_have(result_file):
    points = load_result(result_file).points
    assert budget_parameter(points) == "budget.ratio"
    assert reference_budget(points, "budget.ratio") == 0.2
    assert reference_budget(points[:3] + points[5:6], "budget.ratio") == 0.1


def test_error_figure_draws_every_method(result_file):
    lines = drawn_lines(figures.error_by_budget(load_result(result_file)))
    assert list(lines) == ["quest = retro, window 1", "retro, window 2", "retro, window 8"]
    assert lines["retro, window 2"] == [[0.1, 0.45], [0.2, 0.4], [0.5, 0.25]]


def test_exposure_figure_marks_what_is_reported(result_file):
    axes = figures.exposure_by_window(load_result(result_file)).axes[0]
    assert axes.get_lines()[0].get_xydata() == pytest.approx(
        np.array([[1, 1.0], [2, 1.1], [8, 1.7]])
    )
    reported = axes.collections[0]
    assert reported.get_offsets().tolist() == [[2, 1.17], [8, 1.60]]
    assert reported.get_label().startswith("reported")


def test_cumulative_error_is_of_one_budget_and_dense(result_file):
    lines = drawn_lines(figures.cumulative_error_by_step(load_result(result_file)))
    assert list(lines) == ["dense", "quest = retro, window 1", "retro, window 2", "retro, window 8"]
    assert [y for _, y in lines["retro, window 2"]] == pytest.approx([0.4] * STEPS)
    assert [y for _, y in lines["retro, window 8"]] == pytest.approx([(0.8 / 8 + 0.3) / 2] * STEPS)


def test_latency_bars_stack_the_stages(result_file):
    axes = figures.latency_by_stage(load_result(result_file)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "dense",
        "quest",
        "retro, window 1",
        "retro, window 2",
        "retro, window 8",
    ]
    assert max(bar.get_x() + bar.get_width() for bar in axes.patches) == pytest.approx(10.0 * 5)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures_are_the_same_bytes_every_time(result_file, tmp_path, capsys, kind):
    for folder in ("first", "second"):
        out = tmp_path / folder
        assert figures.main([str(result_file), "--out", str(out), "--format", kind]) == 0
    output = capsys.readouterr()
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert names == sorted(f"{name}.{kind}" for name in figures.FIGURES) and output.err == ""
    for name in names:
        assert str(tmp_path / "first" / name) in output.out
        assert (tmp_path / "first" / name).read_bytes() == (
            tmp_path / "second" / name
        ).read_bytes(), name


def test_figures_without_data_are_skipped(tmp_path, capsys):
    points = [point for point in sweep() if point[1] in ("dense", "quest")]
    file = write_result(tmp_path / "result.h5", points, leave_out=["latency_", "page_overlap"])
    assert figures.main([str(file)]) == 0
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "figures: exposure_by_window skipped: no point has retro.window",
        "figures: page_overlap_by_budget skipped: no point has page_overlap_mean",
        "figures: latency_by_stage skipped: no point has latency_us_total_p50",
    ]
    assert (
        len(output.out.splitlines()) == 3
        and (tmp_path / "figures" / "error_by_budget.png").exists()
    )


def write_other(file):
    with h5py.File(file, "w") as h5:
        h5.attrs["format"] = "hindsight-trace"


@pytest.mark.parametrize(
    ("make", "options", "status", "words"),
    [
        (None, [], 3, "there is no such file"),
        (lambda file: file.write_bytes(b"no HDF5"), [], 3, "is no HDF5 file"),
        (write_other, [], 3, "format hindsight-trace"),
        (lambda file: write_result(file, sweep(), leave_out=[""]), [], 3, "none of the figures"),
        (lambda file: write_result(file, sweep()), ["--format", "bmp"], 2, "--format"),
        (lambda file: write_result(file, sweep()), ["--out", "result.h5"], 4, "--out result.h5"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, make, options, status, words):
    monkeypatch.chdir(tmp_path)
    if make:
        make(tmp_path / "result.h5")
    assert figures.main(["result.h5", *options]) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if "skipped" not in line]
    assert len(errors) == 1 and errors[0].startswith("figures: error: ") and words in errors[0]
