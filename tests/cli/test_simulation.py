"""A replay against a mask simulation in NumPy, which shares no code with it: the same mean errors."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest

from hindsight_analysis import bench_simulation

PROGRAM = os.environ["HINDSIGHT_BIN"]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    file = tmp_path_factory.mktemp("simulation") / "synth.h5"
    shape = "--tokens 700 --prompt-tokens 560 --layers 3 --q-heads 6 --kv-heads 2 --head-dim 32"
    command = [PROGRAM, "trace", "synth", "-o", str(file), *shape.split(), "--quiet"]
    subprocess.run(command, check=True)
    return str(file)


def test_replay_and_simulation_find_the_same_errors(trace, capsys):
    options = ["--budget", "0.2", "--window", "3"]
    arguments = ["--program", PROGRAM, "--trace", trace, "--layer", "2", *options]
    assert bench_simulation.main(arguments) == 0
    assert "ratio" in capsys.readouterr().out


def test_another_window_is_another_error(trace):
    layer = bench_simulation.load_layer(trace, 2)
    quest, retro = bench_simulation.simulate(layer, 0.2, 4)
    alone, narrow = bench_simulation.simulate(layer, 0.2, 2)
    assert quest == alone
    assert not np.isclose(retro, narrow, rtol=1e-3)
    assert retro < narrow < quest
