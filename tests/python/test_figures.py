"""Figures of the results of a small sweep, made by the program itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hindsight_analysis import figures
from hindsight_analysis.results import ResultError, Results

SWEEP = """
version: 1
traces: [trace.h5]
measure: [{measure}]
repeats: 2
methods:
  - {{name: quest, selector: quest, grid: {{budget.ratio: [0.1, 0.3]}}}}
  - {{name: retro, selector: quest, grid: {{budget.ratio: [0.1, 0.3], retro.window: [2, 4]}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    binary = os.environ.get("HINDSIGHT_BIN")
    if not binary:
        pytest.skip("HINDSIGHT_BIN does not name the program")
    folder = tmp_path_factory.mktemp("figures")
    run = lambda *words: subprocess.run([binary, *words, "--quiet"], check=True, cwd=folder)
    run("trace", "synth", "-o", "trace.h5", "--tokens", "300", "--prompt-tokens", "260", "--layers", "3")
    for name, measure in (("both", "fidelity, latency"), ("latency", "latency")):
        (folder / f"{name}.yaml").write_text(SWEEP.format(measure=measure))
        run("run", f"{name}.yaml", "-o", f"{name}.h5")
    return folder


def test_every_figure_is_drawn(folder: Path, capsys) -> None:
    assert figures.main([str(folder / "both.h5"), "--out", str(folder / "out"), "--format", "svg"]) == 0
    drawn = {Path(line).stem for line in capsys.readouterr().out.splitlines()}
    assert drawn == set(figures.FIGURES)
    for name in drawn:
        assert (folder / "out" / f"{name}.svg").stat().st_size > 1000


def test_the_same_results_give_the_same_bytes(folder: Path) -> None:
    for out in ("a", "b"):
        figures.main([str(folder / "both.h5"), "--out", str(folder / out), "--format", "svg"])
    for name in figures.FIGURES:
        assert (folder / "a" / f"{name}.svg").read_bytes() == (folder / "b" / f"{name}.svg").read_bytes()


def test_what_lacks_its_data_is_left_out_and_said(folder: Path, capsys) -> None:
    assert figures.main([str(folder / "latency.h5"), "--out", str(folder / "some")]) == 0
    captured = capsys.readouterr()
    assert {Path(line).stem for line in captured.out.splitlines()} == {"latency_stages"}
    assert "error_against_budget is left out" in captured.err


def test_results_are_read_as_they_were_written(folder: Path) -> None:
    with Results(folder / "both.h5") as results:
        assert [point.name for point in results.points] == ["quest"] * 2 + ["retro"] * 4
        assert [point.window for point in results.points] == [1, 1, 2, 4, 2, 4]
        for point in results.points:
            final = point.series("rel_l2_final")
            assert final.shape == (40, 1, 8)
            assert np.nanmean(final) == pytest.approx(float(point.row["rel_l2_final_mean"]), rel=1e-5)


def test_another_file_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.h5").write_text("no result")
    with pytest.raises(ResultError):
        Results(tmp_path / "x.h5")
    assert figures.main([str(tmp_path / "x.h5")]) == 4
    assert "error" in capsys.readouterr().err
