"""Bytes that bench_bytes counts, and what it reads of the profiler's output."""

from __future__ import annotations

import json
import stat

import pytest

from hindsight_analysis import bench_bytes

KEYS = 8 * 128 * 2  # bytes of a token's keys


def test_counted_bytes_are_what_a_step_must_read():
    summaries, pages = 32768 // 16 * 2 * KEYS, 2048 * 2 * KEYS
    name = "step/32:8/b{}/32768/w{}/k2048/cold"
    assert bench_bytes.counted_bytes(name.format(1, 1)) == summaries + pages
    cached = 32 * (128 + 1) * 4
    assert bench_bytes.counted_bytes(name.format(8, 4)) == 8 * (summaries + pages + 3 * cached)
    assert bench_bytes.counted_bytes("dense/32:8/b2/4096/w1/k2048/cold") == 2 * 4096 * 2 * KEYS
    assert bench_bytes.counted_bytes("attend/32:8/b1/1024/w1/k2048/cold") == 1024 * 2 * KEYS
    with pytest.raises(ValueError, match="append/1 is no run"):
        bench_bytes.counted_bytes("append/1")


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    """Puts a program named ncu on the path that prints the given text."""

    def install(text: str) -> None:
        program = tmp_path / "ncu"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def test_the_median_of_the_launches_is_reported(profiler, tmp_path, capsys):
    rows = ['"Metric Name","Metric Value"']
    for read in (16_800_000, 99_000_000, 16_900_000):
        rows += [f'"dram__bytes_read.sum","{read:,}"', '"dram__bytes_write.sum","1,024"']
    profiler("==PROF== Connected\n" + "\n".join(rows))
    out = tmp_path / "bytes.json"
    name = "step/32:8/b1/32768/w1/k2048/cold"
    assert bench_bytes.main(["--bench", "x", "--out", str(out), name]) == 0
    assert "| 16.8 | 16.9 | 0.0 | 1.007 |" in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"][0]["read"] == 16_900_000


def test_a_profiler_that_measures_nothing_is_one_line(profiler, tmp_path, capsys):
    profiler("==ERROR== no permission")
    arguments = ["--bench", "x", "--out", str(tmp_path / "bytes.json")]
    assert bench_bytes.main([*arguments, "step/32:8/b1/32768/w1/k2048/cold"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no permission" in error
