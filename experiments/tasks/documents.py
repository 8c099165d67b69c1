"""The documents of the tasks: a table hidden in natural text, questions about it, and their answers.

Three tasks, each needing retrieval from far back at every line of a long answer:

- recall: a table of `key:value` rows; asked for a list of keys, the answer is one `key:value` line for each;
- chain: a table of `key>next` rows that form one cycle; the answer follows it hop by hop (`abc>xyz>qrs`);
- ledger: as recall, and each line ends in the running sum of the values modulo 100.

A document is byte 0 (the beginning-of-sequence token), `@task`, the table in one to four blocks with filler
between, then rounds of a question (`@ask` with keys, or `@from key`), `@out`, the answer and `@end`. The filler
never holds byte 0 or `@`. Every byte has a class, by which training weighs its loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntEnum
from itertools import product
from string import ascii_lowercase

KEYS = ["".join(letters).encode() for letters in product(ascii_lowercase, repeat=3)]
TASKS = ("recall", "chain", "ledger")

ROW_BYTES = {"recall": len("abc:123\n"), "chain": len("abc>xyz\n"), "ledger": len("abc:12\n")}
LINE_BYTES = {"recall": len("abc:123\n"), "chain": len(">xyz"), "ledger": len("abc:12=34\n")}
KEY_BYTES = 3


class ByteClass(IntEnum):
    """What a byte is, for the loss and for accuracies while training."""

    NATURAL = 0
    TABLE = 1  # random: nothing to learn but its form
    MARKER = 2
    RECALL_VALUE = 3
    CHAIN_KEY = 4
    LEDGER_VALUE = 5
    LEDGER_SUM = 6
    QUERIED_KEY = 7  # the key at the beginning of an answer's line
    IGNORED = 8


def _classes(pattern: str) -> bytes:
    """Classes of a line from a picture of it, a letter for each byte."""
    letters = {
        "k": ByteClass.QUERIED_KEY,
        "m": ByteClass.MARKER,
        "r": ByteClass.RECALL_VALUE,
        "c": ByteClass.CHAIN_KEY,
        "l": ByteClass.LEDGER_VALUE,
        "s": ByteClass.LEDGER_SUM,
    }
    return bytes(letters[letter] for letter in pattern)


LINE_CLASSES = {
    "recall": _classes("kkkmrrrm"),  # abc:123\n
    "chain": _classes("mccc"),  # >xyz
    "ledger": _classes("kkkmllmssm"),  # abc:12=34\n
}


@dataclass(frozen=True)
class Segment:
    """Bytes and the class of each."""

    data: bytes
    classes: bytes

    @staticmethod
    def of(data: bytes, byte_class: ByteClass) -> Segment:
        return Segment(data, bytes([byte_class]) * len(data))


@dataclass(frozen=True)
class Document:
    segments: list[Segment]
    answers: list[int]  # the segment that is the answer, for each round

    @property
    def data(self) -> bytes:
        return b"".join(segment.data for segment in self.segments)

    @property
    def classes(self) -> bytes:
        return b"".join(segment.classes for segment in self.segments)


class Filler:
    """Crops of natural text that cannot be taken for a part of a task."""

    def __init__(self, *texts: bytes):
        self._texts = texts

    def crop(self, rng: random.Random, size: int) -> bytes:
        """`size` bytes; beginning and ending with a newline, so that rows stand on lines of their own."""
        if size < 3:
            return b"\n" * size
        text = self._texts[rng.randrange(len(self._texts))]
        if len(text) < size - 1:
            raise ValueError(f"the filler holds {len(text)} bytes, {size - 2} in a row are asked for")
        start = rng.randrange(len(text) - (size - 2))
        return b"\n" + text[start : start + size - 2].replace(b"\0", b"\n").replace(b"@", b"a") + b"\n"


def answer_bytes(task: str, lines: int) -> int:
    """Length of an answer of so many lines, or hops (a chain begins with the key that is asked for)."""
    return LINE_BYTES[task] * lines + (KEY_BYTES if task == "chain" else 0)


def round_bytes(task: str, lines: int) -> int:
    """Length of a round, from its question to `@end`."""
    if task == "chain":
        return len("@from abc\n@out\n") + answer_bytes(task, lines) + len("\n@end\n")
    return len("@ask\n@out\n") + len(" abc") * lines + answer_bytes(task, lines) + len("@end\n")


def document_bytes(task: str, rows: int, rounds: list[int]) -> int:
    """Length of a document without filler: the table and rounds of so many lines each."""
    return 1 + len(f"@{task}\n") + ROW_BYTES[task] * rows + sum(round_bytes(task, n) for n in rounds)


def build(
    task: str, rng: random.Random, rows: int, rounds: list[int], filler_bytes: int, filler: Filler
) -> Document:
    """A document of `document_bytes(task, rows, rounds) + filler_bytes` bytes.

    rounds: lines (hops) of each answer, at most `rows`; of a chain, `rows` hops go all the way round.
    """
    keys = [KEYS[i] for i in rng.sample(range(len(KEYS)), rows)]
    table, values = _table(task, rng, keys)
    blocks = min(rows, rng.randrange(1, 5) if filler_bytes > 256 else 1)
    sizes = _filler_sizes(rng, blocks, len(rounds), filler_bytes)

    segments = [Segment.of(b"\0@%s\n" % task.encode(), ByteClass.MARKER)]
    cuts = [0, *sorted(rng.sample(range(1, rows), blocks - 1)), rows]
    for i in range(blocks):
        segments.append(Segment.of(filler.crop(rng, sizes[i]), ByteClass.NATURAL))
        segments.append(Segment.of(b"".join(table[cuts[i] : cuts[i + 1]]), ByteClass.TABLE))
    answers = []
    for size, lines in zip(sizes[blocks:], rounds):
        segments.append(Segment.of(filler.crop(rng, size), ByteClass.NATURAL))
        question, answer = _round(task, rng, keys, values, lines)
        segments += question
        answers.append(len(segments))
        segments.append(answer)
        if task == "chain":  # whether a chain ends here cannot be known
            segments.append(Segment.of(b"\n", ByteClass.IGNORED))
        segments.append(Segment.of(b"@end\n", ByteClass.MARKER))
    return Document(segments, answers)


def _table(task: str, rng: random.Random, keys: list[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Rows in the order of the table, and the value of every key."""
    if task == "chain":
        values = dict(zip(keys, keys[1:] + keys[:1]))
        shuffled = rng.sample(keys, len(keys))
        return [b"%s>%s\n" % (key, values[key]) for key in shuffled], values
    digits = 3 if task == "recall" else 2
    values = {key: b"%0*d" % (digits, rng.randrange(10**digits)) for key in keys}
    return [b"%s:%s\n" % item for item in values.items()], values


