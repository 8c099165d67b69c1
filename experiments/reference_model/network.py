"""The network: a Llama over bytes, written so that all layers' matrices of a kind are one parameter.

Stacked parameters let the optimiser orthogonalise a kind of matrix in one batch, and the parts of a layer
before and after attention are functions of tensors, compiled once for all layers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B, Hq, T, d], k [B, Hkv, T, d], v [B, Hkv, T, d]) -> [B, Hq, T, d], causal."""

VOCABULARY = 256  # a token is a byte; byte 0 begins every sequence


@dataclass(frozen=True)
class ModelConfig:
    n_layers: int = 8
    hidden: int = 256
    n_q_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 704
    context: int = 8192
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5

    def to_transformers(self) -> dict:
        """What `config.json` holds, for `LlamaForCausalLM`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_q_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": None,
            "pad_token_id": None,
            "torch_dtype": "bfloat16",
            "dtype": "bfloat16",
            "use_cache": True,
        }

    @staticmethod
    def from_transformers(config: dict) -> ModelConfig:
        return ModelConfig(
            n_layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            n_q_heads=config["num_attention_heads"],
            n_kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            ffn=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )


SIZES = {
    "small": ModelConfig(),
    "medium": ModelConfig(hidden=384, n_q_heads=6, ffn=960),
    "tiny": ModelConfig(n_layers=2, hidden=64, n_q_heads=2, n_kv_heads=1, head_dim=32, ffn=96, context=512),
}


def rope_tables(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n, head_dim / 2] in float32 of positions [n].

    Rounded as transformers does: at position 2000 another order of operations moves the logits by 1e-5.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1.0 / (config.rope_theta ** (exponents / config.head_dim))
    angles = positions.float()[:, None] * frequencies[None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [n, heads, d], halves rotated against each other; in float32."""
    a, b = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def before_attention(
    x: Tensor, norm: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, hidden] -> post-RoPE q [n, Hq, d] and k [n, Hkv, d], and v [n, Hkv, d]."""
    n_q, n_k = wq.shape[0], wk.shape[0]
    dim = 2 * cos.shape[-1]
    joint = F.linear(rms_norm(x, norm, eps), torch.cat([wq, wk, wv], 0))
    q, k, v = joint[:, :n_q], joint[:, n_q : n_q + n_k], joint[:, n_q + n_k :]
    q, k = q.reshape(-1, n_q // dim, dim), k.reshape(-1, n_k // dim, dim)
    return rotate(q, cos, sin), rotate(k, cos, sin), v.reshape(-1, n_k // dim, dim)


def after_attention(
    x: Tensor, attended: Tensor, wo: Tensor, norm: Tensor, wg: Tensor, wu: Tensor, wd: Tensor, eps: float
) -> Tensor:
    """The residual stream [n, hidden] after the output projection and the feed-forward network."""
    x = x + F.linear(attended, wo)
    joint = F.linear(rms_norm(x, norm, eps), torch.cat([wg, wu], 0))
    ffn = wg.shape[0]
    return x + F.linear(F.silu(joint[:, :ffn]) * joint[:, ffn:], wd)


def weighted_loss(
    x: Tensor, norm: Tensor, head: Tensor, targets: Tensor, weights: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of weighted losses, loss of every byte in nats, whether its byte is the most likely)."""
    logits = F.linear(rms_norm(x, norm, eps), head).float()
    losses = torch.logsumexp(logits, -1) - logits.gather(1, targets[:, None]).squeeze(1)
    return (losses * weights).sum(), losses.detach(), logits.argmax(-1) == targets


@dataclass(frozen=True)
class Parts:
    """The functions of a layer and of the loss, compiled or not."""

    before: Callable = before_attention
    after: Callable = after_attention
    loss: Callable = weighted_loss

    @staticmethod
    def compiled() -> Parts:
        return Parts(*(torch.compile(f, dynamic=False, fullgraph=True) for f in (before_attention, after_attention, weighted_loss)))


