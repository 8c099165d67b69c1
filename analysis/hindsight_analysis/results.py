"""Result files (format hindsight-result, version 1) as plain arrays: see README, "Result files"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np


class ResultError(Exception):
    """What is wrong with a result file, in one line."""


@dataclass
class Point:
    """One point: its row of /summary by column, and where its series are."""

    id: str
    row: dict[str, object]
    group: h5py.Group

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def budget(self) -> float | None:
        """The share of the context that a step may load, where the point has one."""
        value = self.group.attrs.get("budget.ratio")
        return None if value is None else float(value)

    @property
    def window(self) -> int:
        """The retrospective window; 1 where the point is not refined."""
        return int(self.group.attrs.get("retro.window", 1))

    def series(self, name: str) -> np.ndarray | None:
        """Values of a series, if the point has it."""
        return self.group[name][...] if name in self.group else None


class Results:
    """An open result file; a context manager."""

    def __init__(self, file: Path):
        try:
            self._h5 = h5py.File(file)
        except OSError as error:
            raise ResultError(f"{file}: cannot be opened as a result file: {error}") from error
        if self._h5.attrs.get("format") not in ("hindsight-result", b"hindsight-result"):
            raise ResultError(f"{file}: attribute format: no result file of hindsight")
        summary = self._h5["summary"][...]
        text = lambda value: value.decode() if isinstance(value, bytes) else value
        self.points = []
        for row in summary:
            values = {name: text(row[name]) for name in summary.dtype.names}
            self.points.append(Point(str(values["point"]), values, self._h5["points"][str(values["point"])]))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_) -> None:
        self._h5.close()
