"""Differences between methods on the same sequences, with bootstrap intervals.

    python -m hindsight_analysis.paired RESULT.h5 --metric accuracy --against quest

Sequences differ far more from each other than methods do on one of them: a difference is taken
sequence by sequence, and the interval is over sequences.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hindsight_analysis.errors import INPUT, CommandError, OneLineParser, run_command
from hindsight_analysis.results import Point, Result, load_result

BUDGET = ("budget.ratio", "budget.tokens", "budget.min_tokens")


@dataclass(frozen=True)
class Difference:
    """Of a method's mean from that of the other with the same budget, over n sequences."""

    name: str
    parameters: dict[str, object]  # those in which it differs from other points of its name
    sequences: int
    other: float  # mean of the method compared with
    mean: float
    low: float  # 95 % interval of the mean difference
    high: float


def per_sequence(result: Result, point: Point, metric: str) -> np.ndarray:
    """A value for every sequence: the mean over its steps. Raises CommandError."""
    series = result.series(point)
    if metric not in series or "sequence" not in series[metric].dims:
        known = sorted(str(name) for name in series.data_vars if "sequence" in series[name].dims)
        raise CommandError(
            INPUT,
            f"{result.file}: point {point.id} has no {metric} by sequence; "
            f"it has {', '.join(known) or 'none'}",
        )
    values = series[metric]
    over = [dim for dim in values.dims if dim != "sequence"]
    # Values that are means of several steps count as often as there were steps.
    if "step" in over and "averaged_steps" in series:
        values = values.weighted(series["averaged_steps"].astype(float))
    return values.mean(over).values.astype(float)


def interval(differences: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, by drawing sequences with replacement."""
    drawn = np.random.default_rng(seed).integers(0, len(differences), (samples, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def differences(
    result: Result, metric: str, against: str, samples: int = 10000, seed: int = 0
) -> list[Difference]:
    """Of every method from `against` with the same budget, over the sequences of all files.

    Raises CommandError.
    """

    def budget(point: Point) -> tuple:
        return tuple(point.parameters.get(name) for name in BUDGET)

    def is_like(point: Point, other: Point) -> bool:
        return (point.name, point.parameters) == (other.name, other.parameters)

    others = {
        (point.trace, budget(point)): point for point in result.points if point.name == against
    }
    if not others:
        names = sorted({point.name for point in result.points})
        raise CommandError(
            INPUT, f"--against {against}: no such method; {', '.join(names)} would be right"
        )
    varying = {
        name
        for name in {name for point in result.points for name in point.parameters}
        if len({str(point.parameters.get(name)) for point in result.points}) > 1
    }
    found, done = [], []
    for first in result.points:
        if first.name == against or any(is_like(first, point) for point in done):
            continue
        done.append(first)
        pairs = [
            (point, others[point.trace, budget(point)])
            for point in result.points
            if is_like(point, first) and (point.trace, budget(point)) in others
        ]
        if not pairs:
            continue
        own = np.concatenate([per_sequence(result, point, metric) for point, _ in pairs])
        other = np.concatenate([per_sequence(result, point, metric) for _, point in pairs])
        defined = ~(np.isnan(own) | np.isnan(other))
        if not defined.any():
            continue
        difference = (own - other)[defined]
        low, high = interval(difference, samples, seed)
        parameters = {name: value for name, value in first.parameters.items() if name in varying}
        found.append(
            Difference(
                first.name,
                parameters,
                len(difference),
                float(other[defined].mean()),
                float(difference.mean()),
                low,
                high,
            )
        )
    return found


def markdown(rows: list[Difference], metric: str, against: str) -> str:
    """A table for people."""
    shown = [
        name
        for name in (
            "budget.ratio",
            "budget.tokens",
            "retro.window",
            "retro.query",
            "retro.refresh",
            "retro.summaries",
        )
        if any(name in row.parameters for row in rows)
    ]
    lines = [
        "| "
        + " | ".join(
            ["name", *shown, "sequences", f"{metric} of {against}", "difference", "95 % interval"]
        )
        + " |",
        "|" + "---|" * (len(shown) + 5),
    ]
    for row in rows:
        cells = [
            row.name,
            *(str(row.parameters.get(name, "-")) for name in shown),
            str(row.sequences),
        ]
        cells += [f"{row.other:.4f}", f"{row.mean:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(argv: list[str] | None) -> None:
    parser = OneLineParser(
        prog="python -m hindsight_analysis.paired",
        description="Differences between methods on the same sequences, with bootstrap intervals.",
        epilog="Example: python -m hindsight_analysis.paired results/closed_loop/tasks.h5 "
        "--metric accuracy --against quest",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "result", type=Path, metavar="RESULT.h5", help="result file of hindsight eval"
    )
    parser.add_argument(
        "--metric", required=True, help="series by sequence, e.g. accuracy or delta_nll"
    )
    parser.add_argument(
        "--against", required=True, metavar="NAME", help="method that others are compared with"
    )
    parser.add_argument("--samples", type=int, default=10000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args(argv)
    rows = differences(
        load_result(options.result), options.metric, options.against, options.samples, options.seed
    )
    if not rows:
        raise CommandError(
            INPUT, f"{options.result}: no method has the budget of {options.against}"
        )
    print(markdown(rows, options.metric, options.against))


def main(argv: list[str] | None = None) -> int:
    return run_command("paired", lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
