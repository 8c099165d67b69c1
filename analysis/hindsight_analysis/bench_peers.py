"""Times what a user could assemble today, beside bench_steps in the same session; prints ratios.

    build/release/apps/bench/bench_steps --benchmark_out=ours.json
    python -m hindsight_analysis.bench_peers --ours ours.json --out peers.json

Needs a GPU and PyTorch. Peers: PyTorch's scaled_dot_product_attention over contiguous keys and values
(each backend that runs), and a Quest step of PyTorch operations (page bounds as one product, topk,
gather, attention). Peers that cannot be run here stand beside them on a GPU of the kind that they were measured on, marked as
measured elsewhere (known_peers.py). Each is captured in a CUDA graph that goes through layers whose working set exceeds
the L2 cache; a time is the median of 21 replays, divided by the layers. bfloat16, 32 query heads, head
dimension 128, as in bench_steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hindsight_analysis.known_peers import KNOWN, KNOWN_ON
from hindsight_analysis.step_times import StepTime, load_step_times
from hindsight_analysis.step_times import Workload as StepWorkload

Q_HEADS, HEAD_DIM, PAGE, REPLAYS = 32, 128, 16, 21
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


@dataclass(frozen=True)
class Workload:
    """One decode step of each of `batch` sequences of `context` tokens."""

    kv_heads: int
    batch: int
    context: int
    budget: int

    def layers(self, bytes_per_layer: int) -> int:
        return max(4, min(32, 300_000_000 // bytes_per_layer + 1))

    @property
    def dense_bytes(self) -> int:
        return self.batch * self.context * 2 * self.kv_heads * HEAD_DIM * 2

    @property
    def quest_bytes(self) -> int:
        metadata = self.batch * self.context // PAGE * 2 * self.kv_heads * HEAD_DIM * 2
        return (
            metadata
            + self.batch * min(self.budget, self.context) * 2 * self.kv_heads * HEAD_DIM * 2
        )


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def graph_us(runs: list[Callable[[], object]]) -> float:
    """Microseconds per run: the runs captured one after another, median of the replays."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for run in runs:
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [run() for run in runs]
    times = []
    for replay in range(REPLAYS + 5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if replay >= 5:
            times.append(1000 * begin.elapsed_time(end) / len(runs))
    del kept
    return statistics.median(times)


def dense(workload: Workload, backend: SDPBackend) -> float:
    """q [B, Hq, 1, d] over k, v [B, Hkv, T, d], contiguous."""
    shape = (workload.batch, workload.kv_heads, workload.context, HEAD_DIM)
    layers = [
        (normal(*shape), normal(*shape)) for _ in range(workload.layers(workload.dense_bytes))
    ]
    q = normal(workload.batch, Q_HEADS, 1, HEAD_DIM)

    def attend(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        grouped = workload.kv_heads != Q_HEADS
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)

    return graph_us([lambda k=k, v=v: attend(k, v) for k, v in layers])


def quest(workload: Workload) -> float:
    """Bounds [q+, q-].[max; min] averaged over the group, topk, gather, attention."""
    pages, budget = workload.context // PAGE, min(workload.budget, workload.context) // PAGE
    heads = workload.batch * workload.kv_heads
    group = Q_HEADS // workload.kv_heads
    layers = []
    for _ in range(workload.layers(workload.quest_bytes)):
        k = normal(heads, pages, PAGE, HEAD_DIM)
        v = normal(heads, pages, PAGE, HEAD_DIM)
        bounds = torch.cat([k.amax(2), k.amin(2)], dim=-1)
        layers.append((k, v, bounds))
    q = normal(heads, group, HEAD_DIM)

    def step(k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        weights = torch.cat([q.clamp(min=0), q.clamp(max=0)], dim=-1).mean(1, keepdim=True)
        scores = torch.bmm(weights, bounds.transpose(1, 2)).squeeze(1)
        chosen = scores.topk(budget, dim=-1, sorted=False).indices[:, :, None, None]
        at = chosen.expand(heads, budget, PAGE, HEAD_DIM)
        keys = k.gather(1, at).view(heads, budget * PAGE, HEAD_DIM)
        values = v.gather(1, at).view(heads, budget * PAGE, HEAD_DIM)
        return torch.nn.functional.scaled_dot_product_attention(q, keys, values)

    return graph_us([lambda layer=layer: step(*layer) for layer in layers])


class PeerTable:
    """Rows beside ours, printed as they come."""

    def __init__(self, ours: dict[StepWorkload, StepTime], kv_heads: int) -> None:
        self.rows: list[dict[str, object]] = []
        self._ours = ours
        self._kv_heads = kv_heads
        print(
            "| batch | context | what | budget | ours us | peer | peer us | measured | ours / peer |"
        )
        print("|---|---|---|---|---|---|---|---|---|")

    def add(
        self, what: str, batch: int, context: int, budget: int, peer: str, us: float, measured: str
    ) -> None:
        key = StepWorkload(what, Q_HEADS, self._kv_heads, batch, context, 1, budget, "cold")
        own = self._ours.get(key)
        self.rows.append(
            {
                "what": what,
                "batch": batch,
                "context": context,
                "budget": budget,
                "peer": peer,
                "us": us,
                "measured": measured,
                "ours_us": own.us if own else None,
            }
        )
        ours, ratio = (f"{own.us:.1f}", f"{own.us / us:.2f}") if own else ("-", "-")
        print(
            f"| {batch} | {context} | {what} | {budget} | {ours} | {peer} | {us:.1f} | {measured}"
            f" | {ratio} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--ours", required=True, help="JSON of bench_steps, measured in the same session"
    )
    parser.add_argument("--out", required=True, help="JSON file of the peers' times")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384, 32768, 131072])
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--budget", type=int, default=2048)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_peers: PyTorch sees no GPU; run it on a machine with one", file=sys.stderr)
        return 4

    rows = PeerTable(load_step_times(arguments.ours), arguments.kv_heads)
    for batch in arguments.batches:
        for context in arguments.contexts:
            workload = Workload(arguments.kv_heads, batch, context, arguments.budget)
            peers = [
                ("dense", name, lambda b=backend: dense(workload, b))
                for name, backend in BACKENDS.items()
            ]
            peers.append(("step", "Quest of PyTorch operations", lambda: quest(workload)))
            for what, peer, measure in peers:
                try:
                    us = measure()
                except RuntimeError as error:  # a backend that does not take the shape
                    reason = str(error).splitlines()[0]
                    print(
                        f"bench_peers: {peer}, batch {batch}, {context} tokens: {reason}",
                        file=sys.stderr,
                    )
                    continue
                rows.add(what, batch, context, arguments.budget, peer, us, "here")
                torch.cuda.empty_cache()
    if arguments.kv_heads == 8 and KNOWN_ON in torch.cuda.get_device_name():
        for known in KNOWN:
            if known.batch in arguments.batches and known.context in arguments.contexts:
                rows.add(
                    known.what,
                    known.batch,
                    known.context,
                    known.budget,
                    known.peer,
                    known.us,
                    "elsewhere",
                )
    with open(arguments.out, "w", encoding="utf-8") as out:
        json.dump(
            {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows.rows},
            out,
            indent=1,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