class Network(nn.Module):
    MATRICES = ("wq", "wk", "wv", "wo", "wg", "wu", "wd")

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        n, hidden, ffn = config.n_layers, config.hidden, config.ffn
        q, kv = config.n_q_heads * config.head_dim, config.n_kv_heads * config.head_dim
        into_residual = 1 / math.sqrt(2 * n)  # 2 n additions to the residual stream

        def matrices(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, rows, columns) * (0.7 * scale / math.sqrt(columns)))

        self.embedding = nn.Parameter(torch.randn(VOCABULARY, hidden) * 0.5)
        self.head = nn.Parameter(torch.randn(VOCABULARY, hidden) * 0.02)
        self.wq, self.wk, self.wv = matrices(q, hidden), matrices(kv, hidden), matrices(kv, hidden)
        self.wo = matrices(hidden, q, into_residual)
        self.wg, self.wu = matrices(ffn, hidden), matrices(ffn, hidden)
        self.wd = matrices(hidden, ffn, into_residual)
        self.attention_norm = nn.Parameter(torch.ones(n, hidden))
        self.ffn_norm = nn.Parameter(torch.ones(n, hidden))
        self.final_norm = nn.Parameter(torch.ones(hidden))

    def hidden_states(
        self, tokens: Tensor, attention: Callable[..., Tensor], rope: tuple[Tensor, Tensor], dtype: torch.dtype,
        parts: Parts = Parts(),
    ) -> Tensor:
        """tokens [B, T] -> [B * T, hidden] before the last norm. rope: tables of B * T rows.

        attention: as `Attention`, called with the layer's number as fourth argument.
        """
        c = self.config
        batch, length = tokens.shape
        w = {name: getattr(self, name).to(dtype).unbind(0) for name in self.MATRICES}
        attention_norm, ffn_norm = self.attention_norm.unbind(0), self.ffn_norm.unbind(0)

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, length, -1, c.head_dim).transpose(1, 2)

        x = F.embedding(tokens.reshape(-1), self.embedding.to(dtype))
        for i in range(c.n_layers):
            q, k, v = parts.before(x, attention_norm[i], w["wq"][i], w["wk"][i], w["wv"][i], *rope, c.norm_eps)
            attended = attention(heads(q), heads(k), heads(v), i).transpose(1, 2).reshape(batch * length, -1)
            x = parts.after(x, attended, w["wo"][i], ffn_norm[i], w["wg"][i], w["wu"][i], w["wd"][i], c.norm_eps)
        return x

    def loss(
        self, tokens: Tensor, targets: Tensor, weights: Tensor, attention: Callable[..., Tensor],
        rope: tuple[Tensor, Tensor], dtype: torch.dtype, parts: Parts = Parts(),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`weighted_loss` of targets and weights [B, T]."""
        x = self.hidden_states(tokens, attention, rope, dtype, parts)
        return parts.loss(
            x, self.final_norm, self.head.to(dtype), targets.reshape(-1), weights.reshape(-1), self.config.norm_eps
        )

    def logits(self, x: Tensor) -> Tensor:
        """[n, hidden] -> [n, 256] in float32."""
        return F.linear(rms_norm(x, self.final_norm, self.config.norm_eps), self.head.to(x.dtype)).float()

    # --- files as transformers reads them

    def _named_for_transformers(self) -> dict[str, Tensor]:
        named = {
            "model.embed_tokens.weight": self.embedding,
            "lm_head.weight": self.head,
            "model.norm.weight": self.final_norm,
        }
        of_layer = {
            "self_attn.q_proj": self.wq,
            "self_attn.k_proj": self.wk,
            "self_attn.v_proj": self.wv,
            "self_attn.o_proj": self.wo,
            "mlp.gate_proj": self.wg,
            "mlp.up_proj": self.wu,
            "mlp.down_proj": self.wd,
            "input_layernorm": self.attention_norm,
            "post_attention_layernorm": self.ffn_norm,
        }
        for layer in range(self.config.n_layers):
            for name, stacked in of_layer.items():
                named[f"model.layers.{layer}.{name}.weight"] = stacked[layer]
        return {name: tensor.detach() for name, tensor in named.items()}

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors (bfloat16)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config.to_transformers(), indent=1) + "\n")
        tensors = self._named_for_transformers()
        save_file(
            {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()},
            str(folder / "model.safetensors"),
            metadata={"format": "pt"},
        )

    @staticmethod
    def load(folder: Path, device: str = "cpu") -> Network:
        """Reads a folder of config.json and *.safetensors; the parameters are float32."""
        network = Network(ModelConfig.from_transformers(json.loads((folder / "config.json").read_text())))
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(str(file))
        with torch.no_grad():
            for name, tensor in network._named_for_transformers().items():
                tensor.copy_(tensors[name])
        return network.to(device)
