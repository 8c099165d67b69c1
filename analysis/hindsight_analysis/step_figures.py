"""Draws the times of decode steps that bench_steps measured.

    python -m hindsight_analysis.step_figures steps.json [more.json ...] --out FOLDER

Writes step_time.png: time against context, a panel for each batch size, with the time that reading
the bytes of a Quest step takes; step_share.png: the share of the read ceiling that each kind of step
reaches; and step_batch.png: time against the batch size, at the context that has most of them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from hindsight_analysis.step_times import StepTime, Workload, load_step_times  # noqa: E402

Series = dict[str, list[tuple[int, StepTime]]]  # by label: (context, time), ascending


def of_one_model(times: dict[Workload, StepTime]) -> dict[Workload, StepTime]:
    """Those of the numbers of query and KV heads that most were timed with: others are other models."""
    heads = Counter((workload.q_heads, workload.kv_heads) for workload in times)
    most, _ = heads.most_common(1)[0]
    return {w: time for w, time in times.items() if (w.q_heads, w.kv_heads) == most}


def series_of(times: dict[Workload, StepTime], batch: int, budget: int) -> Series:
    """Lines along the context: dense decode, Quest, and retro by window."""
    series: Series = {}
    for workload, time in sorted(
        times.items(), key=lambda item: (item[0].what, item[0].window, item[0].context)
    ):
        if (workload.batch, workload.budget, workload.cache) != (batch, budget, "cold"):
            continue
        if workload.what == "dense" and workload.window == 1:
            label = "dense"
        elif workload.what == "step":
            label = "quest" if workload.window == 1 else f"retro, w = {workload.window}"
        else:
            continue
        series.setdefault(label, []).append((workload.context, time))
    return {label: line for label, line in series.items() if len(line) > 1}


def plot(axis, line: list[tuple[int, StepTime]], value, **style) -> None:
    axis.plot([x for x, _ in line], [value(time) for _, time in line], **style)


def plot_floor(axis, quest: list[tuple[int, StepTime]]) -> None:
    plot(
        axis, quest, lambda time: time.read_us, color="k", ls=":", label="bytes of quest, read once"
    )


def label_axes(axis, x: str, scale: str, title: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale(scale)
    axis.set_xlabel(x)
    axis.set_title(title)
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize="small")


def save(figure, file: Path) -> Path:
    figure.tight_layout()
    # Without the version of the library, so that the same times give the same bytes.
    figure.savefig(file, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return file


def draw(times: dict[Workload, StepTime], budget: int, out: Path) -> list[Path]:
    """Figures of all batch sizes with lines; the files written."""
    batches = sorted({workload.batch for workload in times})
    panels = {batch: lines for batch in batches if (lines := series_of(times, batch, budget))}
    if not panels:
        raise ValueError(f"no step was timed at two contexts with a budget of {budget} tokens")
    # A line has its colour in all panels, whichever others are there.
    labels = dict.fromkeys(
        label for lines in sorted(panels.values(), key=len)[::-1] for label in lines
    )
    colours = {label: f"C{i}" for i, label in enumerate(labels)}
    written = []
    for name, label, value, scale in (
        ("step_time", "µs a step and layer", lambda time: time.us, "log"),
        ("step_share", "share of the read ceiling", lambda time: time.read_us / time.us, "linear"),
    ):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.8), squeeze=False)
        for axis, (batch, lines) in zip(axes[0], panels.items()):
            for line_label, line in lines.items():
                plot(axis, line, value, marker="o", label=line_label, color=colours[line_label])
            if name == "step_time" and "quest" in lines:
                plot_floor(axis, lines["quest"])
            label_axes(axis, "context, tokens", scale, f"batch {batch}, budget {budget} tokens")
        axes[0][0].set_ylabel(label)
        written.append(save(figure, out / f"{name}.png"))
    return written


def draw_batches(times: dict[Workload, StepTime], budget: int, out: Path) -> list[Path]:
    """Time against the batch size; nothing where no context was timed with three."""
    names = {"dense": "dense", "step": "quest", "attend": "attention over its page lists"}
    lines: dict[int, Series] = {}
    for workload, time in sorted(times.items(), key=lambda item: item[0].batch):
        if workload.what in names and (workload.window, workload.budget, workload.cache) == (
            1,
            budget,
            "cold",
        ):
            line = lines.setdefault(workload.context, {}).setdefault(names[workload.what], [])
            line.append((workload.batch, time))
    context = max(lines, key=lambda x: len(lines[x].get("quest", [])), default=0)
    if len(lines.get(context, {}).get("quest", [])) < 3:
        return []
    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    for label, line in lines[context].items():
        plot(axis, line, lambda time: time.us, marker="o", label=label)
    plot_floor(axis, lines[context]["quest"])
    label_axes(axis, "batch size", "log", f"{context} tokens, budget {budget} tokens")
    axis.set_ylabel("µs a step and layer")
    return [save(figure, out / "step_batch.png")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "files", nargs="+", help="JSON of bench_steps; the first to time a run wins"
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the figures")
    parser.add_argument("--budget", type=int, default=2048, help="tokens")
    options = parser.parse_args(arguments)
    times: dict[Workload, StepTime] = {}
    file = ""
    try:
        for file in options.files:
            times = load_step_times(file) | times
        times = of_one_model(times)
        options.out.mkdir(parents=True, exist_ok=True)
        for figure in (
            *draw(times, options.budget, options.out),
            *draw_batches(times, options.budget, options.out),
        ):
            print(figure)
    except (OSError, ValueError, KeyError) as error:
        print(f"step_figures: {file}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
