"""Whether transformers' logits of a saved model equal those of the training code.

    python3 -m experiments.reference_model.check_transformers experiments/reference_model/model

Prints the relative difference (norms over all logits) of 2048 random bytes in float32; fails above 1e-5.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from .generate import sequence_logits
from .network import VOCABULARY, Network

TOLERANCE = 1e-5


@torch.no_grad()
def relative_difference(model: Path, length: int) -> float:
    """||ours - theirs|| / ||ours|| of the logits of one sequence, both in float32 on the CPU."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    tokens = torch.randint(1, VOCABULARY, (1, length))
    tokens[:, 0] = 0
    ours = sequence_logits(Network.load(model), tokens)
    theirs = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()(tokens).logits
    return ((ours - theirs).norm() / ours.norm()).item()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m experiments.reference_model.check_transformers MODEL")
    difference = relative_difference(Path(sys.argv[1]), 2048)
    print(f"relative difference of the logits: {difference:.2e}")
    sys.exit(difference > TOLERANCE)
