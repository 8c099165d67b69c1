"""Makes reference_model.safetensors: logits of the reference model at selected positions, computed in float64.

    .venv/bin/python tests/reference_logits/reference_model.py

Needs NumPy alone. Shares no code with hindsight or with what the model was trained by; frequencies and angles of the
rotary embedding are float32, as the model's definition has them. Takes a few minutes.
"""

from __future__ import annotations

import json
import lzma
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "experiments" / "reference_model"
LENGTH = 4096
POSITIONS = [0, 1, 2, 15, 16, 17, 255, 256, 1000, 2047, 3333, 4095]


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Tensors in float64; bfloat16 is the upper half of a float32."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin : 8 + size + end]
        assert entry["dtype"] == "BF16"
        bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).astype(np.float64).reshape(entry["shape"])
    return tensors


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    names = {"int32": "I32", "float32": "F32"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        header[name] = {
            "dtype": names[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotated(x: np.ndarray, theta: float) -> np.ndarray:
    """x [T, heads, d], row t rotated to position t."""
    half = x.shape[-1] // 2
    frequencies = (theta ** (-np.arange(half) / half)).astype(np.float32)
    angles = np.arange(len(x), dtype=np.float32)[:, None] * frequencies
    cosine, sine = (f(angles.astype(np.float64))[:, None] for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal; [T, Hq, d], [T, Hkv, d] -> [T, Hq * d]."""
    length, heads, dim = q.shape
    out = np.empty_like(q)
    for head in range(heads):
        kv = head // (heads // k.shape[1])
        for first in range(0, length, 512):
            rows = slice(first, min(length, first + 512))
            logits = q[rows, head] @ k[: rows.stop, kv].T / np.sqrt(dim)
            logits[np.arange(rows.stop)[None] > np.arange(rows.start, rows.stop)[:, None]] = -np.inf
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out[rows, head] = weights / weights.sum(-1, keepdims=True) @ v[: rows.stop, kv]
    return out.reshape(length, -1)


def all_logits(config: dict, w: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    dim, epsilon = config["head_dim"], config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        h = rms_norm(x, w[name + "input_layernorm.weight"], epsilon)
        q, k, v = (
            (h @ w[f"{name}self_attn.{part}_proj.weight"].T).reshape(len(x), -1, dim) for part in "qkv"
        )
        mixed = attention(rotated(q, config["rope_theta"]), rotated(k, config["rope_theta"]), v)
        x = x + mixed @ w[name + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[name + "post_attention_layernorm.weight"], epsilon)
        gate, up = (h @ w[f"{name}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + gate / (1 + np.exp(-gate)) * up @ w[name + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], epsilon) @ w["lm_head.weight"].T


def main() -> None:
    config = json.loads((MODEL / "model" / "config.json").read_text())
    text = lzma.decompress((MODEL / "heldout" / "english.txt.xz").read_bytes())
    tokens = np.frombuffer(b"\0" + text[: LENGTH - 1], np.uint8)
    logits = all_logits(config, read_safetensors(MODEL / "model" / "model.safetensors"), tokens)
    write_safetensors(
        HERE / "reference_model.safetensors",
        {
            "tokens": tokens.astype(np.int32),
            "positions": np.array(POSITIONS, np.int32),
            "logits": logits[POSITIONS].astype(np.float32),
        },
    )


if __name__ == "__main__":
    main()
