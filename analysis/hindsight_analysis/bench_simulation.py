"""Times a fidelity replay beside a batched mask simulation in NumPy, which computes the same errors.

    hindsight trace synth -o synth-8k.h5 --tokens 8192 --prompt-tokens 7680 --layers 3 \\
        --q-heads 32 --kv-heads 8 --head-dim 128
    python -m hindsight_analysis.bench_simulation --program hindsight --trace synth-8k.h5 --layer 2

The simulation is what one writes without a paged cache: attention of blocks of 64 steps over all tokens,
with masks for the pages that Quest selects and for those that a window adds. It is timed without reading
the trace; the replay is timed as the whole program, twice, the faster counts. Both must find the same mean
errors, or the comparison says nothing and the program fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hindsight_analysis.results import load_result
from hindsight_analysis.trace_file import from_storage

BLOCK, PAGE, K_MIN = 64, 16, 3


@dataclass(frozen=True)
class Layer:
    """Queries [n, Hq, d] of the decode steps, keys and values [T, Hkv, d]."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    scale: float

    @property
    def first(self) -> int:
        """Position of the first decode step."""
        return len(self.k) - len(self.q)


def load_layer(file: str, layer: int) -> Layer:
    with h5py.File(file) as h5:
        group = h5[f"layers/{layer}"]
        prompt = int(h5.attrs["prompt_tokens"])
        q = from_storage(group["q"])[prompt - int(group["q"].attrs["q_start"]) :]
        return Layer(
            q, from_storage(group["k"]), from_storage(group["v"]), float(h5.attrs["softmax_scale"])
        )


