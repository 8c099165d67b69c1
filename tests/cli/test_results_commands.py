"""hindsight report and hindsight compare."""

import csv
import io
import json
import shutil

import h5py
import numpy as np
import pytest
from results_sweep import LAYERS, Q_HEADS, STEPS, hindsight, run_sweep, write_sweep, write_trace


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run_sweep(tmp_path_factory.mktemp("sweep"), traces=("a.h5",))


@pytest.fixture(scope="module")
def two_traces(tmp_path_factory):
    return run_sweep(tmp_path_factory.mktemp("two"), traces=("a.h5", "b.h5"))


def rows_of(done):
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_the_table_fits_a_terminal_and_shows_what_differs(result):
    done = hindsight("report", result)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines[-7:]) == 7 and lines[-7].startswith("dense") and lines[-1].startswith("retro")
    heading = " ".join(lines[:-8])
    for piece in ("name", "ratio", "window", "rel_l2_", "exposure_", "total_"):
        assert piece in heading
    assert "page_size" not in heading, "all points share it"
    assert "\x1b" not in done.stdout


def test_csv_and_json_carry_every_column_of_the_summary(result):
    with h5py.File(result) as file:
        summary = file["summary"][:]
        n_keys = file["summary"].attrs["key_columns"]
    table = rows_of(hindsight("report", result, "--format", "csv"))
    objects = json.loads(hindsight("report", result, "--format", "json").stdout)
    assert len(table) == len(objects) == len(summary) == 7
    for line, item, row in zip(table, objects, summary):
        assert list(line) == list(item) == list(summary.dtype.names)
        assert line["point"] == item["point"] == row["point"].decode()
        for name in summary.dtype.names[n_keys:]:
            if np.isnan(row[name]):
                assert line[name] == "" and item[name] is None
            else:
                assert float(line[name]) == item[name] == row[name], "every digit"
    assert objects[0]["retro.window"] is None and table[0]["retro.window"] == ""
    assert objects[-1]["retro.window"] == 4


def test_markdown_is_a_table(result):
    lines = hindsight("report", result, "--format", "markdown").stdout.splitlines()
    assert len(lines) == 2 + 7
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert len({line.count("|") for line in lines}) == 1
    assert "rel_l2_final_mean" in lines[0]


def test_sorting_goes_by_any_column(result):
    column = "arithmetic_intensity_mean"
    values = [
        float(row[column])
        for row in rows_of(hindsight("report", result, "--sort", column, "--format", "csv"))
    ]
    assert values == sorted(values) and len(set(values)) > 1
    assert "intensity_" in hindsight("report", result, "--sort", column).stdout


