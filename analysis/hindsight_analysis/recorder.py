"""Records what a Hugging Face model hands to its attention while it reads and writes a sequence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from hindsight_analysis.errors import USAGE, CommandError

# model_type of the configuration: families of which tests show that attention over what is recorded
# is the model's attention.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

ATTENTION_NAME = "hindsight_recorder"

Sink = Callable[[int, int, np.ndarray, np.ndarray, np.ndarray], None]


def check_family(config) -> None:
    """Refuses models whose attention a trace cannot stand for."""
    if config.model_type not in FAMILIES:
        raise CommandError(
            USAGE,
            f"--model: family {config.model_type} is not known; one of {', '.join(FAMILIES)} "
            "would be right",
        )
    # Older configurations have no layer_types: their sliding_window, unless null, is every layer's.
    layer_types = getattr(config, "layer_types", None)
    slides = (
        "sliding_attention" in layer_types
        if layer_types
        else getattr(config, "sliding_window", None)
    )
    if slides:
        raise CommandError(
            USAGE,
            f"--model: its attention slides over a window of {config.sliding_window} tokens, and a "
            "trace is replayed with attention over all tokens; a model with full attention "
            "would be right",
        )


def head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def record(model, layers: list[int], sink: Sink) -> None:
    """Makes every attention call of the model go through transformers' SDPA, then to `sink`.

    sink(layer, position, q, k, v) gets the rows of one call in one of `layers`, of the positions
    position .. position + n - 1: q [n, Hq, d], k and v [n, Hkv, d], float32, after rotary embedding
    (and after the norms of queries and keys, where a family has them). The batch is 1.
    """
    wanted = set(layers)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        result = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        layer = module.layer_idx
        if layer in wanted:
            d = query.shape[-1]
            if scaling is not None and abs(scaling * d**0.5 - 1) > 1e-6:
                raise CommandError(
                    USAGE, f"--model: scales its softmax by {scaling}, not by 1/sqrt({d})"
                )
            # [1, heads, rows, d]; keys and values hold the cached rows before the new ones
            n = query.shape[2]

            def new_rows(x):
                return x[0, :, -n:].transpose(0, 1).float().cpu().numpy()

            sink(layer, key.shape[2] - n, new_rows(query), new_rows(key), new_rows(value))
        return result

    AttentionInterface.register(ATTENTION_NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(ATTENTION_NAME)


@torch.no_grad()
def run_model(
    model,
    tokens: np.ndarray,
    generate: int,
    chunk: int,
    temperature: float = 0.0,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Feeds tokens [n] through the cache, `chunk` at once; then the model writes `generate` more.

    Greedy where temperature is 0. The last token too is fed, so that every position has its keys
    and queries. Returns the ids of all n + generate tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    cache = DynamicCache(config=model.config)
    ids = tokens.tolist()
    total = len(ids) + generate
    position = 0
    while position < total:
        rows = torch.tensor([ids[position : position + chunk]], device=model.device)
        output = model(input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
        position += rows.shape[1]
        if position == len(ids) < total:
            logits = output.logits[0, -1].float().cpu()
            if temperature > 0:
                weights = torch.softmax(logits / temperature, -1)
                ids.append(int(torch.multinomial(weights, 1, generator=generator)))
            else:
                ids.append(int(logits.argmax()))
        on_progress(position)
    return np.array(ids, np.int32)