def by_kv_head(layer: Layer, steps: slice) -> np.ndarray:
    """Queries [Hkv, n * G, d]."""
    n_kv_heads = layer.k.shape[1]
    q = layer.q[steps]
    n, n_q_heads, d = q.shape
    return (
        q.reshape(n, n_kv_heads, n_q_heads // n_kv_heads, d)
        .transpose(1, 0, 2, 3)
        .reshape(n_kv_heads, -1, d)
    )


def selected_pages(layer: Layer, ratio: float) -> np.ndarray:
    """S [n, Hkv, J]: Quest's sets by mean over the group, the newest page always among them."""
    n_tokens, n_kv_heads, d = layer.k.shape
    n, pages = len(layer.q), -(-n_tokens // PAGE)
    padded = np.full((pages * PAGE, n_kv_heads, d), -np.inf, np.float32)
    padded[:n_tokens] = layer.k
    largest = padded.reshape(pages, PAGE, n_kv_heads, d).max(1)
    padded[n_tokens:] = np.inf
    smallest = padded.reshape(pages, PAGE, n_kv_heads, d).min(1)
    bounds = np.concatenate([largest, smallest], axis=-1).transpose(1, 2, 0)  # [Hkv, 2d, J]
    group = layer.q.shape[1] // n_kv_heads
    q = layer.q.reshape(n, n_kv_heads, group, d).transpose(1, 0, 2, 3)
    weights = np.concatenate([np.maximum(q, 0), np.minimum(q, 0)], axis=-1).mean(2)
    scores = np.matmul(weights, bounds).transpose(1, 0, 2)  # [n, Hkv, J]

    sets = np.zeros((n, n_kv_heads, pages), bool)
    for i in range(n):
        position = layer.first + i
        newest = position // PAGE
        wanted = max(K_MIN, int(ratio * (position + 1) / PAGE + 1e-9)) - 1
        best = np.argpartition(-scores[i, :, :newest], wanted - 1, axis=-1)[:, :wanted]
        np.put_along_axis(sets[i], best, True, axis=-1)
        sets[i, :, newest] = True
    return sets


def softmax_times(logits: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(logits) v, [Hkv, rows, T] and [Hkv, T, d]; the logits are overwritten."""
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    return np.matmul(logits, v)


def simulate(layer: Layer, ratio: float, window: int) -> tuple[float, float]:
    """Mean rel_l2_final of Quest, and of Quest revised in a window."""
    sets = selected_pages(layer, ratio)
    shown = sets.copy()
    for later in range(1, window):
        shown[:-later] |= sets[later:]
    n, n_kv_heads, _ = sets.shape
    n_tokens = len(layer.k)
    group = layer.q.shape[1] // n_kv_heads
    k, v = layer.k.transpose(1, 2, 0).copy(), layer.v.transpose(1, 0, 2).copy()
    errors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for begin in range(0, n, BLOCK):
        steps = slice(begin, min(begin + BLOCK, n))
        count = steps.stop - steps.start
        logits = layer.scale * np.matmul(by_kv_head(layer, steps), k)
        future = np.arange(n_tokens)[None] > (layer.first + np.arange(begin, steps.stop))[:, None]
        logits.reshape(n_kv_heads, count, group, n_tokens)[
            np.broadcast_to(future[None, :, None], (n_kv_heads, count, group, n_tokens))
        ] = -np.inf
        outs = [softmax_times(logits.copy(), v)]
        for pages in (sets, shown):
            tokens = np.repeat(pages[steps], PAGE, axis=-1)[..., :n_tokens].transpose(1, 0, 2)
            masked = np.where(
                np.repeat(tokens, group, axis=1).reshape(logits.shape), logits, -np.inf
            )
            outs.append(softmax_times(masked, v))
        norm = np.linalg.norm(outs[0], axis=-1)
        for kept, out in zip(errors, outs[1:]):
            kept.append(np.linalg.norm(out - outs[0], axis=-1) / norm)
    quest, retro = (float(np.mean(np.concatenate(kept, axis=1))) for kept in errors)
    return quest, retro


CONFIGURATION = """\
version: 1
traces: [{trace}]
layers: [{layer}]
device: cpu
defaults: {{page_size: 16, budget: {{ratio: {ratio}}}}}
methods:
  - {{name: quest, selector: quest}}
  - {{name: retro, selector: quest, retro: {{window: {window}}}}}
"""


def replay(program: str, options: argparse.Namespace) -> tuple[float, tuple[float, float]]:
    """Seconds of the program, and its mean errors of both methods."""
    with tempfile.TemporaryDirectory() as folder:
        configuration, result = Path(folder) / "simulation.yaml", Path(folder) / "result.h5"
        configuration.write_text(
            CONFIGURATION.format(
                trace=Path(options.trace).resolve(),
                layer=options.layer,
                ratio=options.budget,
                window=options.window,
            )
        )
        seconds = []
        for _ in range(2):
            result.unlink(missing_ok=True)
            begin = time.perf_counter()
            subprocess.run(
                [program, "run", str(configuration), "-o", str(result), "--quiet"], check=True
            )
            seconds.append(time.perf_counter() - begin)
        metrics = {point.name: point.metrics for point in load_result(result).points}
    return min(seconds), tuple(metrics[name]["rel_l2_final_mean"] for name in ("quest", "retro"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--program", required=True, help="the program hindsight")
    parser.add_argument("--trace", required=True, help="trace file")
    parser.add_argument("--layer", type=int, required=True, help="a sparse layer of the trace")
    parser.add_argument("--budget", type=float, default=0.15, help="share of the context")
    parser.add_argument("--window", type=int, default=4)
    options = parser.parse_args(arguments)

    layer = load_layer(options.trace, options.layer)
    begin = time.perf_counter()
    simulated = simulate(layer, options.budget, options.window)
    simulation = time.perf_counter() - begin
    seconds, replayed = replay(options.program, options)
    print(
        f"{len(layer.q)} steps of layer {options.layer} at {len(layer.k)} tokens, {layer.q.shape[1]} heads"
    )
    print(
        f"mean errors: simulation {simulated[0]:.6f} {simulated[1]:.6f}, replay {replayed[0]:.6f} {replayed[1]:.6f}"
    )
    print(
        f"seconds: simulation {simulation:.2f}, replay {seconds:.2f}, ratio {simulation / seconds:.2f}"
    )
    if not np.allclose(simulated, replayed, rtol=1e-4):
        print("bench_simulation: the two do not compute the same", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
