"""Token ids of texts, by a Hugging Face tokenizer, as the input of hindsight eval.

    python -m hindsight_analysis.tokenize --tokenizer DIR_OR_NAME --out ids.jsonl FILE...

A .jsonl holds an object a line with `text`, or `prompt` and `answer`; each becomes ids, and other keys
stay as they are. `scored`, spans of characters of the answer, becomes spans of its ids: those that hold
any of the characters. Any other file is one text. A text and a prompt begin with what the tokenizer
puts before a text; an answer follows its prompt and begins with nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from hindsight_analysis.errors import (
    ENVIRONMENT,
    INPUT,
    USAGE,
    CommandError,
    OneLineParser,
    run_command,
)


def load_tokenizer(name: str):
    """Raises CommandError where there is none, or no transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        message = "needs transformers; pip install transformers would be right"
        raise CommandError(ENVIRONMENT, message) from error
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CommandError(USAGE, f"--tokenizer {name}: cannot be loaded: {error}") from error


def spans_of_ids(spans: list[list[int]], offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Spans [first, last) of characters as spans of the ids that hold any of them.

    offsets are the ids' own spans, ascending. Raises ValueError for a span that is none or holds no id.
    """
    converted = []
    for span in spans:
        if len(span) != 2 or not 0 <= span[0] < span[1]:
            raise ValueError(f"scored: {span} is no span of the answer")
        held = [x for x, (begin, end) in enumerate(offsets) if begin < span[1] and end > span[0]]
        if not held:
            raise ValueError(f"scored: {span} lies beyond the answer")
        converted.append([held[0], held[-1] + 1])
    return converted


def tokenize_line(tokenizer, line: dict) -> dict:
    """A line of input as a line of ids. Raises ValueError where it has no text."""

    def ids_of(key: str, begins: bool):
        if not isinstance(line[key], str):
            raise ValueError(f"{key}: is no text")
        return tokenizer(
            line[key], add_special_tokens=begins, return_offsets_mapping="scored" in line
        )

    converted = dict(line)
    if "text" in line:
        del converted["text"]
        converted["tokens"] = ids_of("text", True)["input_ids"]
    elif "prompt" in line:
        converted["prompt"] = ids_of("prompt", True)["input_ids"]
        if "answer" in line:
            answer = ids_of("answer", False)
            converted["answer"] = answer["input_ids"]
            if "scored" in line:
                converted["scored"] = spans_of_ids(line["scored"], answer["offset_mapping"])
    else:
        raise ValueError("needs text, or prompt and answer")
    return converted


def lines_of(file: Path) -> Iterator[tuple[str, dict]]:
    """What a file holds, with its place for messages. Raises CommandError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(INPUT, f"{file}: cannot be read: {error}") from error
    if file.suffix != ".jsonl":
        yield str(file), {"text": text}
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise CommandError(INPUT, f"{place}: is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise CommandError(INPUT, f"{place}: is no JSON object")
        yield place, value


def run(arguments: list[str] | None) -> None:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--tokenizer", required=True, help="folder or name, as Hugging Face has them"
    )
    parser.add_argument("--out", required=True, type=Path, help=".jsonl of token ids")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    tokenizer = load_tokenizer(options.tokenizer)
    made = []
    for file in options.files:
        for place, line in lines_of(file):
            try:
                made.append(json.dumps(tokenize_line(tokenizer, line)))
            except ValueError as error:
                raise CommandError(INPUT, f"{place}: {error}") from error
    try:
        options.out.write_text("".join(line + "\n" for line in made), encoding="utf-8")
    except OSError as error:
        raise CommandError(ENVIRONMENT, f"{options.out}: cannot be written: {error}") from error
    print(f"{options.out}: {len(made)} sequences")


def main(arguments: list[str] | None = None) -> int:
    return run_command("tokenize", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
