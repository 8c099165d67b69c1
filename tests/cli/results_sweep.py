"""A small sweep through the program, whose result file the tests look into."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np

STEPS = 40
LAYERS = [1, 2, 3]  # of which layer 1 is dense
Q_HEADS, KV_HEADS = 4, 2

METHODS = """
  - {name: dense, selector: dense}
  - {name: quest, selector: quest, grid: {budget.ratio: [0.2, 0.5]}}
  - {name: retro, selector: quest, grid: {budget.ratio: [0.2, 0.5], retro.window: [2, 4]}}
"""


def hindsight(*arguments, cwd=None, threads=None, check=True):
    """Runs the program; with `check`, a status that is not 0 fails the test with what was printed."""
    environment = dict(os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {}))
    command = [os.environ["HINDSIGHT_BIN"], *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def write_trace(file: Path, seed: int, steps: int = STEPS) -> None:
    """A random trace, written without the program under test."""
    random = np.random.default_rng(seed)
    prompt, head_dim = 150, 16
    tokens = prompt + steps
    with h5py.File(file, "w") as trace:
        trace.attrs.update(
            format="hindsight-trace",
            format_version=1,
            model="random",
            source="synthetic",
            rope="none",
            n_tokens=tokens,
            prompt_tokens=prompt,
            n_q_heads=Q_HEADS,
            n_kv_heads=KV_HEADS,
            head_dim=head_dim,
            n_model_layers=4,
            softmax_scale=head_dim**-0.5,
        )
        for layer in LAYERS:
            for name, rows, heads in (
                ("k", tokens, KV_HEADS),
                ("v", tokens, KV_HEADS),
                ("q", steps, Q_HEADS),
            ):
                values = 1.5 * random.standard_normal((rows, heads, head_dim))
                trace[f"layers/{layer}/{name}"] = values.astype(np.float16)
            trace[f"layers/{layer}/q"].attrs["q_start"] = prompt


def write_sweep(
    folder: Path, traces=("a.h5",), methods=METHODS, name="sweep", measure="fidelity, latency"
) -> Path:
    """The traces that are missing, and a configuration; its result goes to <name>.result.h5."""
    for seed, trace in enumerate(("a.h5", "b.h5")):
        if trace in traces and not (folder / trace).exists():
            write_trace(folder / trace, seed)
    file = folder / f"{name}.yaml"
    file.write_text(
        f"version: 1\ntraces: [{', '.join(traces)}]\ndevice: cpu\nmeasure: [{measure}]\nrepeats: 2\n"
        f"defaults: {{page_size: 8}}\noutput: {name}.result.h5\nmethods:{methods}"
    )
    return file


def run_sweep(folder: Path, *arguments, threads=None, **sweep) -> Path:
    file = write_sweep(folder, **sweep)
    hindsight("run", file, *arguments, threads=threads)
    return file.with_suffix(".result.h5")
