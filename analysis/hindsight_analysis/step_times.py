"""Times that bench_steps wrote: one run a line of its JSON, taken apart by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

NAME = re.compile(
    r"(?P<what>\w+)/(?P<q_heads>\d+):(?P<kv_heads>\d+)/b(?P<batch>\d+)/(?P<context>\d+)"
    r"/w(?P<window>\d+)/k(?P<budget>\d+)/(?P<cache>cold|hot)(/.*)?"
)


@dataclass(frozen=True)
class Workload:
    """One decode step of each of `batch` sequences of `context` tokens; what is timed is `what`."""

    what: str
    q_heads: int
    kv_heads: int
    batch: int
    context: int
    window: int
    budget: int
    cache: str


@dataclass(frozen=True)
class StepTime:
    us: float  # per layer
    read_us: float  # of reading the bytes that must move, in the same run


def load_step_times(file: str) -> dict[Workload, StepTime]:
    """Runs that could be made, by workload. Raises ValueError for names of other programs."""
    with open(file, encoding="utf-8") as opened:
        runs = json.load(opened)["benchmarks"]
    times = {}
    for run in runs:
        if run.get("error_occurred"):
            continue
        match = NAME.fullmatch(run["name"])
        if not match:
            raise ValueError(f"{file}: {run['name']} is no run of bench_steps")
        parts = match.groupdict()
        numbers = {
            name: int(parts[name]) for name in Workload.__annotations__ if parts[name].isdigit()
        }
        workload = Workload(what=parts["what"], cache=parts["cache"], **numbers)
        times[workload] = StepTime(us=run["real_time"], read_us=run["of_read"] * run["real_time"])
    return times
