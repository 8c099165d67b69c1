"""The synthetic tasks: what documents hold, that answers follow from prompts, and how answers are scored."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.tasks.documents import (
    LINE_BYTES,
    TASKS,
    ByteClass,
    Filler,
    answer_bytes,
    build,
    document_bytes,
)
from experiments.tasks.evaluation import Cell, items
from experiments.tasks.scoring import score
from experiments.tasks.training import SHORTEST, sample_document

ROOT = Path(__file__).parents[2]
FILLER = Filler(b"The quick @brown\0 fox jumps over the lazy dog. " * 300)


def solve(prompt: bytes, lines: int) -> bytes:
    """The answer, worked out from the prompt alone by other means than the generator's."""
    task = re.match(rb"\0@(\w+)\n", prompt)[1].decode()
    if task == "chain":
        follows = dict(re.findall(rb"^([a-z]{3})>([a-z]{3})$", prompt, re.M))
        path = [re.search(rb"@from ([a-z]{3})\n@out\n$", prompt)[1]]
        while len(path) <= lines:
            path.append(follows[path[-1]])
        return b">".join(path)
    table = dict(re.findall(rb"^([a-z]{3}):(\d+)$", prompt, re.M))
    asked = re.search(rb"@ask ([a-z ]+)\n@out\n$", prompt)[1].split()
    assert len(asked) == lines
    total, answer = 0, b""
    for key in asked:
        total += int(table[key])
        answer += (
            key
            + b":"
            + table[key]
            + (b"=%02d" % (total % 100) if task == "ledger" else b"")
            + b"\n"
        )
    return answer


def test_prompts_are_those_that_the_recorded_results_were_measured_on() -> None:
    arguments = "--task recall --rows 48 --context 4096 --lines 24 --seed 5 --count 1".split()
    line = subprocess.run(
        [sys.executable, "-m", "experiments.tasks", *arguments],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    digest = "a6fefe906ebf682c8f68d9ad6ed80bb4e1dea223a448f1bba7808754e233e17c"
    assert hashlib.sha256(line).hexdigest() == digest, "experiments/closed_loop is of other prompts"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "rows, context", [(2, 1024), (40, 1024), (48, 4096), (160, 4096), (320, 8192)]
)
def test_the_answer_follows_from_the_prompt(task: str, rows: int, context: int) -> None:
    cell = Cell.of(task, rows, context)
    for item in items(cell, 5, 4, FILLER):
        assert len(item.prompt) == cell.prompt_bytes == context - max(256, context // 8)
        assert item.prompt.count(b"\0") == 1 and item.prompt.count(b"@") == 3
        assert item.answer == solve(item.prompt, cell.lines)
        assert len(item.answer) == answer_bytes(task, cell.lines) <= cell.room


def test_items_depend_on_seed_and_index_and_on_nothing_else() -> None:
    cell = Cell.of("recall", 20, 1024)
    ten = list(items(cell, 1, 10, FILLER))
    assert list(items(cell, 1, 3, FILLER)) == ten[:3]
    assert len({item.prompt for item in ten}) == 10
    assert set(items(cell, 2, 10, FILLER)).isdisjoint(ten)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("recal", 20, 1024), "recall, chain, ledger"),
        (("recall", 300, 1024), "a context of"),
        (("recall", 20, 1024, 256, 33), "at most 19 would fit"),
        (("chain", 1, 1024), "0 lines"),
    ],
)
def test_cells_that_cannot_be_are_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cell.of(*arguments)


@pytest.mark.parametrize("task", TASKS)
def test_a_context_that_is_said_to_do_does(task: str) -> None:
    with pytest.raises(ValueError) as refused:
        Cell.of(task, 300, 1024, 256, 5)
    enough = int(re.search(r"a context of (\d+) would do", str(refused.value))[1])
    assert Cell.of(task, 300, enough, 256, 5).filler_bytes == 0
    with pytest.raises(ValueError):
        Cell.of(task, 300, enough - 1, 256, 5)


@pytest.mark.parametrize("task", TASKS)
def test_training_documents_have_their_size_and_a_class_for_every_byte(task: str) -> None:
    rng = random.Random(3)
    for size in [
        SHORTEST,
        201,
        512,
        1499,
        1500,
        4096,
        8192,
        *(rng.randrange(SHORTEST, 9000) for _ in range(60)),
    ]:
        document = sample_document(rng, task, size, FILLER)
        assert len(document.data) == len(document.classes) == size
        assert document.data.startswith(b"\0@%s\n" % task.encode()) and document.data.endswith(
            b"@end\n"
        )
        assert max(document.classes) <= max(ByteClass)
    with pytest.raises(ValueError, match=str(SHORTEST)):
        sample_document(rng, task, SHORTEST - 1, FILLER)


def test_classes_mark_what_they_are_named_for() -> None:
    document = build("ledger", random.Random(0), 10, [4], 100, FILLER)
    answer = document.segments[document.answers[0]]

    def of(byte_class: ByteClass) -> bytes:
        return bytes(byte for byte, c in zip(answer.data, answer.classes) if c == byte_class)

    lines = answer.data.splitlines()
    assert of(ByteClass.QUERIED_KEY) == b"".join(line[:3] for line in lines)
    assert of(ByteClass.LEDGER_VALUE) == b"".join(line[4:6] for line in lines)
    assert of(ByteClass.LEDGER_SUM) == b"".join(line[7:9] for line in lines)
    assert len(document.data) == document_bytes("ledger", 10, [4]) + 100


@pytest.mark.parametrize("task", TASKS)
def test_scores(task: str) -> None:
    [item] = items(Cell.of(task, 20, 1024, lines=10), 0, 1, FILLER)
    answer, width = item.answer, LINE_BYTES[task]
    right = score(task, answer + b"more", answer)
    assert (right.right, right.before_first_error, right.exact) == (1, 1, 1)
    third = answer_bytes(task, 2) + (
        1 if task == "chain" else 0
    )  # the first byte of the third line's key
    wrong = answer[:third] + b"#" + answer[third + 1 :]
    assert (score(task, wrong, answer).right, score(task, wrong, answer).before_first_error) == (
        0.9,
        0.2,
    )
    assert score(task, wrong, answer).exact == 0
    short = score(task, answer[: answer_bytes(task, 7)], answer)
    assert (short.right, short.before_first_error) == (0.7, 0.7)
    assert score(task, b"", answer).right == 0
    with pytest.raises(ValueError, match=str(width)):
        score(task, answer, answer[:-1])


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.tasks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_writes_json_lines_whose_characters_are_bytes() -> None:
    done = command(
        "--task", "chain", "--rows", "12", "--context", "1024", "--count", "3", "--seed", "4"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert line["prompt"].isascii() and len(line["prompt"]) == 768
        assert solve(line["prompt"].encode(), line["lines"]).decode() == line["answer"]
        parts = [line["answer"][first:last] for first, last in line["scored"]]
        assert len(parts) == line["lines"] and all(part in line["answer"] for part in parts)
        assert len({len(part) for part in parts}) == 1
    again = command(
        "--task", "chain", "--rows", "12", "--context", "1024", "--count", "3", "--seed", "4"
    )
    assert again.stdout == done.stdout


def test_the_command_says_what_is_wrong_in_one_line() -> None:
    for words in (["--rows", "500"], ["--rows", "12", "--filler", "/nowhere"]):
        done = command("--task", "recall", "--context", "1024", *words)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("experiments.tasks: error: ") and done.stderr.count("\n") == 1
