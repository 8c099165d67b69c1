"""Draws the figures of a result file.

python -m hindsight_analysis.figures RESULT.h5 [--out DIR] [--format png|svg|pdf]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hindsight_analysis.drawing import (
    AXIS_LABELS,
    BUDGET_LABELS,
    COLOURS,
    NoData,
    Style,
    add_legend,
    at_reference_budget,
    draw_lines,
    having,
    log_axis,
    new_figure,
    variants,
)
from hindsight_analysis.errors import ENVIRONMENT, INPUT, CommandError, OneLineParser, run_command
from hindsight_analysis.lines import (
    axis_parameter,
    by_values,
    lines_along,
    mean_interval,
    merge_coincident,
    parameter_words,
)
from hindsight_analysis.results import Point, Result, load_result
from hindsight_analysis.sequence_figures import SEQUENCE_FIGURES

HATCHES = ("", "///", "...", "xxx", "---")
STAGES = ("append", "score", "select", "attend", "merge")

# Effective exposure as reported for RetroAttention, for 1 and 7 revisions of a query: windows of
# 2 and 8.
REPORTED_EXPOSURE = {2: 1.17, 8: 1.60}


def metric_figure(result: Result, metric: str, title: str, y_label: str) -> Figure:
    """A metric of the summary against the budget, or what else was varied; a line per method."""
    points = having(result, metric)
    along = axis_parameter(points)
    if along is None:
        return dot_figure(result, points, metric, title, y_label)
    lines = merge_coincident(lines_along(points, along, lambda point: point.metrics[metric]))
    figure, axes = new_figure(title)
    draw_lines(axes, lines, Style(result.points))
    others = sum(
        along not in p.parameters and any(b in p.parameters for b in BUDGET_LABELS) for p in points
    )
    left_out = f"; {others} points with another kind of budget left out" if others else ""
    said = AXIS_LABELS.get(along, parameter_words(along))
    log_axis(axes, [x for line in lines for x in line.x], said + left_out)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


def dot_figure(
    result: Result, points: list[Point], metric: str, title: str, x_label: str
) -> Figure:
    """A metric of variants that differ in words alone: a row for each, named at its left."""
    groups = variants(points)
    figure, axes = new_figure(title, height=1.4 + 0.32 * len(groups))
    style = Style(result.points)
    for line, members in groups:
        values = [member.metrics[metric] for member in members]
        axes.errorbar(
            float(np.mean(values)),
            line.label,
            xerr=mean_interval(values),
            fmt="o",
            color=style.colour(line.name),
            capsize=2.5,
        )
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.set_xlim(left=0)
    return figure


def error_by_budget(result: Result) -> Figure:
    return metric_figure(
        result,
        "rel_l2_final_mean",
        "Error of the attention output",
        "relative L2 error, final (mean)",
    )


def mass_recall_by_budget(result: Result) -> Figure:
    return metric_figure(
        result,
        "mass_recall_final_mean",
        "Attention mass on the tokens shown",
        "true softmax mass shown, final (mean)",
    )


def page_overlap_by_budget(result: Result) -> Figure:
    return metric_figure(
        result,
        "page_overlap_mean",
        "Pages selected again in the next step",
        "share of pages also in the step before (mean)",
    )


def exposure_by_window(result: Result) -> Figure:
    metric = "effective_exposure_mean"
    points = [point for point in having(result, metric) if "retro.window" in point.parameters]
    if not points:
        raise NoData("no point has retro.window")
    lines = lines_along(points, "retro.window", lambda point: point.metrics[metric])
    figure, axes = new_figure("Tokens that a query has seen when it leaves its window")
    draw_lines(axes, lines, Style(result.points))
    axes.scatter(
        list(REPORTED_EXPOSURE),
        list(REPORTED_EXPOSURE.values()),
        marker="*",
        s=130,
        color="black",
        zorder=3,
        label="reported (RetroAttention paper,\nother models and tasks)",
    )
    log_axis(
        axes, [x for line in lines for x in line.x] + list(REPORTED_EXPOSURE), "window (queries)"
    )
    axes.set_ylabel("tokens seen / tokens loaded at its own step (mean)")
    add_legend(axes)
    return figure


def cumulative_error_by_step(result: Result) -> Figure:
    said, points = at_reference_budget(result, "cumulative_error_mean")
    lines = []
    for line, members in variants(points):
        datasets = [result.series(point) for point in members]
        if not all("cumulative_error" in dataset for dataset in datasets):
            raise NoData(f"point {members[0].id} has no series cumulative_error")
        series = [dataset["cumulative_error"] for dataset in datasets]
        # Traces differ in length: the mean is over those that reach a step.
        means = [one.mean([d for d in one.dims if d != "step"]).to_series() for one in series]
        steps = sorted(set().union(*(mean.index for mean in means)))
        line.x = [float(step) for step in steps]
        line.y = [
            float(np.mean([mean[step] for mean in means if step in mean.index])) for step in steps
        ]
        lines.append(line)
    lines = merge_coincident(lines)
    figure, axes = new_figure(f"Error accumulated over the generation ({said})")
    style = Style(result.points)
    for line in lines:
        axes.plot(
            line.x, line.y, markevery=max(1, len(line.x) // 8), markersize=5, **style.options(line)
        )
    axes.set_xlabel("decode step")
    axes.set_ylabel("relative L2 error, mean over the steps so far")
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


def latency_by_stage(result: Result) -> Figure:
    said, points = at_reference_budget(result, "latency_us_total_p50")
    groups = variants(points)
    figure, axes = new_figure(
        f"Time of a decode step of one layer ({said}; {result.device})",
        height=1.6 + 0.42 * len(groups),
    )
    labels = [line.label for line, _ in groups]
    starts = np.zeros(len(groups))
    for number, stage in enumerate(STAGES):
        widths = np.array(
            [
                np.mean([p.metrics.get(f"latency_us_{stage}_p50", np.nan) for p in members])
                for _, members in groups
            ]
        )
        if np.isnan(widths).any():
            raise NoData(f"some point has no latency_us_{stage}_p50")
        axes.barh(
            labels,
            widths,
            left=starts,
            height=0.65,
            color=COLOURS[number],
            hatch=HATCHES[number],
            edgecolor="white",
            linewidth=0.5,
            label=stage,
        )
        starts += widths
    totals = [
        np.mean([p.metrics["latency_us_total_p50"] for p in members]) for _, members in groups
    ]
    axes.scatter(totals, labels, marker="|", s=220, color="black", zorder=3, label="total")
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("µs, medians over steps, layers and repeats")
    add_legend(axes)
    return figure


FIGURES: dict[str, Callable[[Result], Figure]] = {
    "error_by_budget": error_by_budget,
    "exposure_by_window": exposure_by_window,
    "cumulative_error_by_step": cumulative_error_by_step,
    "mass_recall_by_budget": mass_recall_by_budget,
    "page_overlap_by_budget": page_overlap_by_budget,
    "latency_by_stage": latency_by_stage,
}
# Of a model that decodes.
EVALUATION_FIGURES = {**SEQUENCE_FIGURES, "exposure_by_window": exposure_by_window}


def figures_of(result: Result) -> dict[str, Callable[[Result], Figure]]:
    is_evaluation = any(
        name in point.metrics for point in result.points for name in ("accuracy_mean", "nll_mean")
    )
    return EVALUATION_FIGURES if is_evaluation else FIGURES


def save(figure: Figure, file: Path) -> None:
    """The same figure gives the same bytes: no dates, no random ids."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[
        file.suffix[1:]
    ]
    with matplotlib.rc_context({"svg.hashsalt": "hindsight"}):
        figure.savefig(file, dpi=150, metadata=metadata)


