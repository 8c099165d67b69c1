"""Greedy generation with a dense KV cache: the reference that sparse methods are compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import plain_attention, repeat_kv
from .network import Network, rope_tables

PREFILL_ROWS = 8  # sequences at a time


def prefill_attention(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    """Causal attention without its O(T^2) memory, where PyTorch has that."""
    if not hasattr(F, "scaled_dot_product_attention"):
        return plain_attention(q, k, v)
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@torch.no_grad()
def sequence_logits(network: Network, tokens: Tensor) -> Tensor:
    """tokens [B, T] -> [B, T, 256], in the parameters' type."""
    batch, length = tokens.shape
    positions = torch.arange(length, device=tokens.device).repeat(batch)
    x = network.hidden_states(
        tokens, prefill_attention, rope_tables(positions, network.config), network.head.dtype
    )
    return network.logits(x).view(batch, length, -1)


class _Cache:
    """Keys and values of all layers [B, Hkv, capacity, d]."""

    def __init__(self, network: Network, batch: int, capacity: int):
        c = network.config
        shape = (c.n_layers, batch, c.n_kv_heads, capacity, c.head_dim)
        self.keys = torch.zeros(shape, device=network.head.device, dtype=network.head.dtype)
        self.values = torch.zeros_like(self.keys)

    def prefill(self, rows: slice):
        """An attention that keeps the keys and values of these rows."""

        def attention(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            self.keys[layer, rows, :, : k.shape[2]] = k
            self.values[layer, rows, :, : v.shape[2]] = v
            return prefill_attention(q, k, v)

        return attention

    def decode(self, position: int):
        """An attention of one query a sequence over the cache up to and with its position."""

        def attention(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            self.keys[layer, :, :, position] = k[:, :, 0]
            self.values[layer, :, :, position] = v[:, :, 0]
            keys = self.keys[layer, :, :, : position + 1]
            batch, n_q, _, dim = q.shape
            grouped = q.view(batch, keys.shape[1], -1, dim)  # the queries of a KV head as rows
            weights = (grouped @ keys.transpose(-1, -2) / math.sqrt(dim)).softmax(-1)
            return (weights @ self.values[layer, :, :, : position + 1]).view(batch, n_q, 1, dim)

        return attention


@torch.no_grad()
def generate(network: Network, prompts: Tensor, count: int) -> Tensor:
    """prompts [B, P] -> the `count` most likely next bytes of each [B, count], one after the other."""
    batch, length = prompts.shape
    dtype = network.head.dtype
    cache = _Cache(network, batch, length + count)
    last = []
    for start in range(0, batch, PREFILL_ROWS):
        rows = slice(start, min(batch, start + PREFILL_ROWS))
        positions = torch.arange(length, device=prompts.device).repeat(rows.stop - rows.start)
        rope = rope_tables(positions, network.config)
        x = network.hidden_states(prompts[rows], cache.prefill(rows), rope, dtype)
        last.append(network.logits(x.view(-1, length, network.config.hidden)[:, -1]).argmax(-1))
    token = torch.cat(last)
    generated = [token]
    for position in range(length, length + count - 1):
        rope = rope_tables(torch.full((batch,), position, device=prompts.device), network.config)
        x = network.hidden_states(token[:, None], cache.decode(position), rope, dtype)
        token = network.logits(x).argmax(-1)
        generated.append(token)
    return torch.stack(generated, 1)
