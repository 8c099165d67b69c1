"""A small random model of every family says what transformers says of a text, at every position, whatever its weights are stored as."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when transformers is imported: no test may ask the network
)
BINARY = os.environ.get("HINDSIGHT_BIN", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="HINDSIGHT_BIN does not name the program")
torch = pytest.importorskip("torch", reason="the reference is torch's, which is not installed")
transformers = pytest.importorskip(
    "transformers", reason="the reference is transformers', which is not installed"
)
if not transformers.utils.is_torch_available():
    pytest.skip("transformers asks for another torch", allow_module_level=True)

LENGTH, VOCABULARY = 320, 48
# Of a negative log-likelihood, in nats: the program computes in float, the reference in double.
TOLERANCE = 5e-5
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
FAMILIES = {
    "llama_mha": ("LlamaConfig", dict(num_key_value_heads=4)),
    "llama3_rope": ("LlamaConfig", dict(head_dim=16, rope_theta=500000.0, rope_scaling=LLAMA3)),
    "llama_linear_rope": (
        "LlamaConfig",
        dict(rope_scaling=dict(rope_type="linear", type="linear", factor=4.0)),
    ),
    "llama_biased": ("LlamaConfig", dict(attention_bias=True)),
    "mistral": ("MistralConfig", dict(head_dim=16, sliding_window=None, rope_theta=1e6)),
    "qwen2": ("Qwen2Config", dict(use_sliding_window=False)),
    "qwen3": ("Qwen3Config", dict(head_dim=16, use_sliding_window=False)),
}
# Type of the stored weights, tied embeddings, size of a shard.
STORED = [("float32", False, "1GB"), ("bfloat16", True, "8KB"), ("float16", False, "16KB")]


@torch.no_grad()
def make_model(folder: Path, family: str, dtype: str, tied: bool, shard: str) -> None:
    name, options = FAMILIES[family]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, name)(**{**SHAPE, **options, "tie_word_embeddings": tied})
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter_name, parameter in model.named_parameters():
        # Large enough that attention is no plain mean, and that biases and norms are seen.
        noise = torch.randn_like(parameter)
        parameter.copy_(1 + 0.2 * noise if "norm" in parameter_name else 0.3 * noise)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)


@torch.no_grad()
def negative_log_likelihoods(folder: Path, tokens: list[int]) -> np.ndarray:
    """Of every token from the third on, given those before it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits = model.double().eval()(torch.tensor([tokens])).logits[0]
    likelihoods = torch.log_softmax(logits.double(), -1)
    return -likelihoods[torch.arange(1, LENGTH - 1), torch.tensor(tokens[2:])].numpy()


@pytest.mark.parametrize("dtype, tied, shard", STORED, ids=[stored[0] for stored in STORED])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_is_as_likely_as_transformers_says(
    tmp_path: Path, family: str, dtype: str, tied: bool, shard: str
) -> None:
    folder = tmp_path / "model"
    make_model(folder, family, dtype, tied, shard)
    assert len(list(folder.glob("*.safetensors"))) > 1 or shard == "1GB"
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, LENGTH).tolist()
    (tmp_path / "text.jsonl").write_text(json.dumps({"tokens": tokens}))
    (tmp_path / "c.yaml").write_text(
        "version: 1\nmodel: model\nmode: teacher_forced\ndata: [text.jsonl]\nprompt_tokens: 1\n"
        "device: cpu\noutput: r.h5\nmethods: [{name: dense, selector: dense}]\n"
    )
    done = subprocess.run(
        [BINARY, "eval", "c.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "r.h5") as file:
        (point,) = file["points"].values()
        ours = point["nll"][0]
    theirs = negative_log_likelihoods(folder, tokens)
    assert ours.shape == theirs.shape and theirs.std() > 0.5
    assert np.abs(ours - theirs).max() < TOLERANCE
