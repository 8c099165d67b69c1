"""Times of bench_steps: names taken apart, lines of the figures, the record in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hindsight_analysis import step_figures
from hindsight_analysis.step_times import Workload, load_step_times

RECORDS = Path(__file__).parents[2] / "experiments" / "performance"


def run(name: str, us: float, **more) -> dict:
    return {"name": name + "/iterations:1/manual_time", "real_time": us, "of_read": 0.5, **more}


def write(file: Path, runs: list[dict]) -> str:
    file.write_text(json.dumps({"context": {}, "benchmarks": runs}))
    return str(file)


def test_names_are_taken_apart_and_impossible_runs_left_out(tmp_path):
    file = write(
        tmp_path / "a.json",
        [
            run("step/32:8/b4/4096/w2/k512/cold", 20),
            run("step/32:8/b4/4096/w16/k512/cold", 0, error_occurred=True),
        ],
    )
    times = load_step_times(file)
    assert list(times) == [Workload("step", 32, 8, 4, 4096, 2, 512, "cold")]
    time = next(iter(times.values()))
    assert (time.us, time.read_us) == (20, 10)


def test_other_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="append/1 is no run"):
        load_step_times(write(tmp_path / "a.json", [{**run("append/1", 1), "name": "append/1"}]))


def test_lines_are_of_one_batch_and_budget_along_the_context(tmp_path):
    runs = [
        run(f"step/32:8/b1/{context}/w{w}/k2048/cold", w)
        for context in (8192, 4096)
        for w in (1, 4)
    ]
    runs += [run(f"dense/32:8/b1/{context}/w1/k2048/cold", 9) for context in (4096, 8192)]
    runs += [run("step/32:8/b1/4096/w2/k2048/cold", 3), run("step/32:8/b8/4096/w1/k2048/cold", 5)]
    runs += [run("step/32:8/b1/4096/w1/k512/cold", 2), run("attend/32:8/b1/4096/w1/k2048/cold", 2)]
    times = load_step_times(write(tmp_path / "a.json", runs))
    series = step_figures.series_of(times, 1, 2048)
    assert {label: [x for x, _ in line] for label, line in series.items()} == {
        "dense": [4096, 8192],
        "quest": [4096, 8192],
        "retro, w = 4": [4096, 8192],
    }
    files = step_figures.draw(times, 2048, tmp_path)
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in step_figures.draw(times, 2048, tmp_path)] == first


def test_batches_are_drawn_at_the_context_that_has_most(tmp_path):
    runs = [run(f"step/32:8/b{b}/8192/w1/k2048/cold", b) for b in (1, 2, 4)]
    runs += [run(f"step/32:8/b{b}/4096/w1/k2048/cold", b) for b in (1, 8)]
    times = load_step_times(write(tmp_path / "a.json", runs))
    assert [file.name for file in step_figures.draw_batches(times, 2048, tmp_path)] == [
        "step_batch.png"
    ]
    assert step_figures.draw_batches(times, 512, tmp_path) == []


def test_files_are_drawn_together_and_a_fault_names_its_file(tmp_path, capsys):
    first = write(tmp_path / "a.json", [run("dense/32:8/b1/4096/w1/k2048/cold", 1)])
    second = write(tmp_path / "b.json", [run("dense/32:8/b1/8192/w1/k2048/cold", 2)])
    assert step_figures.main([first, second, "--out", str(tmp_path)]) == 0
    (tmp_path / "c.json").write_text("{")
    assert step_figures.main([first, str(tmp_path / "c.json"), "--out", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "c.json" in error and "a.json" not in error


def test_nothing_to_draw_is_one_line(tmp_path, capsys):
    file = write(tmp_path / "a.json", [run("step/32:8/b1/4096/w1/k2048/cold", 1)])
    assert step_figures.main([file, "--out", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "two contexts" in error


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*steps*.json")), ids=lambda file: file.name)
def test_records_can_be_read(file):
    assert len(load_step_times(str(file))) > 0
