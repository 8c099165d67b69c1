"""A configuration with several mistakes: all of them are shown, each on a line of its own, before anything runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

BINARY = os.environ.get("HINDSIGHT_BIN", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="HINDSIGHT_BIN does not name the program")

MISTAKEN = """version: 1
traces: [none.h5]
repeats: 010
repaets: 3
defaults: {page_size: 0}
methods:
  - {name: quest, selector: qest}
  - {name: both, selector: quest, budget: {ratio: 0.1, tokens: 64}}
  - {name: kept, selector: streaming, budget.ratio: 0.1, retro.window: 2}
  - {name: kept, selector: dense}
"""

PROBLEMS = {
    "c.yaml:3:10: ": "leading zero",
    "c.yaml:4:1: ": "did you mean repeats?",
    "c.yaml:5:23: ": "page_size: 0 is out of range",
    "c.yaml:7:29: ": "did you mean quest?",
    "c.yaml:8:51: ": "contradicts budget.tokens",
    "c.yaml:9:72: ": "retro cannot refine streaming",
    "c.yaml:10:12: ": "the name is taken",
    "--set batch=none: ": "an integer would be right",
    "--device gpu: ": "auto, cpu, cuda or cuda:N would be right",
}


def test_every_mistake_has_its_line_and_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(MISTAKEN)
    words = [BINARY, "run", "c.yaml", "--set", "batch=none", "--device", "gpu"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == len(PROBLEMS), done.stderr
    for place, wrong in PROBLEMS.items():
        assert any(line.startswith(f"hindsight: error: {place}") and wrong in line for line in lines), (
            f"{place}{wrong}\n{done.stderr}"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_trace_given_as_configuration_is_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "trace.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = subprocess.run([BINARY, "run", "trace.h5"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "not YAML" in done.stderr and done.stderr.isprintable() is False
