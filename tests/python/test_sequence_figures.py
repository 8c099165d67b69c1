"""Figures of an evaluation, from a small result file made here as hindsight eval writes it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hindsight_analysis import figures
from hindsight_analysis.results import load_result
from hindsight_analysis.sequence_figures import SEQUENCE_FIGURES

SEQUENCES, RANGES = 12, 4
BUDGETS = (0.1, 0.2, 0.4)


def write_result(file, metrics):
    """`metrics`: by name, whether it has a step. Values grow with the step and shrink with budget and window."""
    rng = np.random.default_rng(0)
    points = [("full", {})]
    for budget in BUDGETS:
        points.append(("quest", {"budget.ratio": budget}))
        points += [("retro", {"budget.ratio": budget, "retro.window": w}) for w in (2, 8)]
    rows = []
    with h5py.File(file, "w") as h5:
        h5.attrs["format"], h5.attrs["format_version"] = "hindsight-result", 1
        h5.attrs["device"] = "CPU, 1 thread"
        for trace in ("a", "b"):
            for name, parameters in points:
                point_id = f"{len(rows):016x}"
                group = h5.create_group(f"points/{point_id}")
                group.attrs.update(name=name, selector="quest", trace=trace, steps="0-end")
                group.attrs.update(parameters)
                group["sequence"], group["step"] = np.arange(SEQUENCES), np.arange(RANGES) * 100
                for scale in ("sequence", "step"):
                    group[scale].make_scale(scale)
                level = (1 - parameters.get("budget.ratio", 1)) / parameters.get("retro.window", 1)
                for metric, has_step in metrics.items():
                    shape = (SEQUENCES, RANGES) if has_step else (SEQUENCES,)
                    values = level + 0.1 * rng.standard_normal(shape)
                    if has_step:
                        values += level * np.arange(RANGES)
                        values[-1, -1] = np.nan  # a sequence that ends before the others
                    group[metric] = values.astype(np.float32)
                    for axis, scale in enumerate(("sequence", "step")[: len(shape)]):
                        group[metric].dims[axis].attach_scale(group[scale])
                means = [float(np.nanmean(group[metric])) for metric in metrics]
                rows.append((point_id, trace, name, "quest", *means))
        columns = [(name, "S20") for name in ("point", "trace", "name", "selector")]
        columns += [(f"{metric}_mean", float) for metric in metrics]
        h5["summary"] = np.array(rows, columns)
    return file


@pytest.fixture()
def answers(tmp_path):
    return write_result(tmp_path / "answers.h5", {"accuracy": False})


@pytest.fixture()
def text(tmp_path):
    metrics = ("nll", "delta_nll", "sequence_hidden_rel_l2_first", "sequence_hidden_rel_l2_final")
    return write_result(tmp_path / "text.h5", dict.fromkeys(metrics, True))


def test_accuracy_has_a_line_a_variant_with_its_interval_over_all_sequences(answers):
    axes = SEQUENCE_FIGURES["accuracy_by_budget"](load_result(answers)).axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["full", "quest", "retro, window 2", "retro, window 8"]
    line, _, (bars,) = handles[1].lines
    assert line.get_xdata().tolist() == list(BUDGETS)
    with h5py.File(answers) as h5:
        values = [p for p in h5["points"].values() if p.attrs["name"] == "quest"]
        values = [p["accuracy"][...] for p in values if p.attrs["budget.ratio"] == 0.1]
    both = np.concatenate(values)
    assert len(both) == 2 * SEQUENCES and line.get_ydata()[0] == pytest.approx(
        both.mean(), abs=1e-6
    )
    (_, low), (_, high) = bars.get_segments()[0]
    half = 1.96 * both.std(ddof=1) / len(both) ** 0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.25) and low < both.mean() < high


@pytest.mark.parametrize(
    "name", ["delta_nll_by_step", "hidden_error_by_step", "hidden_error_final_by_step"]
)
def test_errors_by_step_are_of_one_budget_with_bands(text, name):
    axes = SEQUENCE_FIGURES[name](load_result(text)).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["full", "quest", "retro, window 2", "retro, window 8"]
    assert "budget 0.2" in axes.get_title(loc="left")
    assert lines["quest"].get_xdata().tolist() == [0, 100, 200, 300]
    assert lines["quest"].get_ydata() == pytest.approx(0.8 * np.arange(1, RANGES + 1), abs=0.1)
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() < lines["quest"].get_ydata().min() < band[:, 1].max()


def test_an_evaluation_gets_its_own_figures(answers, text, tmp_path, capsys):
    assert figures.main([str(answers), "--out", str(tmp_path / "a")]) == 0
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["accuracy_by_budget.png"]
    assert "error_by_budget" not in capsys.readouterr().err
    for out in ("t", "u"):
        assert figures.main([str(text), "--out", str(tmp_path / out)]) == 0
    names = sorted(file.name for file in (tmp_path / "t").iterdir())
    assert names == sorted(f"{n}.png" for n in SEQUENCE_FIGURES if n != "accuracy_by_budget")
    for name in names:
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "u" / name).read_bytes(), name
