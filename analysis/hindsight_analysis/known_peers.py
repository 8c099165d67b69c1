"""What peers take where bench_peers does not run them: measured on another machine of the kind.

One NVIDIA H200, CUDA 13.0, PyTorch 2.11, a FlashInfer of 2026; bfloat16, 32 query and 8 KV heads, head
dimension 128, pages of 16 tokens; medians of 15 to 25 replays of a CUDA graph of 4 to 64 operations, cold
L2 cache. FlashInfer compiles its kernels at first use, which takes a compiler, minutes and its package.
"""

from __future__ import annotations

from dataclasses import dataclass

KNOWN_ON = "H200"  # in the name of the GPU


@dataclass(frozen=True)
class KnownTime:
    what: str  # as bench_steps names it
    batch: int
    context: int
    budget: int
    peer: str
    us: float


def _table(
    what: str, peer: str, budget: int, times: dict[tuple[int, int], float]
) -> list[KnownTime]:
    return [
        KnownTime(what, batch, context, budget, peer, us) for (batch, context), us in times.items()
    ]


def _dense(peer: str, one: list[float], eight: list[float]) -> list[KnownTime]:
    contexts = (4096, 16384, 32768, 131072)
    times = {(1, context): us for context, us in zip(contexts, one)}
    times |= {(8, context): us for context, us in zip(contexts, eight)}
    return _table("dense", peer, 2048, times)


KNOWN = [
    *_dense("FlashInfer, paged", [14.0, 27.4, 42.6, 137], [42.4, 133, 254, 972]),
    *_dense("XQA, paged", [12.9, 26.5, 46.9, 163], [46.2, 162, 317, 1250]),
    *_table("attend", "best of them", 512, {(1, 32768): 8.8, (8, 32768): 10.9}),
    *_table("attend", "best of them", 2048, {(1, 32768): 10.2, (8, 32768): 26.1}),
    *_table("attend", "best of them", 4096, {(1, 32768): 12.5, (8, 32768): 43.5}),
    *_table(
        "step",
        "best composition of kernels",
        2048,
        {(1, 32768): 20.1, (1, 131072): 35.1, (8, 32768): 55.8, (8, 131072): 121.9},
    ),
]
