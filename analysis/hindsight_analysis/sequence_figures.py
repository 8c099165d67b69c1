"""Figures of what a model that decodes did to sequences (hindsight eval), with 95 % bootstrap intervals over sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from hindsight_analysis.drawing import (
    AXIS_LABELS,
    NoData,
    Style,
    add_legend,
    at_reference_budget,
    having,
    log_axis,
    new_figure,
    variants,
)
from hindsight_analysis.lines import budget_parameter, lines_along, merge_coincident
from hindsight_analysis.paired import interval, per_sequence
from hindsight_analysis.results import Point, Result

SAMPLES = 2000  # draws of a bootstrap


def of_sequences(result: Result, points: list[Point], metric: str) -> np.ndarray:
    """A value of every sequence of the points' files."""
    values = np.concatenate([per_sequence(result, point, metric) for point in points])
    return values[~np.isnan(values)]


def by_budget(result: Result, metric: str, title: str, y_label: str) -> Figure:
    """The mean over all sequences against the budget; without a budget, a level for all of them."""
    points = having(result, f"{metric}_mean")
    budget = budget_parameter(points)
    if budget is None:
        raise NoData("no point has a budget")
    figure, axes = new_figure(title)
    style = Style(result.points)
    for line, members in variants([point for point in points if budget not in point.parameters]):
        values = of_sequences(result, members, metric)
        axes.axhline(values.mean(), color="#666666", linestyle="--", lw=1, label=line.label)
    lines = lines_along(points, budget, lambda point: point.metrics[f"{metric}_mean"])
    for line in lines:
        found = [of_sequences(result, members, metric) for members in line.members]
        line.y = [float(values.mean()) for values in found]
        bounds = [interval(values, SAMPLES, 0) for values in found]
        line.interval = [
            [y - low for y, (low, _) in zip(line.y, bounds)],
            [high - y for y, (_, high) in zip(line.y, bounds)],
        ]
    for line in merge_coincident(lines):
        options = style.options(line)
        axes.errorbar(line.x, line.y, line.interval, capsize=2.5, lw=1.2, **options)
    log_axis(axes, [x for line in lines for x in line.x], AXIS_LABELS[budget])
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    add_legend(axes)
    return figure


def by_step(result: Result, metric: str, title: str, y_label: str) -> Figure:
    """The mean over all sequences against the decode step, with its interval as a band."""
    said, points = at_reference_budget(result, "delta_nll_mean")
    figure, axes = new_figure(f"{title} ({said})")
    style = Style(result.points)
    drawn = False
    for line, members in variants(points):
        datasets = [result.series(point) for point in members]
        if not all(metric in dataset and "step" in dataset[metric].dims for dataset in datasets):
            continue
        longest = max(datasets, key=lambda dataset: dataset.sizes["step"])["step"].values
        rows = np.concatenate(
            [
                dataset[metric].transpose("sequence", "step").reindex(step=longest).values
                for dataset in datasets
            ]
        )
        # A step that few sequences reach says little of the others.
        reached = (~np.isnan(rows)).sum(0) >= max(2, len(rows) // 2)
        steps, rows = longest[reached], rows[:, reached]
        if not len(steps):
            continue
        drawn = True
        options = style.options(line)
        axes.plot(
            steps, np.nanmean(rows, 0), markevery=max(1, len(steps) // 8), markersize=5, **options
        )
        bounds = np.array([interval(column[~np.isnan(column)], SAMPLES, 0) for column in rows.T])
        axes.fill_between(
            steps, bounds[:, 0], bounds[:, 1], color=options["color"], alpha=0.15, lw=0
        )
    if not drawn:
        raise NoData(f"no point has {metric} of two sequences by step")
    axes.set_xlabel("decode step")
    axes.set_ylabel(y_label)
    add_legend(axes)
    return figure


SEQUENCE_FIGURES: dict[str, Callable[[Result], Figure]] = {
    "accuracy_by_budget": lambda result: by_budget(
        result, "accuracy", "Answers that are right", "accuracy (mean over sequences)"
    ),
    "delta_nll_by_budget": lambda result: by_budget(
        result, "delta_nll", "What sparse attention loses", "nll less that of dense attention, nats"
    ),
    "delta_nll_by_step": lambda result: by_step(
        result,
        "delta_nll",
        "What sparse attention loses",
        "nll less that of dense attention, nats",
    ),
    "hidden_error_by_step": lambda result: by_step(
        result,
        "sequence_hidden_rel_l2_first",
        "Error of the newest position",
        "relative L2 error of the residual stream",
    ),
    "hidden_error_final_by_step": lambda result: by_step(
        result,
        "sequence_hidden_rel_l2_final",
        "Error of positions that leave their window",
        "relative L2 error of the residual stream",
    ),
}
