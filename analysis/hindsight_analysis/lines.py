"""From the points of a sweep to the lines of a figure: what varies along and between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hindsight_analysis.results import Point

BUDGETS = ("budget.ratio", "budget.tokens")


@dataclass
class Line:
    """A method, or one of its variants, along some x. y is the mean over traces, `interval` the half width of
    its 95 % confidence interval (0 of a single trace)."""

    name: str  # of the method
    label: str
    variant: int  # which of n_variants lines of the method
    n_variants: int
    x: list[float]
    y: list[float]
    interval: list[float] = field(default_factory=list)
    members: list[list[Point]] = field(default_factory=list)  # the points of every x


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal one.
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_interval(values: list[float]) -> float:
    """Half width of the 95 % confidence interval of the mean; 0 of a single value, which has none."""
    degrees = len(values) - 1
    if degrees < 1:
        return 0.0
    t = STUDENT_T[degrees - 1] if degrees <= len(STUDENT_T) else 1.96
    return t * float(np.std(values, ddof=1)) / len(values) ** 0.5


def budget_parameter(points: list[Point]) -> str | None:
    """The parameter that gives most points their budget."""
    counts = {name: sum(name in point.parameters for point in points) for name in BUDGETS}
    best = max(BUDGETS, key=lambda name: counts[name])
    return best if counts[best] else None


def reference_budget(points: list[Point], budget: str) -> float:
    """The budget that most methods were run with; of several the one in the middle."""
    methods: dict[float, set[str]] = {}
    for point in points:
        if budget in point.parameters:
            methods.setdefault(point.parameters[budget], set()).add(point.name)
    most = max(len(names) for names in methods.values())
    shared = sorted(value for value, names in methods.items() if len(names) == most)
    return shared[len(shared) // 2]


def axis_parameter(points: list[Point]) -> str | None:
    """What to draw a metric against: the budget where it varies within a method, else the number that takes
    most values; None where only words vary. The window comes last: it has a figure of its own."""
    values: dict[str, int] = {}
    for name in dict.fromkeys(point.name for point in points):
        of_method = [point.parameters for point in points if point.name == name]
        for parameter in {parameter for parameters in of_method for parameter in parameters}:
            found = {parameters.get(parameter) for parameters in of_method}
            if all(isinstance(value, (int, float)) and value > 0 for value in found):
                values[parameter] = max(values.get(parameter, 0), len(found))
    varying = {parameter: count for parameter, count in values.items() if count > 1}
    budget = budget_parameter(points)
    if budget in varying:
        return budget
    return max(varying, key=lambda p: (varying[p], p != "retro.window", p), default=None)


def varying_parameters(points: list[Point], apart_from: str | None) -> dict[str, list[str]]:
    """By method, the parameters in which its points differ; `apart_from` does not count."""
    varying = {}
    for name in dict.fromkeys(point.name for point in points):
        values: dict[str, set] = {}
        for point in points:
            if point.name == name:
                for parameter, value in point.parameters.items():
                    values.setdefault(parameter, set()).add(value)
        varying[name] = [p for p in sorted(values) if len(values[p]) > 1 and p != apart_from]
    return varying


def by_values(points: list[Point]) -> list[Point]:
    """Methods as they come, a method's points by their numbers, so that lines of windows and budgets go from
    small to large whichever was measured first; words keep the order that they come in."""
    varying = varying_parameters(points, None)
    methods = list(varying)

    def ranks(name: str, parameter: str) -> dict:
        found = dict.fromkeys(p.parameters.get(parameter) for p in points if p.name == name)
        if all(value is None or isinstance(value, (int, float)) for value in found):
            found = sorted(found, key=lambda value: (value is not None, value or 0))
        return {value: rank for rank, value in enumerate(found)}

    rank_of = {(name, p): ranks(name, p) for name in methods for p in varying[name]}
    return sorted(
        points,
        key=lambda point: (
            methods.index(point.name),
            [rank_of[point.name, p][point.parameters.get(p)] for p in varying[point.name]],
        ),
    )


def parameter_words(parameter: str) -> str:
    """A parameter as figures name it: "retro.window" is "window"."""
    return "budget" if parameter in BUDGETS else parameter.rsplit(".", 1)[-1].replace("_", " ")


def variant_label(name: str, parameters: list[str], values: tuple) -> str:
    """E.g. "retro, window 4": the method, and what tells this variant from its others."""

    def said(value) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    given = [
        f"{parameter_words(parameter)} {said(value)}"
        for parameter, value in zip(parameters, values)
        if value is not None
    ]
    return ", ".join([name, *given])


def lines_along(points: list[Point], x: str, y: Callable[[Point], float]) -> list[Line]:
    """A line per variant of every method whose points have the parameter x and a y."""
    points = [point for point in points if x in point.parameters and not np.isnan(y(point))]
    varying = varying_parameters(points, x)
    groups: dict[tuple[str, tuple], dict[float, list[Point]]] = {}
    for point in points:
        key = (
            point.name,
            tuple(point.parameters.get(parameter) for parameter in varying[point.name]),
        )
        groups.setdefault(key, {}).setdefault(point.parameters[x], []).append(point)
    variants: dict[str, list[tuple]] = {}
    for name, values in groups:
        variants.setdefault(name, []).append(values)
    lines = []
    for (name, values), found in groups.items():
        along = sorted(found)
        values_of = [[y(point) for point in found[value]] for value in along]
        lines.append(
            Line(
                name,
                variant_label(name, varying[name], values),
                variants[name].index(values),
                len(variants[name]),
                along,
                [float(np.mean(ys)) for ys in values_of],
                [mean_interval(ys) for ys in values_of],
                [found[value] for value in along],
            )
        )
    return lines


def merge_coincident(lines: list[Line]) -> list[Line]:
    """One line where several lie on each other: the hidden ones would look as if missing."""
    merged: list[tuple[Line, list[Line]]] = []
    for line in lines:
        for first, members in merged:
            if line.x == first.x and np.allclose(line.y, first.y, rtol=1e-6, atol=1e-9):
                members.append(line)
                break
        else:
            merged.append((line, [line]))
    for first, members in merged:
        first.label = joined_labels([member.label for member in members])
    return [first for first, _ in merged]


def joined_labels(labels: list[str]) -> str:
    """Labels as one, beginnings said once: "retro, window 1 / 2", "quest = retro, window 1"."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        start, _, last = label.rpartition(" ")
        groups.setdefault(start, []).append(last)
    return " = ".join(f"{start} {' / '.join(ends)}".strip() for start, ends in groups.items())
