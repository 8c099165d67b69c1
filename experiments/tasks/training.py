"""Documents for training: random tables, rounds and filler that fill a given length exactly."""

from __future__ import annotations

import random

from .documents import LINE_BYTES, ROW_BYTES, Document, Filler, build, document_bytes

SHORTEST = 200  # bytes of a document
FEWEST_ROWS, MOST_ROWS = 8, 400
FEWEST_LINES = 4
MOST_LINES = {"recall": 120, "chain": 200, "ledger": 120}


def sample_document(rng: random.Random, task: str, size: int, filler: Filler) -> Document:
    """A document of exactly `size` bytes, at least SHORTEST: up to 60 % of it table, the rest rounds and filler."""
    if size < SHORTEST:
        raise ValueError(f"a document has at least {SHORTEST} bytes, not {size}")
    most_rows = int((0.30 + 0.30 * rng.random()) * size / ROW_BYTES[task])
    most_rows = max(FEWEST_ROWS, min(MOST_ROWS, most_rows))
    # Long tables more often than short ones: they are what a context of that length is for.
    fewest_rows = FEWEST_ROWS if rng.random() < 0.5 else max(FEWEST_ROWS, most_rows // 2)
    rows = rng.randrange(fewest_rows, most_rows + 1)
    n_rounds = 1 if size < 1500 else rng.choice([1, 1, 2, 2, 3])
    rows, n_rounds, most_lines = _fit(task, size, rows, n_rounds)
    rounds = []
    for _ in range(n_rounds):
        fewest = FEWEST_LINES if rng.random() < 0.4 else max(FEWEST_LINES, most_lines // 2)
        rounds.append(rng.randrange(fewest, most_lines + 1))
    return build(task, rng, rows, rounds, size - document_bytes(task, rows, rounds), filler)


def _fit(task: str, size: int, rows: int, n_rounds: int) -> tuple[int, int, int]:
    """(rows, rounds, most lines of a round) that fit, with fewer rows and one round where they must be."""
    bytes_of_line = LINE_BYTES[task] + (0 if task == "chain" else len(" abc"))
    while True:
        left = size - document_bytes(task, rows, [])
        most_lines = min(MOST_LINES[task], rows - 1, (left // n_rounds - 30) // bytes_of_line)
        if most_lines >= FEWEST_LINES:
            return rows, n_rounds, most_lines
        rows, n_rounds = rows - 4, 1
