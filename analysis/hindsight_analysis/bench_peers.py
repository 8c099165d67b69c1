"""Times what a user could assemble today, beside bench_steps in the same session; prints ratios.

    build/release/apps/bench/bench_steps --benchmark_out=ours.json
    python -m hindsight_analysis.bench_peers --ours ours.json --out peers.json

Needs a GPU and PyTorch. Peers: PyTorch's scaled_dot_product_attention over contiguous keys and
values (each backend that runs), a Quest step of PyTorch operations (page bounds as one product,
topk, gather, attention), and FlashInfer's kernels where it is installed (flashinfer_peers.py).
Peers that were not run stand beside them on a GPU of the kind that they were measured on, marked as
measured elsewhere (known_peers.py). Each is captured in a CUDA graph that goes through layers whose
working set exceeds the L2 cache; a time is the median of 21 replays, divided by the layers.
bfloat16, 32 query heads, head dimension 128, as in bench_steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hindsight_analysis.known_peers import KNOWN, KNOWN_ON
from hindsight_analysis.peer_timing import (
    HEAD_DIM,
    PAGE,
    Q_HEADS,
    Workload,
    graph_us,
    normal,
    page_scores,
)
from hindsight_analysis.step_times import StepTime, load_step_times
from hindsight_analysis.step_times import Workload as StepWorkload

try:
    from hindsight_analysis import flashinfer_peers
except ModuleNotFoundError as error:
    if error.name != "flashinfer":
        raise
    flashinfer_peers = None

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


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
    pages, budget = workload.pages, workload.chosen_pages
    heads = workload.batch * workload.kv_heads
    layers = []
    for _ in range(workload.layers(workload.quest_bytes)):
        k = normal(heads, pages, PAGE, HEAD_DIM)
        v = normal(heads, pages, PAGE, HEAD_DIM)
        bounds = torch.cat([k.amax(2), k.amin(2)], dim=-1)
        layers.append((k, v, bounds))
    q = normal(heads, workload.group, HEAD_DIM)

    def step(k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        chosen = page_scores(q, bounds).topk(budget, dim=-1, sorted=False).indices[:, :, None, None]
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

    def has(self, what: str, batch: int, context: int, budget: int, peer: str) -> bool:
        cell = {"what": what, "batch": batch, "context": context, "budget": budget, "peer": peer}
        return any(cell.items() <= row.items() for row in self.rows)

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


def peers_of(
    workload: Workload, lists: list[int]
) -> Iterator[tuple[str, int, str, Callable[[], float]]]:
    """What is timed, its budget, whose it is, and the function that times it.

    `lists` are the budgets of page lists.
    """
    budget = workload.budget
    for name, backend in BACKENDS.items():
        yield "dense", budget, name, lambda b=backend: dense(workload, b)
    yield "step", budget, "Quest of PyTorch operations", lambda: quest(workload)
    if flashinfer_peers is None:
        return
    yield "dense", budget, "FlashInfer, paged", lambda: flashinfer_peers.dense(workload)
    yield "step", budget, "Quest of FlashInfer's kernels", lambda: flashinfer_peers.quest(workload)
    for tokens in lists:
        listed = replace(workload, budget=tokens)
        yield "attend", tokens, "FlashInfer, lists", lambda w=listed: flashinfer_peers.attend(w)


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

    if flashinfer_peers is None:
        print("bench_peers: FlashInfer is not installed; its times are left out", file=sys.stderr)

    ours = load_step_times(arguments.ours)
    rows = PeerTable(ours, arguments.kv_heads)
    for batch in arguments.batches:
        for context in arguments.contexts:
            workload = Workload(arguments.kv_heads, batch, context, arguments.budget)
            lists = {
                run.budget
                for run in ours
                if (run.what, run.kv_heads, run.batch, run.context, run.cache)
                == ("attend", arguments.kv_heads, batch, context, "cold")
            }
            for what, budget, peer, measure in peers_of(workload, sorted(lists)):
                try:
                    us = measure()
                except (RuntimeError, ValueError) as error:  # a peer that does not take the shape
                    reason = str(error).splitlines()[0]
                    print(
                        f"bench_peers: {peer}, batch {batch}, {context} tokens: {reason}",
                        file=sys.stderr,
                    )
                    continue
                rows.add(what, batch, context, budget, peer, us, "here")
                torch.cuda.empty_cache()
    if arguments.kv_heads == 8 and KNOWN_ON in torch.cuda.get_device_name():
        for known in KNOWN:
            cell = (known.what, known.batch, known.context, known.budget, known.peer)
            if known.batch not in arguments.batches or known.context not in arguments.contexts:
                continue
            if not rows.has(*cell):
                rows.add(*cell, known.us, "elsewhere")
    versions = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if flashinfer_peers is not None:
        versions["flashinfer"] = flashinfer_peers.VERSION
    with open(arguments.out, "w", encoding="utf-8") as out:
        json.dump({**versions, "rows": rows.rows}, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
