"""The quickstart sweep on the trace that comes with the project: what README says of it, and its table."""

from __future__ import annotations

import csv
import io
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
from results_sweep import hindsight

pytestmark = pytest.mark.skipif("HINDSIGHT_BIN" not in os.environ, reason="HINDSIGHT_BIN does not name the program")

ROOT = Path(__file__).parents[2]
ROUNDING = 1e-6  # "up to rounding": what the error of dense attention in float is far below


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> list[dict[str, str]]:
    result = tmp_path_factory.mktemp("quickstart") / "r.h5"
    sweep = ROOT / "configs" / "quickstart.yaml"
    hindsight("run", sweep, "--device", "cpu", "--set", "measure=[fidelity]", "-o", result)
    return list(csv.DictReader(io.StringIO(hindsight("report", result, "--format", "csv").stdout)))


def by_key(rows: list[dict[str, str]], name: str) -> dict[tuple[float, int], dict[str, str]]:
    return {
        (float(row["budget.ratio"] or 0), int(row["retro.window"] or 0)): row for row in rows if row["name"] == name
    }


def test_retro_lowers_the_error_and_shows_more_with_every_doubling_of_the_window(report) -> None:
    quest, retro = by_key(report, "quest"), by_key(report, "retro")
    ratios = [ratio for ratio, _ in quest if ratio < 1]
    windows = [1, 2, 4, 8]
    assert len(ratios) == 4 and set(retro) == {(ratio, w) for ratio in [*ratios, 1.0] for w in windows}
    for ratio in ratios:
        for column, grows in (("rel_l2_final_mean", False), ("effective_exposure_mean", True)):
            along = [float(retro[ratio, window][column]) for window in windows]
            assert all((b > a) == grows and a != b for a, b in pairwise(along)), (ratio, column, along)
        for window in windows[1:]:
            assert float(retro[ratio, window]["rel_l2_final_mean"]) < float(quest[ratio, 0]["rel_l2_final_mean"])
            assert float(retro[ratio, window]["effective_exposure_mean"]) > 1


def test_a_window_of_one_is_quest_and_a_budget_of_one_is_dense(report) -> None:
    quest, retro = by_key(report, "quest"), by_key(report, "retro")
    own = ("point", "name", "retro.window")
    for ratio, _ in quest:
        a, b = quest[ratio, 0], retro[ratio, 1]
        assert {k: v for k, v in a.items() if k not in own} == {k: v for k, v in b.items() if k not in own}
    for row in [quest[1.0, 0], *(retro[1.0, window] for window in (1, 2, 4, 8))]:
        assert float(row["rel_l2_final_mean"]) < ROUNDING
        assert float(row["mass_recall_final_mean"]) == pytest.approx(1, abs=ROUNDING)


def readme_rows() -> list[dict[str, str]]:
    """The first table of README whose first column is a method's name."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| name ") and "rel_l2_final_mean" in line)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    head = cells[0]
    return [dict(zip(head, row)) for row in cells[2:] if len(row) == len(head)]


def test_the_table_in_readme_is_what_the_program_prints(report) -> None:
    shown = readme_rows()
    assert len(shown) > 10
    for row in shown:
        key = (float(row["budget.ratio"].replace("-", "0")), int(row["retro.window"].replace("-", "0")))
        actual = by_key(report, row["name"])[key]
        for column, text in row.items():
            if column in ("name", "budget.ratio", "retro.window"):
                continue
            # Four digits are shown. What is nothing but rounding differs from one processor to another.
            assert math.isclose(float(text), float(actual[column]), rel_tol=6e-4, abs_tol=ROUNDING), (row, column)
