"""Trace files as Python writes them and the program reads them, and the one of the quickstart."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from hindsight_analysis.trace_file import (
    STORAGE,
    TraceInfo,
    TraceWriter,
    ValueOutOfRange,
    from_storage,
    to_storage,
)

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "experiments" / "traces"

TOKENS, PROMPT, Q_HEADS, KV_HEADS, DIM = 50, 30, 6, 2, 8
LAYERS = [1, 3]
PRECISION = {
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
    "float32": 2.0**-24,
}  # half a unit in the last place


def info(**changes):
    values = dict(
        model="test",
        n_tokens=TOKENS,
        prompt_tokens=PROMPT,
        n_q_heads=Q_HEADS,
        n_kv_heads=KV_HEADS,
        head_dim=DIM,
        n_model_layers=4,
        softmax_scale=DIM**-0.5,
        layers=LAYERS,
    )
    return TraceInfo(**{**values, **changes})


def write_trace(file, dtype):
    """Writes blocks of rows, one across the end of the prompt; what was written, by layer."""
    rng = np.random.default_rng(5)
    written = {}
    with TraceWriter(file, info(), dtype) as writer:
        for layer in LAYERS:
            q, k, v = (
                rng.standard_normal((TOKENS, heads, DIM)).astype(np.float32)
                for heads in (Q_HEADS, KV_HEADS, KV_HEADS)
            )
            for begin, end in ((0, 20), (20, 41), (41, 42), (42, TOKENS)):
                writer.write_layer(layer, begin, q[begin:end], k[begin:end], v[begin:end])
            written[layer] = (q[PROMPT:], k, v)
        writer.write_tokens(np.arange(TOKENS))
    return written


@pytest.mark.parametrize("dtype", list(STORAGE))
def test_what_is_written_is_read_back(tmp_path, dtype):
    written = write_trace(tmp_path / "t.h5", dtype)
    with h5py.File(tmp_path / "t.h5") as trace:
        for layer, arrays in written.items():
            for name, array in zip("qkv", arrays):
                read = from_storage(trace[f"layers/{layer}/{name}"])
                np.testing.assert_allclose(read, array, rtol=PRECISION[dtype], atol=2.0**-24)
            assert trace[f"layers/{layer}/q"].attrs["q_start"] == PROMPT
        assert trace["tokens"][...].tolist() == list(range(TOKENS))


@pytest.mark.parametrize("dtype", list(STORAGE))
def test_the_program_accepts_what_is_written(tmp_path, dtype):
    if "HINDSIGHT_BIN" not in os.environ:
        pytest.skip("HINDSIGHT_BIN does not name the program")
    write_trace(tmp_path / "t.h5", dtype)
    command = [os.environ["HINDSIGHT_BIN"], "trace", "validate", str(tmp_path / "t.h5")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5, 0], np.float32)
    assert to_storage(values, "bfloat16").tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xC020, 0]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 70000), ("bfloat16", 3.4e38), ("bfloat16", np.nan), ("float32", np.inf)],
)
def test_values_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, dtype, value):
    rows = np.full((1, KV_HEADS, DIM), value, np.float32)
    q = np.zeros((1, Q_HEADS, DIM), np.float32)
    with pytest.raises(ValueOutOfRange), TraceWriter(tmp_path / "t.h5", info(), dtype) as writer:
        writer.write_layer(1, 0, q, rows, rows)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def quickstart():
    with h5py.File(TRACES / "quickstart.h5") as trace:
        yield trace


def test_the_quickstart_trace_is_what_its_readme_describes(quickstart):
    readme = (TRACES / "README.md").read_text()
    for name in ("quickstart.h5", "quickstart.prompt"):
        assert hashlib.sha256((TRACES / name).read_bytes()).hexdigest() in readme
    assert (TRACES / "quickstart.h5").stat().st_size <= 8e6
    assert sorted(quickstart["layers"]) == ["2", "3", "4", "5", "6", "7"]
    assert not re.search(r"(?<!\w)/\w+/", str(quickstart.attrs["capture"])), "no paths of a machine"


def test_the_quickstart_generation_answers_its_prompt(quickstart):
    tokens = bytes(quickstart["tokens"][...].astype(np.uint8))
    n_prompt = int(quickstart.attrs["prompt_tokens"])
    prompt, generated = tokens[:n_prompt], tokens[n_prompt:]
    assert prompt == b"\0" + (TRACES / "quickstart.prompt").read_bytes()
    table = dict(re.findall(rb"^([a-z]{3}):(\d{3})$", prompt, re.MULTILINE))
    asked = re.search(rb"@ask ([a-z ]+)\n@out\n$", prompt)
    assert asked
    answer = b"".join(key + b":" + table[key] + b"\n" for key in asked[1].split())
    assert generated.startswith(answer + b"@end\n")


def test_the_mark_of_bfloat16_may_be_text_of_fixed_length(tmp_path):
    stored = to_storage(np.array([[[1.5, -2.0]]], np.float32), "bfloat16")
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        for name, mark in (("variable", "bf16"), ("fixed", np.bytes_("bf16"))):
            h5[name] = stored
            h5[name].attrs["dtype"] = mark
            assert from_storage(h5[name]).tolist() == [[[1.5, -2.0]]]
