"""The curriculum and the learning rate, both by elapsed time: a run takes what it is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Rows of `length` bytes until `until` of the time has passed, `accumulate` batches a step."""

    length: int
    until: float
    accumulate: int


# Short rows first: retrieval is learnt there in a fraction of the time, and then stretched.
CURRICULUM = (
    Phase(512, 0.05, 1),
    Phase(1024, 0.10, 1),
    Phase(2048, 0.22, 1),
    Phase(4096, 0.42, 2),
    Phase(8192, 1.00, 2),
)

WARM_UP_STEPS = 60
DECAY_FROM = 0.45  # of the time
LOWEST_SHARE = 0.01  # of the peak


def phase_at(share: float, curriculum: tuple[Phase, ...] = CURRICULUM) -> Phase:
    """The phase at a share of the time, in [0, 1]."""
    return next((phase for phase in curriculum if share < phase.until), curriculum[-1])


def learning_rate(peak: float, step: int, share: float) -> float:
    """Linear warm-up by steps, constant, then linear to nearly nothing. step counts from 0."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    decay = 1.0 if share < DECAY_FROM else max(LOWEST_SHARE, (1 - share) / (1 - DECAY_FROM))
    return peak * warm * decay
