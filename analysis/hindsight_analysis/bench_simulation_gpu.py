"""Times a batched mask simulation in PyTorch on a GPU, beside bench_fidelity in the same session.

    mkdir -p /tmp/dump && bench_fidelity --contexts 32768 --json ours.json --dump /tmp/dump
    python -m hindsight_analysis.bench_simulation_gpu --ours ours.json --dump /tmp/dump --out simulation.json

The simulation is what one writes without a paged cache, with care: bfloat16 products on tensor cores,
blocks of 64 steps over all tokens, one exponential for all methods (a method's weights are the dense ones
times its mask), Quest's sets by topk over page bounds, retro's by union; errors, recall and cosine of both.
Logits are kept in float32 where the product can write them (`--logits float32`), or in bfloat16, which is
faster and wrong by what bfloat16 rounds. It replays the arrays that bench_fidelity dumped, and its mean
errors must come near to those that the replay found, or the program fails.

It also times the GPU's best dense kernel on the same shape: scaled_dot_product_attention of the block's
queries over all tokens, without a mask, whose rate is what the dense reference is compared with.

Needs PyTorch with CUDA, and NumPy; nothing else of this package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Q_HEADS, KV_HEADS, HEAD_DIM, PAGE, BLOCK = 32, 8, 128, 16, 64
GROUP = Q_HEADS // KV_HEADS
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


@dataclass(frozen=True)
class Layer:
    """q [n, Hkv, G, d] of the decode steps, k and v [Hkv, T, d]; bfloat16 on the GPU."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    @property
    def first(self) -> int:
        """Position of the first decode step."""
        return self.k.shape[1] - self.q.shape[0]


def load_layer(folder: Path, context: int, steps: int) -> Layer:
    def load(name: str, *shape: int) -> torch.Tensor:
        raw = np.fromfile(folder / name, np.int16).reshape(shape)
        return torch.from_numpy(raw).cuda().view(torch.bfloat16)

    k, v = (
        load(n, context, KV_HEADS, HEAD_DIM).transpose(0, 1).contiguous()
        for n in ("k.bin", "v.bin")
    )
    return Layer(load("q.bin", steps, KV_HEADS, GROUP, HEAD_DIM), k, v)


