"""Makes an evaluation set: JSON lines of prompt and expected answer.

    python3 -m experiments.tasks --task recall --rows 48 --context 4096 --seed 1 --count 128 > recall.jsonl

Prompts are ASCII, so that the characters of the JSON strings are the bytes; the first is byte 0, which a model
that has another beginning-of-sequence token replaces. The same options give the same lines.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from pathlib import Path

from .documents import TASKS, Filler
from .evaluation import Cell, items
from .scoring import scored_places

HELD_OUT = Path(__file__).parents[1] / "reference_model" / "heldout"


def held_out_filler(folder: Path = HELD_OUT) -> Filler:
    """Filler from the held-out texts, with `?` for bytes that are not ASCII."""
    files = sorted(folder.glob("*.txt.xz"))
    if not files:
        raise FileNotFoundError(f"{folder}: no *.txt.xz there; give --filler FILE")
    return Filler(*(ascii_only(lzma.decompress(file.read_bytes())) for file in files))


def ascii_only(text: bytes) -> bytes:
    return bytes(byte if byte < 128 else ord("?") for byte in text)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m experiments.tasks",
        description=__doc__.split("\n")[0],
        epilog="example: --task recall --rows 48 --context 4096 --count 128",
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--rows", type=int, required=True, help="rows of the table")
    parser.add_argument("--context", type=int, required=True, help="bytes of prompt and answer")
    parser.add_argument("--lines", type=int, help="lines or hops of the answer (default: as many as fit)")
    parser.add_argument("--answer-bytes", type=int, help="kept for the answer (default: context / 8, at least 256)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--filler", type=Path, help="natural text (default: the held-out text of the reference model)")
    options = parser.parse_args()
    try:
        cell = Cell.of(options.task, options.rows, options.context, options.answer_bytes, options.lines)
        filler = Filler(ascii_only(options.filler.read_bytes())) if options.filler else held_out_filler()
        for i, item in enumerate(items(cell, options.seed, options.count, filler)):
            line = {
                "task": cell.task,
                "rows": cell.rows,
                "context": cell.context,
                "lines": cell.lines,
                "seed": options.seed,
                "index": i,
                "prompt": item.prompt.decode("ascii"),
                "answer": item.answer.decode("ascii"),
                "scored": scored_places(cell.task, len(item.answer)),
            }
            print(json.dumps(line))
    except (ValueError, OSError) as error:
        print(f"experiments.tasks: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