def _filler_sizes(rng: random.Random, blocks: int, rounds: int, total: int) -> list[int]:
    """Bytes of filler before each block and before each round; half of the time most is after the table."""
    after_table = blocks
    if total < 64:
        shares = [0.0] * (blocks + rounds)
        shares[after_table] = 1.0
    else:
        shares = [rng.expovariate(1) for _ in range(blocks + rounds)]
        if rng.random() < 0.5:
            shares = [0.15 * share for share in shares]
            shares[after_table] += 1.0
    sizes = [int(total * share / sum(shares)) for share in shares]
    sizes[after_table] += total - sum(sizes)
    return sizes


def _round(
    task: str, rng: random.Random, keys: list[bytes], values: dict[bytes, bytes], lines: int
) -> tuple[list[Segment], Segment]:
    """The question up to and with `@out`, and its answer."""
    if task == "chain":
        hops = [keys[rng.randrange(len(keys))]]
        for _ in range(lines):
            hops.append(values[hops[-1]])
        classes = bytes([ByteClass.QUERIED_KEY]) * KEY_BYTES + LINE_CLASSES[task] * lines
        return [Segment.of(b"@from %s\n@out\n" % hops[0], ByteClass.MARKER)], Segment(b">".join(hops), classes)

    asked = rng.sample(keys, lines)
    question = [
        Segment.of(b"@ask", ByteClass.MARKER),
        Segment.of(b"".join(b" " + key for key in asked), ByteClass.TABLE),
        Segment.of(b"\n@out\n", ByteClass.MARKER),
    ]
    answer, total = [], 0
    for key in asked:
        total = (total + int(values[key])) % 100
        line = b"%s:%s=%02d\n" % (key, values[key], total) if task == "ledger" else b"%s:%s\n" % (key, values[key])
        answer.append(line)
    return question, Segment(b"".join(answer), LINE_CLASSES[task] * lines)
