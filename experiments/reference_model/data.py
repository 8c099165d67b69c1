"""Batches for training: natural text and task documents, made by worker processes while the GPU works."""

from __future__ import annotations

import lzma
import math
import multiprocessing
import queue
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.tasks.documents import ByteClass, Filler
from experiments.tasks.training import SHORTEST, sample_document

KINDS = ("english", "code")

LOSS_WEIGHTS = {
    ByteClass.NATURAL: 1.0,
    ByteClass.TABLE: 0.1,  # random: what can be learnt is where a row ends
    ByteClass.MARKER: 0.5,
    ByteClass.RECALL_VALUE: 3.0,
    ByteClass.CHAIN_KEY: 3.0,
    ByteClass.LEDGER_VALUE: 2.0,
    ByteClass.LEDGER_SUM: 4.0,
    ByteClass.QUERIED_KEY: 1.5,
    ByteClass.IGNORED: 0.0,
}
TASK_SHARES = {"recall": 0.30, "chain": 0.35, "ledger": 0.35}


@dataclass(frozen=True)
class Batch:
    """rows x (length + 1) bytes, and the class of each: the targets are the bytes after the first."""

    length: int
    tokens: np.ndarray
    classes: np.ndarray


def read_corpus(folder: Path) -> dict[str, bytes]:
    """The training text by kind, from <kind>.bin.xz as corpus.build writes it (documents end in byte 0)."""
    with multiprocessing.Pool(len(KINDS)) as pool:  # decompression takes a process seconds
        return dict(zip(KINDS, pool.map(_decompress, [folder / f"{kind}.bin.xz" for kind in KINDS])))


def _decompress(file: Path) -> bytes:
    return lzma.decompress(file.read_bytes()) + b"\0"


def natural_row(rng: random.Random, corpus: dict[str, bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Byte 0 and a crop of either kind."""
    text = corpus[rng.choice(KINDS)]
    start = rng.randrange(len(text) - size)
    tokens = np.zeros(size, np.uint8)
    tokens[1:] = np.frombuffer(text, np.uint8, size - 1, start)
    return tokens, np.full(size, ByteClass.NATURAL, np.uint8)


def task_row(rng: random.Random, filler: Filler, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Task documents until the row is full; in long rows one that fills it, more often than not."""
    tokens, classes = bytearray(), bytearray()
    while len(tokens) < size:
        left = size - len(tokens)
        fills_row = size > 2048 and rng.random() < (0.3 if tokens else 0.65)
        length = left
        if not fills_row:
            length = min(left, int(math.exp(rng.uniform(math.log(300), math.log(max(size, 600))))))
            if left - length < SHORTEST:
                length = left
        task = rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()))[0]
        document = sample_document(rng, task, length, filler)
        tokens += document.data
        classes += document.classes
    return np.frombuffer(bytes(tokens), np.uint8), np.frombuffer(bytes(classes), np.uint8)


def make_batch(
    rng: random.Random, corpus: dict[str, bytes], filler: Filler, length: int, batch_bytes: int, natural: float
) -> Batch:
    """A batch of batch_bytes // length rows, of which a share `natural` is natural text, the rest tasks."""
    rows = [
        natural_row(rng, corpus, length + 1)
        if rng.random() < natural
        else task_row(rng, filler, length + 1)
        for _ in range(batch_bytes // length)
    ]
    return Batch(length, np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))


class BatchStream:
    """Batches of the length asked for last, from worker processes. A context manager, which ends them.

    Which worker is ahead depends on the machine: the order of batches is not reproducible.
    """

    def __init__(self, corpus: dict[str, bytes], batch_bytes: int, natural: float, workers: int, seed: int):
        # Forked, so that the corpus is shared; before CUDA is initialised, which does not survive a fork.
        context = multiprocessing.get_context("fork")
        self._length = context.Value("i", 0)  # 0: end
        self._queue = context.Queue(maxsize=16)
        self._workers = [
            context.Process(target=self._work, args=(corpus, batch_bytes, natural, f"{seed}/{i}"), daemon=True)
            for i in range(workers)
        ]

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.terminate()

    def set_length(self, length: int) -> None:
        """Batches of this length from now on; those still queued are dropped by `next`."""
        self._length.value = length
        for worker in self._workers:
            if worker.pid is None:
                worker.start()

    def next(self) -> Batch:
        while True:
            batch = self._queue.get(timeout=120)
            if batch.length == self._length.value:
                return batch

    def _work(self, corpus: dict[str, bytes], batch_bytes: int, natural: float, seed: str) -> None:
        rng = random.Random(seed)
        filler = Filler(*corpus.values())
        while True:
            length = self._length.value
            batch = make_batch(rng, corpus, filler, length, batch_bytes, natural)
            while self._length.value == length:
                try:
                    self._queue.put(batch, timeout=0.5)
                    break
                except queue.Full:
                    pass