def test_an_unknown_column_is_a_usage_error_that_suggests_the_nearest(result):
    done = hindsight("report", result, "--sort", "rel_l2_finl_mean", check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "rel_l2_final_mean" in done.stderr


@pytest.mark.parametrize(
    "by, label, places", [("layer", "layer", LAYERS[1:]), ("head", "q_head", range(Q_HEADS))]
)
def test_means_along_a_dimension_are_those_of_the_series(result, by, label, places):
    rows = rows_of(hindsight("report", result, "--by", by, "--format", "csv"))
    assert len(rows) == 7 * len(places)
    with h5py.File(result) as file:
        for index, row in enumerate(rows):
            place = index % len(places)
            assert int(row[label]) == list(places)[place]
            series = file[f"points/{row['point']}/rel_l2_final"][:].astype(float)
            expected = series[:, place].mean() if by == "layer" else series[:, :, place].mean()
            assert float(row["rel_l2_final_mean"]) == pytest.approx(expected, rel=1e-12)


def test_steps_come_in_ranges(result):
    rows = rows_of(hindsight("report", result, "--by", "step", "--format", "csv"))
    assert len(rows) == 7 * 14
    with h5py.File(result) as file:
        for row in rows:
            series = file[f"points/{row['point']}/bytes_kv"][int(row["step_from"]) : int(row["step_to"]) + 1]
            assert float(row["bytes_kv_mean"]) == pytest.approx(series.astype(float).mean(), rel=1e-12)


def test_latencies_belong_to_the_steps_that_were_timed(tmp_path):
    late = run_sweep(tmp_path, "--set", "steps.from=24", "--set", "steps.count=16", measure="latency")
    rows = rows_of(hindsight("report", late, "--by", "step", "--format", "csv"))
    assert len(rows) == 7 * 16
    timed = [int(row["step_from"]) for row in rows if row["latency_us_total_p50"]]
    assert timed == 7 * [25, 27, 29, 31, 33, 35, 37, 39]


def test_several_traces_are_reported_by_method_with_intervals(two_traces):
    assert "±" in hindsight("report", two_traces).stdout
    points = rows_of(hindsight("report", two_traces, "--by", "point", "--format", "csv"))
    methods = rows_of(hindsight("report", two_traces, "--format", "csv"))
    assert (len(points), len(methods)) == (14, 7)
    for method in methods:
        key = [name for name in method if name in ("name", "budget.ratio", "retro.window")]
        values = [float(p["rel_l2_final_mean"]) for p in points if all(p[k] == method[k] for k in key)]
        assert method["n_traces"] == "2" and len(values) == 2
        assert float(method["rel_l2_final_mean"]) == pytest.approx(np.mean(values), rel=1e-12)
        half_width = 12.706 * np.std(values, ddof=1) / np.sqrt(2)
        assert float(method["rel_l2_final_mean_ci95"]) == pytest.approx(half_width, rel=1e-9)


def test_points_over_other_steps_are_no_further_samples(tmp_path):
    two = ("a.h5", "b.h5")
    run_sweep(tmp_path, "--set", "steps.count=20", traces=two, measure="fidelity")
    late = ["--set", "steps.from=20", "--resume"]
    result = run_sweep(tmp_path, *late, traces=two, measure="fidelity")
    rows = rows_of(hindsight("report", result, "--by", "method", "--format", "csv"))
    assert [(row["steps"], row["n_traces"]) for row in rows] == 7 * [("20-end", "2")] + 7 * [("0-19", "2")]
    assert "steps" in hindsight("report", result).stdout
    with h5py.File(result) as file:
        assert len(file["summary_over_traces"]) == 14


def test_traces_of_different_lengths_are_of_one_mean(tmp_path):
    for seed, name in enumerate(("long.h5", "short.h5")):
        write_trace(tmp_path / name, seed, steps=STEPS - 10 * seed)
    result = run_sweep(tmp_path, traces=("long.h5", "short.h5"), measure="fidelity")
    rows = rows_of(hindsight("report", result, "--format", "csv"))
    assert [(row["steps"], row["n_traces"]) for row in rows] == 7 * [("0-end", "2")]


def test_traces_of_the_same_file_name_are_told_apart(tmp_path):
    for folder, seed in (("p", 0), ("q", 1)):
        (tmp_path / folder).mkdir()
        write_trace(tmp_path / folder / "code.h5", seed)
    result = run_sweep(tmp_path, traces=("p/code.h5", "q/code.h5"), measure="fidelity")
    with h5py.File(result) as file:
        assert set(file["summary"]["trace"]) == {b"p/code.h5", b"q/code.h5"}
        assert [line.split("  ")[1] for line in file.attrs["trace_sha256"].decode().splitlines()] == [
            "p/code.h5",
            "q/code.h5",
        ]


def test_a_trace_given_twice_is_refused(tmp_path):
    write_trace(tmp_path / "a.h5", 0)
    shutil.copy(tmp_path / "a.h5", tmp_path / "copy.h5")
    done = hindsight("run", write_sweep(tmp_path, traces=("a.h5", "copy.h5")), check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for said in ("sweep.yaml:2:16: ", "copy.h5", "a.h5", "sweep.yaml:2:10)"):
        assert said in done.stderr
    assert not (tmp_path / "sweep.result.h5").exists()


@pytest.mark.parametrize(
    "measured, more, threads, asked",
    [
        ("fidelity", [], 1, "fidelity, latency (repeats 2, batch 1) on CPU, 1 thread"),
        ("fidelity, latency", ["--set", "measure=[fidelity]"], 1, "fidelity on CPU, 1 thread"),
        ("latency, fidelity", ["--set", "repeats=3"], 1, "(repeats 3, batch 1)"),
        ("latency, fidelity", ["--set", "batch=2"], 1, "(repeats 2, batch 2)"),
        ("latency, fidelity", [], 2, "on CPU, 2 threads"),
    ],
)
def test_what_was_measured_otherwise_is_not_resumed(tmp_path, measured, more, threads, asked):
    result = run_sweep(tmp_path, measure=measured, threads=1)
    before = result.read_bytes()
    sweep = write_sweep(tmp_path)
    done = hindsight("run", sweep, "--resume", *more, threads=threads, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert str(result) in done.stderr and asked in done.stderr and "another output" in done.stderr
    assert result.read_bytes() == before


def test_fidelity_is_resumed_with_any_number_of_threads(tmp_path):
    run_sweep(tmp_path, methods="\n  - {name: dense, selector: dense}\n", measure="fidelity", threads=1)
    result = run_sweep(tmp_path, "--resume", measure="fidelity", threads=2)
    with h5py.File(result) as file:
        devices = [point.attrs["device"] for point in file["points"].values()]
    assert sorted(devices) == [b"CPU, 1 thread"] + 6 * [b"CPU, 2 threads"]


def test_what_is_no_result_is_refused(result, tmp_path):
    (tmp_path / "text.h5").write_text("nothing of the kind")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(result.read_bytes()[: result.stat().st_size // 2])
    for file in (tmp_path / "absent.h5", tmp_path / "text.h5", cut, result.parent / "a.h5"):
        done = hindsight("report", file, check=False)
        assert done.returncode == 4 and done.stdout == "", file
        assert len(done.stderr.splitlines()) == 1 and str(file) in done.stderr


def test_a_file_compared_with_itself_does_not_differ(result):
    rows = rows_of(hindsight("compare", result, result, "--format", "csv"))
    assert {row["metric"] for row in rows} >= {"rel_l2_final_mean", "flops_per_step", "latency_us_total_p50"}
    assert all(float(row["difference"]) == 0 for row in rows)
    assert {row["ratio"] for row in rows} <= {"1", ""}
    text = hindsight("compare", result, result).stdout
    assert "rel_l2_final_mean" in text and "flops_per_step" not in text


def test_points_of_one_file_only_are_named_on_stderr(result, two_traces):
    done = hindsight("compare", result, two_traces, "--format", "json")
    assert len(done.stderr.splitlines()) == 7 and str(two_traces) in done.stderr
    rows = json.loads(done.stdout)
    errors = [row for row in rows if row["metric"] == "rel_l2_final_mean"]
    assert len(errors) == 7 and all(row["difference"] == 0 for row in errors)
    assert hindsight("compare", result, two_traces, "--quiet").stderr == ""


def test_differences_and_ratios(result, tmp_path):
    other = run_sweep(tmp_path, "--set", "steps.count=20", measure="fidelity")
    done = hindsight("compare", result, other, "--format", "csv")
    assert "other steps or layers" in done.stderr
    rows = [row for row in rows_of(done) if row["metric"] == "rel_l2_final_mean"]
    assert len(rows) == 7
    for row in rows:
        a, b = float(row["a"]), float(row["b"])
        assert a != b
        assert float(row["difference"]) == b - a and float(row["ratio"]) == b / a


def test_files_without_a_common_point_cannot_be_compared(result, tmp_path):
    other = run_sweep(tmp_path, methods="\n  - {name: apart, selector: random, budget: {ratio: 0.5}}\n")
    done = hindsight("compare", result, other, check=False)
    assert done.returncode == 2 and "share no point" in done.stderr and done.stdout == ""


def test_halves_of_a_sweep_merge_into_the_whole(result, two_traces, tmp_path):
    merged = tmp_path / "merged.h5"
    other = run_sweep(
        tmp_path, methods="\n  - {name: apart, selector: random, budget: {ratio: 0.5}}\n"
    )
    done = hindsight("merge", result, other, "-o", merged)
    assert "8 points of 2 files" in done.stderr
    names = [row["name"] for row in rows_of(hindsight("report", merged, "--format", "csv"))]
    assert names[-1] == "apart" and len(names) == 8
    rows = rows_of(hindsight("compare", result, merged, "--quiet", "--format", "csv"))
    assert rows and all(float(row["difference"]) == 0 for row in rows)
    with h5py.File(result) as a, h5py.File(merged) as b:
        for name, point in a["points"].items():
            for series in point:
                np.testing.assert_array_equal(point[series][()], b[f"points/{name}/{series}"][()])


def test_a_merge_that_cannot_be_is_one_line(result, tmp_path):
    fidelity = run_sweep(tmp_path, measure="fidelity")
    for arguments, status, said in (
        ((result, fidelity, "-o", tmp_path / "all.h5"), 2, "measured in the same way"),
        ((result, "-o", result), 4, "another output"),
        ((result, tmp_path / "absent.h5", "-o", tmp_path / "all.h5"), 4, "no such file"),
        ((result,), 2, "--output"),
    ):
        done = hindsight("merge", *arguments, check=False)
        assert done.returncode == status and said in done.stderr, arguments
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "all.h5").exists()
