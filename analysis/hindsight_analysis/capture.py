"""Captures queries, keys and values of a Hugging Face model as a trace.

    python -m hindsight_analysis.capture --model DIR_OR_NAME --text FILE --prompt-tokens P \\
        --tokens T [--generate N] --out trace.h5

Queries and keys are taken where the model hands them to attention: after rotary embedding.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import sys
from pathlib import Path

import numpy as np

from hindsight_analysis import __version__
from hindsight_analysis.errors import (
    ENVIRONMENT,
    INPUT,
    USAGE,
    CommandError,
    OneLineParser,
    run_command,
)
from hindsight_analysis.progress import Progress
from hindsight_analysis.trace_file import STORAGE, TraceInfo, TraceWriter, ValueOutOfRange


def load_model(name: str, compute_dtype: str):
    """The model and its configuration's text, on the GPU where there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import cached_file, logging

    from hindsight_analysis.recorder import check_family

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name)
        check_family(config)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, compute_dtype), attn_implementation="sdpa"
        )
        config_text = Path(cached_file(name, "config.json")).read_bytes()
    except (OSError, ValueError) as error:
        raise CommandError(USAGE, f"--model {name}: cannot be loaded: {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), config_text


def byte_tokens(text: bytes, bos: int | None) -> np.ndarray:
    """A byte is a token; the beginning-of-sequence byte goes first where the text lacks it."""
    start = bytes([bos or 0])
    return np.frombuffer(text if text.startswith(start) else start + text, np.uint8).astype(
        np.int64
    )


def read_tokens(file: str, model: str, config, as_bytes: bool) -> np.ndarray:
    """Ids of all tokens of the text file: by the model's tokenizer, or its bytes."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise CommandError(INPUT, f"--text {file}: cannot be read: {error.strerror}") from error
    if as_bytes and config.vocab_size < 256:
        raise CommandError(
            USAGE, f"--bytes: the model knows {config.vocab_size} tokens; 256 would be right"
        )
    if as_bytes or config.vocab_size == 256:
        bos = config.bos_token_id
        return byte_tokens(text, bos if bos is not None and bos < 256 else 0)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise CommandError(
            USAGE,
            f"--model {model}: has no tokenizer; --bytes would be right for a byte-level model",
        ) from error
    try:
        return np.array(tokenizer(text.decode("utf-8"))["input_ids"], np.int64)
    except UnicodeDecodeError as error:
        raise CommandError(
            INPUT, f"--text {file}: byte {error.start} is not UTF-8; UTF-8 would be right"
        ) from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(arguments, config_text: bytes, given: np.ndarray) -> str:
    """How the trace was made; no path, so that it says the same wherever it was made."""
    import transformers

    how = "greedy"
    if arguments.temperature > 0:
        how = f"temperature {arguments.temperature:g}, seed {arguments.seed}"
    generated = (
        f"{arguments.generate} generated ({how})" if arguments.generate else "none generated"
    )
    return "; ".join(
        [
            f"hindsight_analysis.capture {__version__}, transformers {transformers.__version__}",
            f"config.json sha256 {sha256(config_text)}",
            f"{len(given)} tokens given, sha256 as int32 {sha256(given.astype('<i4').tobytes())}",
            generated,
            f"computed in {arguments.compute_dtype}",
            datetime.date.today().isoformat(),
        ]
    )


def capture(arguments) -> None:
    from hindsight_analysis.recorder import head_dim, record, run_model

    model, config_text = load_model(arguments.model, arguments.compute_dtype)
    config = model.config
    tokens = read_tokens(arguments.text, arguments.model, config, arguments.bytes)
    n_given = arguments.tokens - arguments.generate
    if len(tokens) < n_given:
        raise CommandError(
            INPUT,
            f"--text {arguments.text}: has {len(tokens)} tokens; at least --tokens minus "
            f"--generate = {n_given} would be right",
        )
    if arguments.tokens > config.max_position_embeddings:
        raise CommandError(
            USAGE,
            f"--tokens {arguments.tokens}: the model reads at most "
            f"{config.max_position_embeddings}",
        )
    n_layers = config.num_hidden_layers
    layers = sorted(set(range(n_layers) if arguments.layers is None else arguments.layers))
    if not layers or layers[0] < 0 or layers[-1] >= n_layers:
        raise CommandError(USAGE, f"--layers: some of 0 to {n_layers - 1} would be right")
    info = TraceInfo(
        model=arguments.model_label or Path(arguments.model).resolve().name,
        n_tokens=arguments.tokens,
        prompt_tokens=arguments.prompt_tokens,
        n_q_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=head_dim(config),
        n_model_layers=n_layers,
        softmax_scale=head_dim(config) ** -0.5,
        layers=layers,
        capture=describe(arguments, config_text, tokens[:n_given]),
    )
    progress = Progress("capture", arguments.tokens)
    with TraceWriter(Path(arguments.out), info, arguments.dtype) as writer:
        record(model, layers, writer.write_layer)
        ids = run_model(
            model,
            tokens[:n_given],
            arguments.generate,
            arguments.chunk,
            arguments.temperature,
            arguments.seed,
            progress.update,
        )
        writer.write_tokens(ids)


def layer_list(text: str) -> list[int]:
    return [int(layer) for layer in text.split(",")]


def parse(argv: list[str] | None):
    parser = OneLineParser(
        prog="python -m hindsight_analysis.capture",
        description="Capture queries, keys and values of a Llama, Mistral, Qwen2 or Qwen3 model "
        "as a trace.",
        epilog="Example: python -m hindsight_analysis.capture --model meta-llama/Llama-3.2-1B "
        "--text prompt.txt --prompt-tokens 2048 --tokens 3072 --generate 1024 --layers 2,8,14 "
        "--out traces/llama.h5",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    dtypes = list(STORAGE)
    parser.add_argument("--model", required=True, help="folder or name of a Hugging Face model")
    parser.add_argument(
        "--model-label", help="name of the model in the trace, instead of the folder's"
    )
    parser.add_argument("--text", required=True, help="file with the text")
    parser.add_argument(
        "--prompt-tokens", type=int, required=True, metavar="P", help="tokens of the prompt"
    )
    parser.add_argument(
        "--tokens", type=int, required=True, metavar="T", help="tokens of the whole sequence"
    )
    parser.add_argument(
        "--generate", type=int, default=0, metavar="N", help="the last N are written by the model"
    )
    parser.add_argument(
        "--layers", type=layer_list, metavar="L,L,...", help="layers to keep, instead of all"
    )
    parser.add_argument("--dtype", choices=dtypes, default="bfloat16", help="storage type")
    parser.add_argument(
        "--compute-dtype", choices=dtypes, default="float32", help="type the model computes in"
    )
    parser.add_argument(
        "--bytes", action="store_true", help="bytes are tokens, as for a vocabulary of 256"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument(
        "--chunk", type=int, default=512, help="tokens that go through the model at once"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="trace file to write")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.prompt_tokens < arguments.tokens:
        parser.error("--prompt-tokens: 1 to --tokens - 1 would be right")
    if not 0 <= arguments.generate <= arguments.tokens - arguments.prompt_tokens:
        parser.error("--generate: 0 to --tokens minus --prompt-tokens would be right")
    if arguments.chunk < 1:
        parser.error("--chunk: at least 1 would be right")
    if not arguments.temperature >= 0:
        parser.error("--temperature: 0 or more would be right")
    return arguments


def command(argv: list[str] | None) -> None:
    arguments = parse(argv)
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise CommandError(
            ENVIRONMENT,
            f"{error.name} is not installed; pip install torch transformers brings it",
        ) from error
    try:
        capture(arguments)
    except ValueOutOfRange as error:
        raise CommandError(
            USAGE, f"--dtype {arguments.dtype}: {error}; bfloat16 or float32 would be right"
        ) from error
    except torch.OutOfMemoryError as error:
        raise CommandError(ENVIRONMENT, f"the GPU's memory is too small: {error}") from error
    except OSError as error:
        raise CommandError(
            ENVIRONMENT, f"--out {arguments.out}: cannot be written: {error}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    return run_command("capture", lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
