"""Trains the reference model on a corpus and on tasks made on the fly.

    python3 -m experiments.reference_model.train --corpus CORPUS --out MODEL --seconds 470

On one GPU, without network. The schedule is by time and the batches come from many processes: two runs differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from experiments.tasks.documents import ByteClass

from .attention import fastest_attention
from .data import LOSS_WEIGHTS, BatchStream, read_corpus
from .muon import Muon
from .network import SIZES, ModelConfig, Network, Parts, rope_tables
from .schedule import CURRICULUM, Phase, learning_rate, phase_at

REPORT_EVERY = 25  # steps


@dataclass(frozen=True)
class Recipe:
    seconds: float = 470.0
    peak_learning_rate: float = 2e-3
    weight_decay: float = 0.1
    batch_bytes: int = 131_072
    natural: float = 0.55  # share of rows that are natural text
    workers: int = 13
    seed: int = 0
    curriculum: tuple[Phase, ...] = CURRICULUM
    steps: int | None = None  # stop here at the latest


class Optimizers:
    """Muon for the matrices of the layers, AdamW for embedding, head and norms."""

    def __init__(self, network: Network, weight_decay: float):
        n = network
        self._parameters = list(network.parameters())
        self._muon = Muon([[n.wq, n.wo], [n.wk, n.wv], [n.wg, n.wu, n.wd]], weight_decay)
        self._scales = (1.0, 0.5, 1.0)
        groups = [[n.embedding], [n.head], [n.attention_norm, n.ffn_norm, n.final_norm]]
        self._adam = torch.optim.AdamW(
            [{"params": group} for group in groups], lr=1.0, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0
        )

    def step(self, rate: float) -> None:
        """Steps both and forgets the gradients."""
        self._muon.step(rate)
        for group, scale in zip(self._adam.param_groups, self._scales):
            group["lr"] = rate * scale
        self._adam.step()
        for parameter in self._parameters:
            parameter.grad = None


class ClassCounts:
    """Loss and accuracy by class of byte since the last report, kept on the device."""

    def __init__(self, device: str):
        self._totals = torch.zeros(3, len(ByteClass), device=device)  # losses, hits, bytes

    def add(self, classes: Tensor, losses: Tensor, hits: Tensor) -> None:
        self._totals.index_add_(1, classes, torch.stack([losses, hits.float(), torch.ones_like(losses)]))

    def take(self) -> dict[str, float]:
        """Bits per byte of natural text and accuracies of what tasks ask for; then starts again."""
        losses, hits, _ = (self._totals / self._totals[2].clamp(min=1)).tolist()
        self._totals.zero_()
        named = (
            ByteClass.RECALL_VALUE,
            ByteClass.CHAIN_KEY,
            ByteClass.LEDGER_VALUE,
            ByteClass.LEDGER_SUM,
            ByteClass.QUERIED_KEY,
        )
        return {"bits_per_byte": round(losses[ByteClass.NATURAL] / math.log(2), 4)} | {
            byte_class.name.lower(): round(hits[byte_class], 4) for byte_class in named
        }


class Trainer:
    def __init__(self, config: ModelConfig, recipe: Recipe, device: str):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.network = Network(config).to(device)
        self._dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._parts = Parts.compiled() if device == "cuda" else Parts()
        self._optimizers = Optimizers(self.network, recipe.weight_decay)
        self._counts = ClassCounts(device)
        self._weights = torch.tensor([LOSS_WEIGHTS[c] for c in ByteClass], device=device)

    def run(self, batches: BatchStream, log: TextIO) -> dict:
        """Trains for the recipe's time; what the run was, as the last line of the log says it too."""
        recipe, phase, start = self.recipe, None, time.monotonic()
        step = n_bytes = 0
        report: dict = {}
        while True:
            share = min(1.0, (time.monotonic() - start) / recipe.seconds)
            wanted = phase_at(share, recipe.curriculum)
            if wanted != phase:
                phase = wanted
                batches.set_length(phase.length)
                self._set_length(phase.length)
            for _ in range(phase.accumulate):
                n_bytes += self._accumulate(batches.next(), phase.accumulate)
            self._optimizers.step(learning_rate(recipe.peak_learning_rate, step, share))
            step += 1
            if step == 1:
                # Compilation is not training: the clock starts after it.
                self._synchronize()
                start = time.monotonic()
            elif step % 4 == 0:
                self._synchronize()  # else the CPU runs ahead of the clock
            elapsed = time.monotonic() - start
            done = elapsed >= recipe.seconds or step == recipe.steps
            if done or step % REPORT_EVERY == 0:
                report = {"step": step, "seconds": round(elapsed, 1), "length": phase.length, "bytes": n_bytes}
                report |= self._counts.take()
                print(json.dumps(report), file=log, flush=True)
                if not math.isfinite(report["bits_per_byte"]):
                    raise FloatingPointError(f"diverged at step {step}; a lower --learning-rate may do")
            if done:
                return report

    def _set_length(self, length: int) -> None:
        config, rows = self.network.config, self.recipe.batch_bytes // length
        name, attention = fastest_attention(config, rows, length, self.device, self._dtype)
        self._attention = attention
        positions = torch.arange(length, device=self.device).repeat(rows)
        self._rope = rope_tables(positions, config)
        print(f"rows of {length} bytes; attention: {name}", file=sys.stderr, flush=True)

    def _accumulate(self, batch, accumulate: int) -> int:
        """Adds the gradients of a batch; its bytes."""
        tokens = torch.from_numpy(batch.tokens).to(self.device, non_blocking=True).long()
        classes = torch.from_numpy(batch.classes[:, 1:].copy()).to(self.device, non_blocking=True).long().reshape(-1)
        weights = self._weights[classes]
        loss, losses, hits = self.network.loss(
            tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), weights,
            self._attention, self._rope, self._dtype, self._parts,
        )
        (loss / (weights.sum() * accumulate)).backward()
        self._counts.add(classes, losses, hits)
        return classes.numel()

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="train", description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of english.bin.xz and code.bin.xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seconds", type=float, default=Recipe.seconds)
    parser.add_argument("--steps", type=int, help="stop after so many at the latest")
    parser.add_argument("--learning-rate", type=float, default=Recipe.peak_learning_rate)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 3))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    recipe = Recipe(
        seconds=options.seconds,
        peak_learning_rate=options.learning_rate,
        workers=options.workers,
        seed=options.seed,
        steps=options.steps,
    )
    corpus = read_corpus(options.corpus)
    with BatchStream(corpus, recipe.batch_bytes, recipe.natural, recipe.workers, recipe.seed) as batches:
        batches.set_length(recipe.curriculum[0].length)  # forks, before CUDA is there
        trainer = Trainer(SIZES[options.size], recipe, "cuda" if torch.cuda.is_available() else "cpu")
        n_parameters = sum(p.numel() for p in trainer.network.parameters())
        print(f"{n_parameters} parameters, torch {torch.__version__}", file=sys.stderr, flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        with open(options.out / "training.jsonl", "w") as log:
            trainer.run(batches, log)
    trainer.network.save(options.out)


if __name__ == "__main__":
    main()
