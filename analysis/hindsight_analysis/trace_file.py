"""Trace files (format hindsight-trace, version 1): README, "Trace files"."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

# How each storage type lies in the file; bfloat16 as its bits, marked by an attribute.
STORAGE: dict[str, np.dtype] = {
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}

CHUNK_BYTES = 256 << 10  # large enough to compress and to read fast, small enough to read rows of


class ValueOutOfRange(Exception):
    """A value that the storage type cannot hold, or that is not finite."""


@dataclass(frozen=True)
class TraceInfo:
    """What a trace says of itself. Decode steps are the positions prompt_tokens .. n_tokens - 1."""

    model: str
    n_tokens: int
    prompt_tokens: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    n_model_layers: int
    softmax_scale: float
    layers: list[int]
    source: str = "captured"
    rope: str = "applied"
    capture: str = ""


def to_storage(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in the storage type, rounded to nearest even. Raises ValueOutOfRange."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        finite = np.isfinite(values) & ((stored & 0x7F80) != 0x7F80)
    else:
        with np.errstate(over="ignore"):
            stored = values.astype(STORAGE[dtype])
        finite = np.isfinite(stored)
    if not finite.all():
        raise ValueOutOfRange(f"the value {values[~finite][0]} does not fit")
    return stored


def from_storage(dataset: h5py.Dataset) -> np.ndarray:
    """All values of a dataset of a trace, as float32."""
    values = dataset[...]
    # Text of fixed length, which the program writes, is read as bytes.
    if dataset.attrs.get("dtype") in ("bf16", b"bf16"):
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class TraceWriter:
    """Writes a trace rows at a time; the file gets its name when it is whole.

    A context manager: after an error nothing is left. Raises OSError where it cannot be written.
    """

    def __init__(self, file: Path, info: TraceInfo, dtype: str = "bfloat16"):
        self.file, self.info, self.dtype = file, info, dtype
        self._partial = file.with_name(f"{file.name}.partial-{os.getpid()}")

    def __enter__(self) -> TraceWriter:
        info = self.info
        self._h5 = h5py.File(self._partial, "w")
        attributes = self._h5.attrs
        attributes["format"] = "hindsight-trace"
        attributes["format_version"] = np.int64(1)
        for name in ("model", "source", "rope", "capture"):
            attributes[name] = getattr(info, name)
        for name in (
            "n_tokens",
            "prompt_tokens",
            "n_q_heads",
            "n_kv_heads",
            "head_dim",
            "n_model_layers",
        ):
            attributes[name] = np.int64(getattr(info, name))
        attributes["softmax_scale"] = np.float64(info.softmax_scale)
        # Kept open: closing a dataset writes its chunks out, and a decode step adds a single row.
        self._layers = {}
        for layer in info.layers:
            k = self._create(layer, "k", info.n_tokens, info.n_kv_heads)
            v = self._create(layer, "v", info.n_tokens, info.n_kv_heads)
            q = self._create(layer, "q", info.n_tokens - info.prompt_tokens, info.n_q_heads)
            q.attrs["q_start"] = np.int64(info.prompt_tokens)
            self._layers[layer] = (q, k, v)
        return self

    def _create(self, layer: int, name: str, rows: int, heads: int) -> h5py.Dataset:
        row_bytes = heads * self.info.head_dim * STORAGE[self.dtype].itemsize
        dataset = self._h5.create_dataset(
            f"layers/{layer}/{name}",
            (rows, heads, self.info.head_dim),
            dtype=STORAGE[self.dtype],
            chunks=(min(rows, max(1, CHUNK_BYTES // row_bytes)), heads, self.info.head_dim),
            shuffle=True,
            compression="gzip",
            compression_opts=6,
        )
        if self.dtype == "bfloat16":
            dataset.attrs["dtype"] = "bf16"
        return dataset

    def write_layer(
        self, layer: int, position: int, q: np.ndarray, k: np.ndarray, v: np.ndarray
    ) -> None:
        """Rows position .. position + n - 1 of a layer: q [n, Hq, d], k and v [n, Hkv, d], float32.

        Queries of the prompt are not kept: no decode step asks them.
        """
        q_rows, k_rows, v_rows = self._layers[layer]
        rows = slice(position, position + len(k))
        k_rows[rows] = to_storage(k, self.dtype)
        v_rows[rows] = to_storage(v, self.dtype)
        skip = max(0, self.info.prompt_tokens - position)
        if skip < len(q):
            first = position + skip - self.info.prompt_tokens
            q_rows[first : first + len(q) - skip] = to_storage(q[skip:], self.dtype)

    def write_tokens(self, tokens: np.ndarray) -> None:
        """Token ids [T]."""
        self._h5["tokens"] = np.asarray(tokens, np.int32)

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._h5.close()
            if kind is None:
                os.replace(self._partial, self.file)
        finally:
            self._partial.unlink(missing_ok=True)
