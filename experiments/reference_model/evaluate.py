"""Measures a model: bits per byte of held-out text by position, task accuracy, structure of its attention.

    python3 -m experiments.reference_model.evaluate --model experiments/reference_model/model --out evaluation.json

prints the tables of the model card. Dense attention, greedy, float32 arithmetic on the stored weights.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.tasks.__main__ import held_out_filler
from experiments.tasks.documents import TASKS
from experiments.tasks.evaluation import Cell, items
from experiments.tasks.scoring import score

from .generate import generate, sequence_logits
from .network import Network
from .structure import UNION_STEPS, mean_of, structure

HELD_OUT = Path(__file__).parent / "heldout"
STRUCTURE_QUERIES = 256

# (context, rows, room for the answer, lines of recall, chain and ledger): the tasks that the model is judged by.
CELLS = (
    (1024, 40, 256, (24, 39, 20)),
    (4096, 160, 512, (60, 120, 48)),
    (8192, 320, 800, (96, 190, 76)),
)


def windows(text: bytes, length: int) -> np.ndarray:
    """Byte 0 and length - 1 bytes of a document, as often as its length allows: [n, length]."""
    size = length - 1
    found = [
        b"\0" + document[start : start + size]
        for document in text.split(b"\0")
        for start in range(0, len(document) - size + 1, size)
    ]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, length)


def tensor_of(rows: list[bytes] | np.ndarray, device: str) -> Tensor:
    """[n, length] tokens of rows of equal length."""
    if not isinstance(rows, np.ndarray):
        rows = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    return torch.from_numpy(rows.copy()).long().to(device)


def bits_per_byte(network: Network, text: bytes, length: int, device: str, most: int | None = None) -> dict:
    """Of windows of a text, on the whole and by 1024 positions."""
    tokens = tensor_of(windows(text, length)[:most], device)
    total = torch.zeros(length - 1, device=device, dtype=torch.float64)
    for rows in tokens.split(4):
        logits = sequence_logits(network, rows)[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        total += losses.view(len(rows), -1).double().sum(0)
    bits = total / (len(tokens) * math.log(2))
    by_position = [chunk.mean().item() for chunk in bits.split(1024)]
    return {"windows": len(tokens), "length": length, "all": bits.mean().item(), "by_1024": by_position}


def task_accuracy(network: Network, cell: Cell, count: int, seed: int, device: str) -> dict:
    """Means of the scores of `count` prompts, with the standard error of the mean of each."""
    chosen = list(items(cell, seed, count, held_out_filler()))
    prompts = tensor_of([item.prompt for item in chosen], device)
    generated = generate(network, prompts, len(chosen[0].answer)).to("cpu", torch.uint8).numpy()
    scores = [
        asdict(score(cell.task, row.tobytes(), item.answer)) for row, item in zip(generated, chosen)
    ]
    result: dict = {"task": cell.task, "rows": cell.rows, "context": cell.context, "lines": cell.lines, "sequences": count}
    for name in scores[0]:
        values = np.array([one[name] for one in scores])
        result[name] = values.mean()
        result[f"{name}_error"] = values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return result


def structure_tokens(text: dict[str, bytes], length: int, count: int, device: str) -> dict[str, Tensor]:
    """Sequences to look at attention over: held-out text, and tasks with their right answers."""
    found = {kind: tensor_of(windows(held, length)[:count], device) for kind, held in text.items()}
    for context, rows, room, lines in CELLS:
        if context != length:
            continue
        for task, n in zip(TASKS, lines):
            cell = Cell.of(task, rows, context, room, n)
            chosen = items(cell, 77, count, held_out_filler())
            found[task] = tensor_of([item.prompt + item.answer for item in chosen], device)
    return found


def markdown(result: dict) -> str:
    """The tables of the model card."""
    lines = ["| held-out text | windows | bits per byte | by 1024 positions |", "|---|---|---|---|"]
    for kind, found in result["bits_per_byte"].items():
        by_position = " ".join(f"{bits:.3f}" for bits in found["by_1024"])
        lines.append(f"| {kind} | {found['windows']} x {found['length']} | {found['all']:.3f} | {by_position} |")
    lines += ["", "| task | context | rows | lines | right | before the first error | all right |", "|---|---|---|---|---|---|---|"]
    for found in result["tasks"]:
        cells = " | ".join(
            f"{found[name]:.3f} ± {found[name + '_error']:.3f}" for name in ("right", "before_first_error", "exact")
        )
        lines.append(f"| {found['task']} | {found['context']} | {found['rows']} | {found['lines']} | {cells} |")
    growth = " | ".join(f"n={n}" for n in range(1, UNION_STEPS + 1))
    for kind, layers in result["structure"].items():
        lines += ["", f"{kind}:", ""]
        lines += ["| layer | top 5 % | top 15 % | first 4 | last 64 | mass of pages: mean, max, oracle | overlap: mean, max, oracle |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for i, layer in enumerate(layers):
            plain = " | ".join(f"{layer[name]:.3f}" for name in ("top_5_percent", "top_15_percent", "first_4", "last_64"))
            chosen = " | ".join(
                ", ".join(f"{layer[f'{what}_{how}']:.3f}" for how in ("mean", "max", "oracle")) for what in ("mass", "overlap")
            )
            lines.append(f"| {i} | {plain} | {chosen} |")
    lines += ["", f"| union growth, all texts | layer | {growth} |", "|---|---|" + "---|" * UNION_STEPS]
    for how in ("mean", "max"):
        for i, found in enumerate(zip(*result["structure"].values())):
            union = mean_of([{"union": layer[f"union_{how}"]} for layer in found])["union"]
            lines.append(f"| {how} | {i} | " + " | ".join(f"{value:.2f}" for value in union) + " |")
    return "\n".join(lines)


def evaluate(network: Network, text: dict[str, bytes], cells, length: int, count: int, sequences: int, device: str) -> dict:
    """All measures; `text` by kind, `length` of windows and of the sequences whose attention is looked at."""
    result: dict = {"bits_per_byte": {}, "tasks": [], "structure": {}}
    for kind, held in text.items():
        result["bits_per_byte"][kind] = bits_per_byte(network, held, length, device)
        print(f"{kind}: {result['bits_per_byte'][kind]['all']:.4f} bits per byte", file=sys.stderr, flush=True)
    for context, rows, room, lines in cells:
        for task, n in zip(TASKS, lines):
            found = task_accuracy(network, Cell.of(task, rows, context, room, n), count, 1234, device)
            result["tasks"].append(found)
            print(f"{task} {context}: {found['before_first_error']:.4f} before the first error", file=sys.stderr, flush=True)
    for kind, tokens in structure_tokens(text, length, sequences, device).items():
        queries = min(STRUCTURE_QUERIES, tokens.shape[1] // 2)
        result["structure"][kind] = structure(network, tokens, queries)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of config.json and *.safetensors")
    parser.add_argument("--out", type=Path, help="all figures as JSON")
    parser.add_argument("--held-out", type=Path, default=HELD_OUT, help="folder of <kind>.txt.xz")
    parser.add_argument("--count", type=int, default=128, help="sequences a task")
    parser.add_argument("--sequences", type=int, default=8, help="whose attention is looked at, for each text")
    parser.add_argument("--contexts", type=int, nargs="+", default=[cell[0] for cell in CELLS])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network.load(options.model, device)
    text = {file.name.split(".")[0]: lzma.decompress(file.read_bytes()) for file in sorted(options.held_out.glob("*.txt.xz"))}
    cells = [cell for cell in CELLS if cell[0] in options.contexts]
    length = min(network.config.context, max(options.contexts))
    result = evaluate(network, text, cells, length, options.count, options.sequences, device)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
