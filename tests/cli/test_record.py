"""The script that records benchmarks: without a GPU it says so, and begins nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BINARY = os.environ.get("HINDSIGHT_BIN", "")
PROGRAMS = Path(BINARY).parents[1] / "bench" if BINARY else Path()
pytestmark = pytest.mark.skipif(not BINARY, reason="HINDSIGHT_BIN does not name the program")


def test_without_a_gpu_nothing_is_recorded(tmp_path: Path) -> None:
    if not (PROGRAMS / "bench_steps").exists():
        pytest.skip("bench programs are not built")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [ROOT / "experiments" / "performance" / "record.sh", tmp_path / "record", PROGRAMS],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and "no CUDA device" in done.stderr
    assert list((tmp_path / "record").iterdir()) == []
