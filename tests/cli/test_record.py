"""The script that records benchmarks, with programs that stand in for those that need a GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def program(file: Path, body: str) -> None:
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)


def record(folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "experiments" / "performance" / "record.sh"
    # A Python that has no package: peers and simulations are left out.
    environment = {**os.environ, "PYTHON": "/bin/false"}
    command = [script, folder, programs]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_programs_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = record(tmp_path / "record", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "bench_steps" in done.stderr and "CUDA" in done.stderr


def test_without_a_gpu_nothing_is_recorded(tmp_path: Path) -> None:
    program(
        tmp_path / "bench_steps", "echo 'bench_steps: no CUDA device can be used here' >&2; exit 4"
    )
    done = record(tmp_path / "record", tmp_path)
    assert done.returncode == 4
    assert done.stderr == "bench_steps: no CUDA device can be used here\n"
    assert list((tmp_path / "record").iterdir()) == []


def test_a_failure_is_said_and_the_others_are_recorded(tmp_path: Path) -> None:
    program(
        tmp_path / "bench_steps",
        'for word; do case $word in --benchmark_out=*) touch "${word#*=}";; esac; done',
    )
    program(tmp_path / "bench_fidelity", "echo 'out of memory' >&2; exit 1")
    program(tmp_path / "bench_decode", 'touch "$2"')
    done = record(tmp_path / "record", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("out of memory") == 2, "one for each context"
    assert "peers: left out" in done.stdout
    found = {file.name for file in (tmp_path / "record").glob("*.json")}
    assert {"steps.json", "windows.json", "others.json", "decode.json"} <= found
