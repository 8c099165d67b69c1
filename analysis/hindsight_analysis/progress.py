"""A progress line with the time left, on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time


class Progress:
    def __init__(self, label: str, total: int):
        self._label, self._total, self._start = label, total, time.monotonic()
        self._shown = sys.stderr.isatty()

    def update(self, done: int) -> None:
        if not self._shown or done <= 0:
            return
        left = (time.monotonic() - self._start) * (self._total - done) / done
        end = "\n" if done >= self._total else ""
        sys.stderr.write(f"\r\033[K{self._label}: {done} of {self._total}, {left:.0f} s left{end}")
        sys.stderr.flush()
