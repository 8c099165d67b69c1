"""Attention recomputed from the file that capture writes gives the model's own outputs."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when transformers is imported: no test may ask the network
)

torch = pytest.importorskip("torch", reason="capture needs torch, which is not installed")
transformers = pytest.importorskip(
    "transformers", reason="capture needs transformers, which is not installed"
)

from hindsight_analysis import capture as command_line  # noqa: E402
from hindsight_analysis import recorder  # noqa: E402
from hindsight_analysis.trace_file import from_storage  # noqa: E402

TEXT = b"The quick brown fox jumps over the lazy dog; " * 3
PROMPT, GIVEN, GENERATED = 40, 90, 20

SIZES = dict(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=None,
    pad_token_id=None,
    # Attention far from uniform, so that a wrong key or a missing rotation shows.
    initializer_range=0.2,
)

CONFIGS = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": False}),
    "qwen3": ("Qwen3Config", {"use_sliding_window": False}),
}


def make_model(folder, family, **changes):
    name, options = CONFIGS[family]
    torch.manual_seed(7)
    config = getattr(transformers, name)(**{**SIZES, **options, **changes})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder.parent / "text").write_bytes(TEXT)
    return folder


@pytest.fixture(params=sorted(CONFIGS))
def model(request, tmp_path):
    return make_model(tmp_path / "model", request.param)


@pytest.fixture
def llama(tmp_path):
    return make_model(tmp_path / "model", "llama")


def run(model, *options, tokens=GIVEN):
    out = model.parent / "trace.h5"
    arguments = ["--model", str(model), "--text", str(model.parent / "text"), "--out", str(out)]
    arguments += [
        "--prompt-tokens",
        str(PROMPT),
        "--tokens",
        str(tokens),
        "--chunk",
        "32",
        *options,
    ]
    return command_line.main(arguments), out


def model_attention(folder, tokens):
    """Per layer the model's own attention output [T, Hq, d]: one pass, without the recorder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    outputs = []
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, inputs: outputs.append(inputs[0][0])
        )
    with torch.no_grad():
        model(torch.tensor([tokens.tolist()]))
    return [x.reshape(len(tokens), SIZES["num_attention_heads"], -1).numpy() for x in outputs]


def recomputed_attention(trace, layer):
    """Attention in float64 over what the file holds, for the decode steps: [T - P, Hq, d]."""
    group = trace[f"layers/{layer}"]
    q, k, v = (from_storage(group[name]).astype(np.float64) for name in "qkv")
    heads_per_kv = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, heads_per_kv, axis=1) for x in (k, v))
    scores = np.einsum("qhd,thd->hqt", q, k) * trace.attrs["softmax_scale"]
    q_start = int(group["q"].attrs["q_start"])
    assert q_start == trace.attrs["prompt_tokens"]
    future = np.arange(len(k))[None, :] > q_start + np.arange(len(q))[:, None]
    scores[:, future] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hqt,thd->qhd", weights, v)


def assert_attention_agrees(folder, out, tolerance, layers=(0, 1, 2)):
    with h5py.File(out) as trace:
        tokens = trace["tokens"][...]
        expected = model_attention(folder, tokens)
        assert sorted(trace["layers"]) == [str(layer) for layer in layers]
        for layer in layers:
            got, want = recomputed_attention(trace, layer), expected[layer][PROMPT:]
            error = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
            assert error.max() < tolerance, f"layer {layer}: relative error {error.max():.2e}"


# Rounding of q and k (a relative 2^-9 in bfloat16) is multiplied by the scores, about ten here.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 4e-3), ("bfloat16", 3e-2)]
)
def test_attention_over_the_file_is_the_models(model, dtype, tolerance):
    status, out = run(model, "--dtype", dtype)
    assert status == 0
    assert_attention_agrees(model, out, tolerance)


def test_generated_tokens_are_the_models_and_are_captured(model):
    status, out = run(
        model, "--generate", str(GENERATED), "--dtype", "float32", tokens=GIVEN + GENERATED
    )
    assert status == 0
    with h5py.File(out) as trace:
        tokens = trace["tokens"][...]
    assert tokens[0] == 0 and bytes(tokens[1:GIVEN].astype(np.uint8)) == TEXT[: GIVEN - 1]
    reference = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = reference(torch.tensor([tokens.tolist()])).logits[0]
    assert logits[GIVEN - 1 : -1].argmax(-1).tolist() == tokens[GIVEN:].tolist()
    assert_attention_agrees(model, out, 1e-5)


def test_sampling_follows_the_seed(llama):
    def sampled(seed):
        options = ["--generate", "20", "--temperature", "1", "--seed", seed]
        status, out = run(llama, *options)
        assert status == 0
        with h5py.File(out) as trace:
            return trace["tokens"][...].tolist()

    assert sampled("1") == sampled("1")
    assert sampled("1") != sampled("2")


def test_layer_subset(llama):
    status, out = run(llama, "--layers", "2,0,2", "--dtype", "float32")
    assert status == 0
    assert_attention_agrees(llama, out, 1e-5, layers=(0, 2))


def test_file_says_what_it_is(llama):
    status, out = run(llama, "--model-label", "tiny")
    assert status == 0
    with h5py.File(out) as trace:
        attributes = dict(trace.attrs)
        k = trace["layers/1/k"]
        assert (k.shape, k.dtype, k.attrs["dtype"]) == ((GIVEN, 2, 16), np.uint16, "bf16")
        assert trace["layers/1/q"].shape == (GIVEN - PROMPT, 6, 16)
    assert attributes["format"] == "hindsight-trace" and attributes["format_version"] == 1
    assert (attributes["model"], attributes["source"], attributes["rope"]) == (
        "tiny",
        "captured",
        "applied",
    )
    assert attributes["softmax_scale"] == 0.25 and attributes["n_model_layers"] == 3
    assert str(llama.parent) not in attributes["capture"]
    assert not list(llama.parent.glob("*.partial*"))


def test_sliding_windows_are_refused(tmp_path, capsys):
    folder = make_model(tmp_path / "model", "mistral", sliding_window=32)
    status, out = run(folder)
    assert status == 2 and not out.exists()
    assert "slides over a window of 32 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--layers", "3"], 2, "--layers"),
        (["--layers", "one"], 2, "--layers"),
        (["--prompt-tokens", "90"], 2, "--prompt-tokens"),
        (["--generate", "51"], 2, "--generate"),
        (["--tokens", "200"], 3, "has 136 tokens"),
        (["--tokens", "300"], 3, "has 136 tokens"),
        (["--tokens", "300", "--generate", "200"], 2, "at most 256"),
        (["--text", "missing"], 3, "missing: cannot be read"),
        (["--model", "missing"], 2, "--model missing"),
        (["--out", "no-such-folder/trace.h5"], 4, "--out no-such-folder/trace.h5"),
    ],
)
def test_errors_are_one_line(llama, capsys, monkeypatch, options, status, words):
    monkeypatch.chdir(llama.parent)
    got, _ = run(llama, *options)
    errors = capsys.readouterr().err
    assert got == status and words in errors and errors.count("\n") == 1


def test_values_too_large_for_the_storage_type_are_refused(llama, capsys):
    model = transformers.AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight *= 1e6
    model.save_pretrained(llama)
    status, out = run(llama, "--dtype", "float16")
    assert status == 2 and not out.exists() and not list(llama.parent.glob("*.partial*"))
    assert "--dtype float16" in capsys.readouterr().err


def test_families_not_checked_are_refused():
    with pytest.raises(recorder.CommandError, match="family gpt2 is not known"):
        recorder.check_family(transformers.GPT2Config())
