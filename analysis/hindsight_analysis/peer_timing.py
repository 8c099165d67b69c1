"""Workloads of the peers, and how one is timed: in a graph of layers larger than the L2 cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

Q_HEADS, HEAD_DIM, PAGE, REPLAYS = 32, 128, 16, 21


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
    def group(self) -> int:
        return Q_HEADS // self.kv_heads

    @property
    def pages(self) -> int:
        """Of one sequence."""
        return self.context // PAGE

    @property
    def chosen_pages(self) -> int:
        return min(self.budget, self.context) // PAGE

    @property
    def dense_bytes(self) -> int:
        return self.batch * self.context * 2 * self.kv_heads * HEAD_DIM * 2

    @property
    def attend_bytes(self) -> int:
        return self.batch * self.chosen_pages * PAGE * 2 * self.kv_heads * HEAD_DIM * 2

    @property
    def quest_bytes(self) -> int:
        return self.attend_bytes + self.batch * self.pages * 2 * self.kv_heads * HEAD_DIM * 2


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def page_scores(q: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Quest's bound of every page as one product [q+, q-].[max; min], the mean over the group.

    q [heads, group, d], bounds [heads, pages, 2d] -> [heads, pages], heads being those of keys.
    """
    weights = torch.cat([q.clamp(min=0), q.clamp(max=0)], dim=-1).mean(1, keepdim=True)
    return torch.bmm(weights, bounds.transpose(1, 2)).squeeze(1)


def graph_us(runs: list[Callable[[], object]]) -> float:
    """Microseconds per run: the runs captured one after another, median of the replays."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which made the inputs
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
