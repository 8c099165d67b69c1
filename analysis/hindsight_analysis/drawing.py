"""What the figures of a result file are drawn with: colours, axes, and which points make a line."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from hindsight_analysis.lines import (
    Line,
    budget_parameter,
    reference_budget,
    variant_label,
    varying_parameters,
)
from hindsight_analysis.results import Point, Result

# Okabe and Ito's colours, which differ for the colour-blind too; without yellow, light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

BUDGET_LABELS = {
    "budget.ratio": "budget (share of the tokens loaded)",
    "budget.tokens": "budget (tokens loaded)",
}
AXIS_LABELS = BUDGET_LABELS | {
    "page_size": "page size (tokens)",
    "retro.window": "window (queries)",
}


class NoData(Exception):
    """What a figure needs and the result lacks."""


class Style:
    """A colour per method; its variants in shades of it, each with a marker of its own."""

    def __init__(self, points: list[Point]):
        self._methods = list(dict.fromkeys(point.name for point in points))

    def colour(self, name: str, variant: int = 0, n_variants: int = 1) -> tuple[float, ...]:
        base = np.array(to_rgb(COLOURS[self._methods.index(name) % len(COLOURS)]))
        lightness = 0.65 * (1 - (variant + 1) / n_variants)
        return tuple(base + (1 - base) * lightness)

    def options(self, line: Line) -> dict:
        marker = MARKERS[(self._methods.index(line.name) + line.variant) % len(MARKERS)]
        return dict(
            color=self.colour(line.name, line.variant, line.n_variants),
            marker=marker,
            linestyle=("-", "--", "-.", ":")[self._methods.index(line.name) // len(COLOURS) % 4],
            label=line.label,
        )


def new_figure(title: str, width: float = 8.0, height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_legend(axes: Axes) -> None:
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, borderaxespad=0
    )


def log_axis(axes: Axes, values: list[float], label: str) -> None:
    """A logarithmic x axis with a tick at every value that was run, as far as there is room."""
    ticks = sorted(set(values))
    while len(ticks) > 12:
        ticks = ticks[::2]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(label)


def having(result: Result, metric: str) -> list[Point]:
    points = [point for point in result.points if not np.isnan(point.metrics.get(metric, np.nan))]
    if not points:
        raise NoData(f"no point has {metric}")
    return points


def draw_lines(axes: Axes, lines: list[Line], style: Style) -> None:
    """Lines, with the intervals of means over several traces."""
    for line in lines:
        options = style.options(line)
        axes.plot(line.x, line.y, **options)
        if any(line.interval):
            axes.errorbar(
                line.x,
                line.y,
                line.interval,
                fmt="none",
                ecolor=options["color"],
                capsize=2.5,
                lw=0.9,
            )


def at_reference_budget(result: Result, metric: str) -> tuple[str, list[Point]]:
    """The points of one budget, and what to call it. Points without one (dense) belong to all."""
    points = having(result, metric)
    budget = budget_parameter(points)
    if budget is None:
        return "no budget", points
    value = reference_budget(points, budget)
    return f"budget {value:g}", [
        point for point in points if point.parameters.get(budget, value) == value
    ]


def variants(points: list[Point]) -> list[tuple[Line, list[Point]]]:
    """Points in groups that differ in the trace alone, each with what to call and draw it as."""
    varying = varying_parameters(points, apart_from=None)
    groups: dict[tuple[str, tuple], list[Point]] = {}
    for point in points:
        key = (
            point.name,
            tuple(point.parameters.get(parameter) for parameter in varying[point.name]),
        )
        groups.setdefault(key, []).append(point)
    found = []
    for name, values in groups:
        of_method = [key for key in groups if key[0] == name]
        label = variant_label(name, varying[name], values)
        line = Line(name, label, of_method.index((name, values)), len(of_method), [], [])
        found.append((line, groups[name, values]))
    return found
