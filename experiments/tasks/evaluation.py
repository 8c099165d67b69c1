"""Prompts with expected answers, made again from a seed whenever they are needed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .documents import Filler, TASKS, answer_bytes, build, document_bytes


@dataclass(frozen=True)
class Cell:
    """What an evaluation set has in common.

    rows: of the table. context: bytes of prompt and room for the answer, byte 0 in front included.
    room: bytes kept for the answer. lines: of the answer; hops of a chain.
    """

    task: str
    rows: int
    context: int
    room: int
    lines: int

    @property
    def prompt_bytes(self) -> int:
        return self.context - self.room

    @staticmethod
    def of(task: str, rows: int, context: int, room: int | None = None, lines: int | None = None) -> Cell:
        """Room by default an eighth of the context, at least 256; lines by default as many as fit there.

        Throws ValueError, saying what would fit, where the parts do not.
        """
        if task not in TASKS:
            raise ValueError(f"no task {task}; the tasks are {', '.join(TASKS)}")
        room = room or max(256, context // 8)
        most = min(rows - 1, (room - answer_bytes(task, 0)) // (answer_bytes(task, 1) - answer_bytes(task, 0)))
        lines = lines or most
        if rows < 2 or not 1 <= lines <= most:
            raise ValueError(f"{task}: {lines} lines of {rows} rows in {room} bytes; at most {most} would fit")
        cell = Cell(task, rows, context, room, lines)
        if cell.filler_bytes < 0:
            raise ValueError(
                f"{task}: {rows} rows and {lines} lines leave no prompt of {cell.prompt_bytes} bytes; "
                f"a context of {context - cell.filler_bytes} would do"
            )
        return cell

    @property
    def filler_bytes(self) -> int:
        """Of natural text in the prompt: all that the table and the question leave."""
        after = len("\n@end\n") if self.task == "chain" else len("@end\n")
        whole = document_bytes(self.task, self.rows, [self.lines])
        return self.prompt_bytes - (whole - answer_bytes(self.task, self.lines) - after)


@dataclass(frozen=True)
class Item:
    prompt: bytes  # exactly cell.prompt_bytes, ending in "@out\n"
    answer: bytes


def items(cell: Cell, seed: int, count: int, filler: Filler) -> Iterator[Item]:
    """`count` items; the i-th is the same whatever the count. Nothing but the arguments decides them."""
    for i in range(count):
        rng = random.Random(f"{cell}/{seed}/{i}")
        document = build(cell.task, rng, cell.rows, [cell.lines], cell.filler_bytes, filler)
        answer = document.answers[0]
        prompt = b"".join(segment.data for segment in document.segments[:answer])
        yield Item(prompt, document.segments[answer].data)
