"""Figures of a result file.

    python -m hindsight_analysis.figures RESULT.h5 [--out DIR] [--format png|svg|pdf]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from hindsight_analysis.results import Point, ResultError, Results

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
MARKERS = "osD^vP*X"
STAGES = ["append", "score", "select", "attend", "merge"]
# What RetroAttention (arXiv 2508.09001) reports: later steps n = w - 1 and effective KV exposure.
REPORTED_EXPOSURE = [(1, 1.17), (7, 1.60)]


class Missing(Exception):
    """What a figure needs and the file lacks."""


def label_of(point: Point) -> str:
    return f"{point.name}, w = {point.window}" if "retro.window" in point.group.attrs else point.name


def by_label(points: list[Point], needed: str) -> dict[str, list[Point]]:
    """Points that have a column and a budget below 1, by label, in ascending budget."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.budget is None or point.budget >= 1 or np.isnan(float(point.row.get(needed, np.nan))):
            continue
        groups.setdefault(label_of(point), []).append(point)
    if not groups:
        raise Missing(f"points with a budget.ratio below 1 and {needed}")
    return {label: sorted(group, key=lambda p: p.budget) for label, group in groups.items()}


def against_budget(axes, points: list[Point], column: str) -> None:
    """A line per method. Several traces: their mean, and their range as a band."""
    every_budget = set()
    for i, (label, group) in enumerate(by_label(points, column).items()):
        budgets = sorted({point.budget for point in group})
        values = [[float(p.row[column]) for p in group if p.budget == budget] for budget in budgets]
        every_budget.update(budgets)
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            budgets, [np.mean(v) for v in values], marker=MARKERS[i % len(MARKERS)], color=colour, label=label
        )
        if any(len(v) > 1 for v in values):
            axes.fill_between(
                budgets, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15
            )
    axes.set_xlabel("budget (share of the context)")
    axes.set_xticks(sorted(every_budget))
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))


def error_against_budget(axes, points: list[Point]) -> None:
    against_budget(axes, points, "rel_l2_final_mean")
    axes.set_ylabel("relative L2 error of outputs, final")
    axes.set_yscale("log")
    axes.set_title("Error against budget")
    axes.legend(fontsize="small", ncols=2)


def mass_recall(axes, points: list[Point]) -> None:
    against_budget(axes, points, "mass_recall_final_mean")
    axes.set_ylabel("softmax mass shown, final")
    axes.set_title("Mass recall")
    axes.legend(fontsize="small", ncols=2)


def overlap(axes, points: list[Point]) -> None:
    unrefined = [point for point in points if "retro.window" not in point.group.attrs]
    against_budget(axes, unrefined, "page_overlap_mean")
    axes.set_ylabel("pages loaded by the step before too")
    axes.set_ylim(0, 1.02)
    axes.set_title("Overlap of page sets between steps")
    axes.legend(fontsize="small")


def exposure_against_window(axes, points: list[Point]) -> None:
    refined = [p for p in points if "retro.window" in p.group.attrs and p.budget is not None and p.budget < 1]
    refined = [p for p in refined if "effective_exposure_mean" in p.row]
    if not refined:
        raise Missing("refined points (retro.window) with effective_exposure_mean")
    for i, budget in enumerate(sorted({point.budget for point in refined})):
        group = [point for point in refined if point.budget == budget]
        windows = sorted({point.window for point in group})
        means = [
            np.mean([float(p.row["effective_exposure_mean"]) for p in group if p.window == window])
            for window in windows
        ]
        axes.plot(
            [window - 1 for window in windows],
            means,
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            label=f"budget {budget:.0%}",
        )
    axes.plot(*zip(*REPORTED_EXPOSURE), "kx", markersize=9, label="reported (arXiv 2508.09001)")
    axes.set_xlabel("later steps that a query sees, n = w - 1")
    axes.set_ylabel("effective KV exposure")
    axes.set_title("Exposure against window")
    axes.legend(fontsize="small")


def middle_budget(points: list[Point]) -> float:
    """The budget nearest to 0.15, that of the paper's experiments."""
    budgets = {point.budget for point in points if point.budget is not None and point.budget < 1}
    if not budgets:
        raise Missing("points with a budget.ratio below 1")
    return min(budgets, key=lambda budget: abs(budget - 0.15))


def cumulative_error(axes, points: list[Point]) -> None:
    budget = middle_budget(points)
    drawn = 0
    for point in points:
        values = point.series("cumulative_error")
        if point.budget != budget or values is None:
            continue
        steps = point.group["step"][...]
        mean = np.nanmean(values, axis=(1, 2))
        axes.plot(steps, mean, color=COLOURS[drawn % len(COLOURS)], label=label_of(point), linewidth=1.5)
        drawn += 1
    if not drawn:
        raise Missing("cumulative_error")
    axes.set_xlabel("decode step")
    axes.set_ylabel("running mean of the final error")
    axes.set_title(f"Cumulative error, budget {budget:.0%}")
    axes.legend(fontsize="small", ncols=2)


def latency_stages(axes, points: list[Point]) -> None:
    budget = middle_budget(points)
    chosen = [p for p in points if p.budget == budget or p.budget is None]
    chosen = [p for p in chosen if p.series("latency_us_total") is not None]
    if not chosen:
        raise Missing("latency measurements")
    left = np.zeros(len(chosen))
    rows = np.arange(len(chosen))
    for i, stage in enumerate(STAGES):
        times = np.array([np.median(point.series(f"latency_us_{stage}")) for point in chosen])
        axes.barh(rows, times, left=left, color=COLOURS[i], label=stage)
        left += times
    axes.set_yticks(rows, [label_of(point) for point in chosen])
    axes.invert_yaxis()
    axes.set_xlabel("median time of a step and layer, us")
    axes.set_title(f"Latency by stage, budget {budget:.0%}")
    axes.legend(fontsize="small")


FIGURES: dict[str, Callable] = {
    "error_against_budget": error_against_budget,
    "exposure_against_window": exposure_against_window,
    "cumulative_error": cumulative_error,
    "mass_recall": mass_recall,
    "page_overlap": overlap,
    "latency_stages": latency_stages,
}


def draw(results: Results, out: Path, kind: str) -> list[Path]:
    """Draws every figure that the file has the data for; returns the files written."""
    out.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(
        {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    )
    plt.rcParams["svg.hashsalt"] = "hindsight"  # the same result, the same bytes
    written = []
    for name, figure_of in FIGURES.items():
        figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
        try:
            figure_of(axes, results.points)
        except Missing as missing:
            print(f"figures: {name} is left out: the file has no {missing}", file=sys.stderr)
        else:
            file = out / f"{name}.{kind}"
            metadata = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(file, dpi=150, metadata=metadata)
            written.append(file)
        plt.close(figure)
    return written


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hindsight_analysis.figures",
        description="Draw the figures of a result file.",
        epilog="Example: python -m hindsight_analysis.figures results/quickstart.h5 --out results/figures",
    )
    parser.add_argument("result", type=Path, help="result file")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures (figures)")
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png")
    arguments = parser.parse_args(argv)
    try:
        with Results(arguments.result) as results:
            for file in draw(results, arguments.out, arguments.format):
                print(file)
    except (ResultError, OSError) as error:
        print(f"figures: error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