def selected_pages(layer: Layer, budget: int) -> torch.Tensor:
    """S [n, Hkv, J]: Quest's sets by mean over the group, the newest page always among them."""
    n, tokens = layer.q.shape[0], layer.k.shape[1]
    pages = tokens // PAGE
    by_page = layer.k.view(KV_HEADS, pages, PAGE, HEAD_DIM)
    bounds = torch.cat([by_page.amax(2), by_page.amin(2)], dim=-1)  # [Hkv, J, 2d]
    weights = torch.cat([layer.q.clamp(min=0), layer.q.clamp(max=0)], dim=-1)
    rows = weights.transpose(0, 1).reshape(KV_HEADS, n * GROUP, 2 * HEAD_DIM)
    # Scores that bfloat16 rounds would change from step to step: float32, as the replay has them.
    per_head = torch.bmm(rows, bounds.transpose(1, 2), out_dtype=torch.float32)
    scores = per_head.view(KV_HEADS, n, GROUP, pages).mean(2).transpose(0, 1).contiguous()
    newest = (layer.first + torch.arange(n, device="cuda")) // PAGE
    place = torch.arange(pages, device="cuda")
    scores.masked_fill_((place[None] > newest[:, None])[:, None], -torch.inf)
    scores.masked_fill_((place[None] == newest[:, None])[:, None], torch.inf)
    best = scores.topk(budget // PAGE, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def simulate(layer: Layer, budget: int, window: int, wide: bool) -> torch.Tensor:
    """Means of [quest, retro] x [rel_l2, recall, cosine], on the GPU."""
    sets = selected_pages(layer, budget)
    shown = sets.clone()
    for later in range(1, window):
        shown[:-later] |= sets[later:]
    n, tokens = layer.q.shape[0], layer.k.shape[1]
    keys = layer.k.transpose(1, 2)
    place = torch.arange(tokens, device="cuda")
    scale = HEAD_DIM**-0.5
    totals = torch.zeros(2, 3, device="cuda")
    for begin in range(0, n, BLOCK):
        steps = slice(begin, begin + BLOCK)
        count = min(BLOCK, n - begin)
        q = layer.q[steps].transpose(0, 1).reshape(KV_HEADS, count * GROUP, HEAD_DIM)
        if wide:
            logits = torch.bmm(q, keys, out_dtype=torch.float32)
        else:
            logits = torch.bmm(q, keys)
        # Only the tokens of the block's own steps need a causal mask.
        tail = slice(layer.first + begin, tokens)
        position = layer.first + begin + torch.arange(count, device="cuda")
        future = place[tail][None] > position[:, None]
        logits.view(KV_HEADS, count, GROUP, tokens)[..., tail].masked_fill_(
            future[None, :, None], -torch.inf
        )
        logits -= logits.amax(-1, keepdim=True)
        logits *= scale
        weights = logits.exp_().bfloat16()
        mass = weights.sum(-1, keepdim=True, dtype=torch.float32)
        dense = torch.bmm(weights, layer.v).float() / mass
        norm = dense.norm(dim=-1)
        paged = weights.view(KV_HEADS, count, GROUP, tokens // PAGE, PAGE)
        for method, pages in enumerate((sets, shown)):
            mask = pages[steps].transpose(0, 1)[:, :, None, :, None]
            masked = (paged * mask).view_as(weights)
            own = masked.sum(-1, keepdim=True, dtype=torch.float32)
            out = torch.bmm(masked, layer.v).float() / own
            totals[method, 0] += ((out - dense).norm(dim=-1) / norm).sum()
            totals[method, 1] += (own / mass).sum()
            totals[method, 2] += torch.cosine_similarity(out, dense, dim=-1).sum()
    return totals / (n * Q_HEADS)


def milliseconds(run, repeats: int) -> tuple[float, object]:
    """Median, and what the last run gave."""
    result = run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times), result


def dense_tflops(layer: Layer, steps: int, backend: SDPBackend, repeats: int) -> float:
    """Rate of prefill attention, `steps` queries of every head over all tokens."""
    tokens = layer.k.shape[1]
    q = layer.q[:steps].reshape(steps, Q_HEADS, HEAD_DIM).transpose(0, 1).contiguous()[None]

    def attend() -> torch.Tensor:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                q, layer.k[None], layer.v[None], enable_gqa=True
            )

    ms, _ = milliseconds(attend, repeats)
    return 4e-9 * steps * Q_HEADS * HEAD_DIM * tokens / ms


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ours", required=True, help="JSON of bench_fidelity")
    parser.add_argument("--dump", required=True, type=Path, help="folder that it dumped to")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    row = json.loads(Path(options.ours).read_text(encoding="utf-8"))["rows"][-1]
    layer = load_layer(options.dump, row["context"], row["steps"])
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    result.update(context=row["context"], steps=row["steps"], ours_ms=row["ms"])
    failed = False
    for name, wide in (("float32", True), ("bfloat16", False)):
        ms, means = milliseconds(
            lambda wide=wide: simulate(layer, options.budget, options.window, wide), options.repeats
        )
        ms *= 1024 / row["steps"]
        (quest, recall, _), (retro, _, _) = means.tolist()
        ours = [row["metrics"][method]["rel_l2_final_mean"] for method in ("quest", "retro")]
        near = np.allclose([quest, retro], ours, rtol=0.05)
        failed |= wide and not near
        result[name] = {"ms": ms, "errors": [quest, retro], "ours": ours, "near": bool(near)}
        print(
            f"{row['context']} tokens, logits in {name}: {ms:.2f} ms per 1024 steps, replay {row['ms']:.2f},"
            f" ratio {ms / row['ms']:.2f}; errors {quest:.5f} {retro:.5f}, replay {ours[0]:.5f} {ours[1]:.5f}"
        )
    for name, backend in BACKENDS.items():
        try:
            rate = dense_tflops(layer, row["steps"], backend, 2 * options.repeats)
        except RuntimeError as error:  # a backend that does not take the shape
            print(f"bench_simulation_gpu: {name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        result[f"{name}_dense_tflops"] = rate
        print(f"dense by {name}: {rate:.0f} TFLOP/s")
    # The replay's own dense reference: as many operations, less what causality spares.
    tokens = row["context"] - row["steps"] / 2
    ours = 4e-9 * 1024 * Q_HEADS * HEAD_DIM * tokens / row["primitives_ms"]["dense"]
    result["ours_dense_tflops"] = ours
    print(f"dense reference of the replay: {ours:.0f} TFLOP/s")
    Path(options.out).write_text(json.dumps(result, indent=1), encoding="utf-8")
    if failed:
        print("bench_simulation_gpu: the two do not compute the same", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
