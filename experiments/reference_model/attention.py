"""Causal attention for training and prefill: a readable one, and the fastest that the device's PyTorch has."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import Attention, ModelConfig


def repeat_kv(x: Tensor, n_q_heads: int) -> Tensor:
    """[B, Hkv, T, d] -> [B, Hq, T, d]: query head h reads KV head h / (Hq / Hkv)."""
    return x.repeat_interleave(n_q_heads // x.shape[1], 1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    """By its definition, in float32; O(T^2) memory."""
    length = q.shape[2]
    k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
    logits = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(length, length, device=q.device, dtype=torch.bool).triu(1)
    return (logits.masked_fill(later, -math.inf).softmax(-1) @ v.float()).to(q.dtype)


def candidates(device: str) -> dict[str, Attention]:
    """What this device's PyTorch offers, by name."""
    if device == "cpu":
        return {"plain": plain_attention}
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def with_backend(backend: SDPBackend, grouped: bool) -> Attention:
        def attention(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
            if not grouped:
                k, v = repeat_kv(k, q.shape[1]), repeat_kv(v, q.shape[1])
            with sdpa_kernel([backend]):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

        return attention

    return {
        f"{backend.name.lower()}{'' if grouped else ', repeated KV'}": with_backend(backend, grouped)
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
        for grouped in (True, False)
    }


def fastest_attention(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype
) -> tuple[str, Attention]:
    """The candidate that takes least for a forward and backward pass of this shape, with its name.

    Candidates that fail, or differ from the first by more than 2 %, are left out; RuntimeError if none is left.
    """
    options = candidates(device)
    if len(options) == 1:
        return next(iter(options.items()))

    def tensor(heads: int) -> Tensor:
        shape = (batch, length, heads, config.head_dim)
        return torch.randn(shape, device=device, dtype=dtype).transpose(1, 2).requires_grad_()

    q, k, v = tensor(config.n_q_heads), tensor(config.n_kv_heads), tensor(config.n_kv_heads)
    gradient = torch.randn_like(q)
    reference, seconds, failures = None, {}, []
    for name, attention in options.items():
        try:
            out = attention(q, k, v)
            out.backward(gradient)  # the first call may compile
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(3):
                attention(q, k, v).backward(gradient)
            torch.cuda.synchronize()
        except RuntimeError as error:
            failures.append(f"{name}: {error}")
            continue
        reference = out.detach().float() if reference is None else reference
        if (out.detach().float() - reference).norm() <= 0.02 * reference.norm():
            seconds[name] = time.perf_counter() - start
    if not seconds:
        raise RuntimeError("no attention of this PyTorch works here: " + "; ".join(failures))
    best = min(seconds, key=seconds.__getitem__)
    return best, options[best]