def command(argv: list[str] | None) -> None:
    parser = OneLineParser(
        prog="python -m hindsight_analysis.figures",
        description="Draw the figures of a result file; those whose data it lacks are skipped, "
        "saying so.",
        epilog="Example: python -m hindsight_analysis.figures results/quickstart.h5 --format svg",
    )
    parser.add_argument(
        "result", type=Path, metavar="RESULT.h5", help="result file of hindsight run or eval"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the figures (beside the result: figures)"
    )
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="(png)")
    arguments = parser.parse_args(argv)
    result = load_result(arguments.result)
    result = replace(result, points=by_values(result.points))
    out = arguments.out or arguments.result.parent / "figures"
    drawn = 0
    for name, draw in figures_of(result).items():
        try:
            figure = draw(result)
        except NoData as missing:
            print(f"figures: {name} skipped: {missing}", file=sys.stderr)
            continue
        file = out / f"{name}.{arguments.format}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            save(figure, file)
        except OSError as error:
            raise CommandError(ENVIRONMENT, f"--out {out}: cannot be written: {error}") from error
        print(file)
        drawn += 1
    if not drawn:
        raise CommandError(INPUT, f"{arguments.result}: has the data of none of the figures")


def main(argv: list[str] | None = None) -> int:
    return run_command("figures", lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
