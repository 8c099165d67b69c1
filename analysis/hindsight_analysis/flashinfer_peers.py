"""FlashInfer's kernels as peers: dense decode over pages, over lists, and a Quest step of them.

FlashInfer (Apache-2.0, Python package flashinfer-python) compiles its kernels at first use, which
takes nvcc, ninja and a minute. Planning, which its users do once per step for all layers, is not
timed. A KV head that has a page list of its own is a request of its own: the layout HND of pages
makes that a view. Functions return microseconds per step and layer.
"""

from __future__ import annotations

import flashinfer
import torch

from hindsight_analysis.peer_timing import (
    HEAD_DIM,
    PAGE,
    Q_HEADS,
    Workload,
    graph_us,
    normal,
    page_scores,
)

VERSION: str = flashinfer.__version__


class _PagedDecode:
    """Decode of `requests` queries, each over `pages` pages, whose numbers are in `indices`."""

    def __init__(self, requests: int, q_heads: int, kv_heads: int, pages: int) -> None:
        self.indices = torch.zeros(requests * pages, dtype=torch.int32, device="cuda")
        starts = pages * torch.arange(requests + 1, dtype=torch.int32, device="cuda")
        last = torch.full((requests,), PAGE, dtype=torch.int32, device="cuda")
        self._wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(256 << 20, dtype=torch.uint8, device="cuda"),
            "HND",
            use_cuda_graph=True,
            use_tensor_cores=True,
            paged_kv_indptr_buffer=starts.clone(),
            paged_kv_indices_buffer=self.indices,
            paged_kv_last_page_len_buffer=last.clone(),
        )
        self._wrapper.plan(
            starts,
            self.indices.clone(),
            last,
            q_heads,
            kv_heads,
            HEAD_DIM,
            PAGE,
            q_data_type=torch.bfloat16,
            kv_data_type=torch.bfloat16,
        )

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q [requests, q_heads, d], k and v [pages, kv_heads, PAGE, d]."""
        return self._wrapper.run(q, (k, v))


def _scattered(rows: int, pages: int) -> torch.Tensor:
    """Page tables, int32 [rows, pages]: each row's own pages of the pool, in any order."""
    orders = [torch.randperm(pages, device="cuda") + row * pages for row in range(rows)]
    return torch.stack(orders).to(torch.int32)


def _chosen(rows: int, pages: int, taken: int) -> torch.Tensor:
    """Lists of some of each row's pages, ascending as bench_steps has them: int32 [rows * taken]."""
    lists = [
        torch.randperm(pages, device="cuda")[:taken].sort().values + row * pages
        for row in range(rows)
    ]
    return torch.cat(lists).to(torch.int32)


def dense(workload: Workload) -> float:
    """Over all pages, which are scattered."""
    pages = workload.batch * workload.pages
    decode = _PagedDecode(workload.batch, Q_HEADS, workload.kv_heads, workload.pages)
    decode.indices.copy_(_scattered(workload.batch, workload.pages).view(-1))
    shape = (pages, workload.kv_heads, PAGE, HEAD_DIM)
    layers = [
        (normal(*shape), normal(*shape)) for _ in range(workload.layers(workload.dense_bytes))
    ]
    q = normal(workload.batch, Q_HEADS, HEAD_DIM)
    return graph_us([lambda k=k, v=v: decode(q, k, v) for k, v in layers])


def _pages_of_heads(workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [heads * pages, 1, PAGE, d], heads being those of keys of all sequences."""
    shape = (workload.batch * workload.kv_heads * workload.pages, 1, PAGE, HEAD_DIM)
    return normal(*shape), normal(*shape)


def attend(workload: Workload) -> float:
    """Over lists of pages, one for each KV head."""
    heads = workload.batch * workload.kv_heads
    decode = _PagedDecode(heads, workload.group, 1, workload.chosen_pages)
    decode.indices.copy_(_chosen(heads, workload.pages, workload.chosen_pages))
    layers = [_pages_of_heads(workload) for _ in range(workload.layers(workload.attend_bytes))]
    q = normal(heads, workload.group, HEAD_DIM)
    return graph_us([lambda k=k, v=v: decode(q, k, v) for k, v in layers])


def quest(workload: Workload) -> float:
    """A product for the bounds, FlashInfer's top-k with page table, its attention over the lists."""
    heads = workload.batch * workload.kv_heads
    decode = _PagedDecode(heads, workload.group, 1, workload.chosen_pages)
    table = _scattered(heads, workload.pages)
    lengths = torch.full((heads,), workload.pages, dtype=torch.int32, device="cuda")
    layers = []
    for _ in range(workload.layers(workload.quest_bytes)):
        layers.append((*_pages_of_heads(workload), normal(heads, workload.pages, 2 * HEAD_DIM)))
    q = normal(heads, workload.group, HEAD_DIM)

    def step(k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        chosen = flashinfer.top_k_page_table_transform(
            page_scores(q, bounds), table, lengths, workload.chosen_pages
        )
        decode.indices.copy_(chosen.view(-1))
        return decode(q, k, v)

    return graph_us([lambda layer=layer: step(*layer) for layer in layers])
