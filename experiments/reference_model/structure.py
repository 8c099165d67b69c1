"""The structure of a model's attention: whether it is a fair subject for sparse attention.

Of the last queries of a sequence, by layer, averaged over queries, heads and sequences.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .attention import repeat_kv
from .generate import prefill_attention
from .network import Network, rope_tables

PAGE = 16
BUDGET = 0.15  # of the pages
UNION_STEPS = 7


def masses(q: Tensor, k: Tensor, first: int) -> Tensor:
    """Attention weights of queries q [B, Hq, Q, d], the first at position `first`, on keys k [B, Hkv, T, d]:
    [B, Hq, Q, T]."""
    positions = torch.arange(first, first + q.shape[2], device=q.device)
    logits = q @ repeat_kv(k, q.shape[1]).transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.arange(k.shape[2], device=q.device) > positions[:, None]
    return logits.masked_fill(later, -math.inf).softmax(-1)


def page_scores(q: Tensor, k: Tensor) -> Tensor:
    """Quest's bound of each page for each query head: [B, Hq, Q, pages] from page-wise minima and maxima of k."""
    pages = -(-k.shape[2] // PAGE)
    missing = pages * PAGE - k.shape[2]
    padded = torch.cat([k, k[:, :, -1:].expand(-1, -1, missing, -1)], 2)
    paged = padded.view(*k.shape[:2], pages, PAGE, k.shape[3])
    low, high = (repeat_kv(x, q.shape[1]).transpose(-1, -2) for x in (paged.amin(3), paged.amax(3)))
    return q.clamp(min=0) @ high + q.clamp(max=0) @ low


def selected_pages(scores: Tensor, first: int) -> Tensor:
    """The best BUDGET of all pages by scores [B, U, Q, pages], the query's own page among them: a mask."""
    pages = scores.shape[-1]
    own = torch.arange(first, first + scores.shape[2], device=scores.device) // PAGE
    page = torch.arange(pages, device=scores.device)
    scores = scores.masked_fill(page > own[:, None], -math.inf).masked_fill(page == own[:, None], math.inf)
    best = scores.topk(math.ceil(BUDGET * pages), -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def union_growth(selected: Tensor) -> list[float]:
    """Size of the union of the sets of steps u .. u + n over that of one step, for n = 1 .. UNION_STEPS."""
    size = selected[0, 0, 0].sum().item()
    union, growth = selected, []
    for n in range(1, UNION_STEPS + 1):
        union = union[:, :, :-1] | selected[:, :, n:]
        growth.append(union.sum(-1).float().mean().item() / size)
    return growth


def layer_structure(q: Tensor, k: Tensor, first: int) -> dict[str, float | list[float]]:
    """All measures of one layer: q [B, Hq, Q, d] from position `first` on, k [B, Hkv, T, d]."""
    length, group = k.shape[2], q.shape[1] // k.shape[1]
    mass = masses(q, k, first)
    positions = torch.arange(first, first + q.shape[2], device=q.device)
    recent = torch.arange(length, device=q.device) > positions[:, None] - 64
    ordered = mass.sort(-1, descending=True).values
    found: dict[str, float | list[float]] = {
        f"top_{percent}_percent": ordered[..., : math.ceil(length * percent / 100)].sum(-1).mean().item()
        for percent in (5, 15)
    }
    found["first_4"] = mass[..., :4].sum(-1).mean().item()
    found["last_64"] = (mass * recent).sum(-1).mean().item()
    scores = page_scores(q, k)
    scores = scores.view(scores.shape[0], -1, group, *scores.shape[2:])
    page_mass = torch.nn.functional.pad(mass, (0, -length % PAGE)).unflatten(-1, (-1, PAGE)).sum(-1)
    page_mass = page_mass.view(scores.shape)
    for name, combined in (("mean", scores.mean(2)), ("max", scores.amax(2)), ("oracle", page_mass.mean(2))):
        selected = selected_pages(combined, first)
        size = selected[0, 0, 0].sum()
        kept = selected[:, :, 1:] & selected[:, :, :-1]
        found[f"mass_{name}"] = (page_mass * selected[:, :, None]).sum(-1).mean().item()
        found[f"overlap_{name}"] = (kept.sum(-1) / size).float().mean().item()
        found[f"union_{name}"] = union_growth(selected)
    return found


@torch.no_grad()
def structure(network: Network, tokens: Tensor, queries: int) -> list[dict[str, float | list[float]]]:
    """`layer_structure` of every layer for the last `queries` positions of tokens [B, T], a sequence at a time."""
    batch, length = tokens.shape
    first = length - queries
    rope = rope_tables(torch.arange(length, device=tokens.device), network.config)
    layers: list[list[dict]] = [[] for _ in range(network.config.n_layers)]

    def attention(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        layers[layer].append(layer_structure(q[:, :, first:].float(), k.float(), first))
        return prefill_attention(q, k, v)

    for i in range(batch):
        network.hidden_states(tokens[i : i + 1], attention, rope, network.head.dtype)
    return [mean_of(sequences) for sequences in layers]


def mean_of(found: list[dict[str, float | list[float]]]) -> dict[str, float | list[float]]:
    """The mean of each measure over several."""
    return {
        name: torch.tensor([one[name] for one in found], dtype=torch.float64).mean(0).tolist() for name in found[0]
    }
