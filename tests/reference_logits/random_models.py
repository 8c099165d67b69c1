"""Makes random_<name>/: small random models as transformers saves them, and transformers' logits of each.

    python tests/reference_logits/random_models.py [NAME...]

Needs torch and transformers (those stored are of torch 1.13 and transformers 4.46.3, that of qwen3, which these do not
know, of torch 2.5.1 and transformers 4.57.3). Weights are stored in 16 bits, or all as float32, and computed in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
LENGTH = 320
POSITIONS = [0, 1, 15, 16, 100, 200, 319]
SHAPE = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=0,
    eos_token_id=1,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

# name -> (configuration, type that weights are stored in, size of a shard)
MODELS = {
    "llama": (transformers.LlamaConfig(**SHAPE, head_dim=8), torch.bfloat16, "1GB"),
    "llama3_rope": (
        transformers.LlamaConfig(**SHAPE, head_dim=16, rope_scaling=LLAMA3, tie_word_embeddings=True),
        torch.float16,
        "1GB",
    ),
    "llama_biased_in_shards": (transformers.LlamaConfig(**SHAPE, attention_bias=True), torch.bfloat16, "4KB"),
    "mistral": (
        transformers.MistralConfig(**SHAPE, head_dim=8, sliding_window=None, rope_theta=1e6),
        torch.bfloat16,
        "1GB",
    ),
    "qwen2": (transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True), torch.bfloat16, "1GB"),
}
if hasattr(transformers, "Qwen3Config"):
    MODELS["qwen3"] = (transformers.Qwen3Config(**SHAPE, head_dim=8), torch.float32, "16KB")


@torch.no_grad()
def make(name: str, config, dtype: torch.dtype, shard: str) -> None:
    torch.manual_seed(sorted(MODELS).index(name))
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter_name, parameter in model.named_parameters():
        # Large enough that attention is no plain mean, biases and norms are seen, and logits are around 1.
        noise = torch.randn_like(parameter)
        is_norm = "norm" in parameter_name
        parameter.copy_(1 + 0.1 * noise if is_norm else 0.4 * noise)
    folder = HERE / f"random_{name}"
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokens = torch.randint(0, config.vocab_size, (1, LENGTH))
    logits = model(tokens).logits[0, POSITIONS]
    save_file(
        {
            "tokens": tokens[0].to(torch.int32),
            "positions": torch.tensor(POSITIONS, dtype=torch.int32),
            "logits": logits.contiguous(),
        },
        folder / "logits.safetensors",
    )
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    for key in sys.argv[1:] or MODELS:
        make(key, *MODELS[key])
