"""Paired differences: sequence by sequence, over all files, with intervals that are seeded."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hindsight_analysis.errors import CommandError
from hindsight_analysis.paired import differences, interval, main, per_sequence
from hindsight_analysis.results import load_result

# (trace, name, budget.ratio, retro.window, accuracy of each sequence)
POINTS = [
    ("a.jsonl", "quest", 0.1, 0, [0.2, 0.4, 0.6]),
    ("a.jsonl", "quest", 0.2, 0, [0.5, 0.5, 0.5]),
    ("a.jsonl", "retro", 0.1, 2, [0.3, 0.5, 0.7]),
    ("a.jsonl", "retro", 0.2, 2, [0.5, 0.5, 0.2]),
    ("b.jsonl", "quest", 0.1, 0, [0.0, np.nan]),
    ("b.jsonl", "retro", 0.1, 2, [0.1, 0.9]),
]


@pytest.fixture()
def result(tmp_path: Path) -> Path:
    file = tmp_path / "r.h5"
    with h5py.File(file, "w") as h5:
        h5.attrs["format"], h5.attrs["format_version"], h5.attrs["device"] = (
            "hindsight-result",
            1,
            "CPU, 1 thread",
        )
        columns = [
            ("point", "S2"),
            ("trace", "S8"),
            ("name", "S8"),
            ("selector", "S8"),
            ("accuracy_mean", float),
        ]
        rows = []
        for i, (trace, name, ratio, window, accuracy) in enumerate(POINTS):
            group = h5.create_group(f"points/p{i}")
            attributes = {
                "name": name,
                "selector": "quest",
                "trace": trace,
                "budget.ratio": ratio,
                "steps": "0-end",
            }
            if window:
                attributes["retro.window"] = window
            group.attrs.update(attributes)
            group["sequence"] = np.arange(len(accuracy))
            group["sequence"].make_scale("sequence")
            group["accuracy"] = np.array(accuracy, np.float32)
            group["accuracy"].dims[0].attach_scale(group["sequence"])
            rows.append((f"p{i}", trace, name, "quest", float(np.nanmean(accuracy))))
        h5["summary"] = np.array(rows, columns)
    return file


def test_differences_are_taken_sequence_by_sequence(result: Path) -> None:
    low, high = differences(load_result(result), "accuracy", "quest")
    assert low.name == high.name == "retro"
    assert (low.parameters["budget.ratio"], high.parameters["budget.ratio"]) == (0.1, 0.2)
    # Three of a.jsonl and one of b.jsonl; undefined ones are left out.
    assert (
        low.sequences == 4
        and low.mean == pytest.approx(0.1, abs=1e-6)
        and low.other == pytest.approx(0.3)
    )
    # All differences are the same, though the sequences are not: nothing is left to chance.
    assert low.low == pytest.approx(0.1, abs=1e-6) and low.high == pytest.approx(0.1, abs=1e-6)
    assert high.sequences == 3 and high.mean == pytest.approx(-0.1) and high.low < -0.1 < high.high


def test_means_of_steps_count_as_often_as_there_were_steps(result: Path) -> None:
    with h5py.File(result, "a") as h5:
        for point in h5["points"].values():
            point["step"] = np.array([0, 10])
            point["step"].make_scale("step")
            n = len(point["sequence"])
            for name, values in (
                ("nll", np.tile(np.float32([1, 5]), (n, 1))),
                ("averaged_steps", np.tile(np.int64([10, 1]), (n, 1))),
            ):
                point[name] = values
                point[name].dims[0].attach_scale(point["sequence"])
                point[name].dims[1].attach_scale(point["step"])
    loaded = load_result(result)
    values = per_sequence(loaded, loaded.points[0], "nll")
    np.testing.assert_allclose(values, (10 * 1 + 5) / 11)


def test_an_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = interval(rng.normal(0.5, 1, 60), 500, seed)
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 199  # 95 % of 200, within four standard errors


def test_what_is_not_there_is_named(result: Path, capsys: pytest.CaptureFixture) -> None:
    for metric, against, said in (
        ("nll", "quest", "it has accuracy"),
        ("accuracy", "full", "quest, retro would be right"),
    ):
        with pytest.raises(CommandError, match=said):
            differences(load_result(result), metric, against)
    assert main([str(result), "--metric", "accuracy", "--against", "quest"]) == 0
    assert "| retro | 0.1 | 2 | 4 | 0.3000 | +0.1000 |" in capsys.readouterr().out
    assert main([str(result.parent / "none.h5"), "--metric", "accuracy", "--against", "quest"]) == 3
