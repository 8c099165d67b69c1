"""Errors of the command lines: one line on stderr, and the statuses of the hindsight program."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

USAGE = 2  # a wrong option, or a model or layer that is not there
INPUT = 3  # an input file missing, unreadable or wrong
ENVIRONMENT = 4  # something not installed, memory, output not writable


class CommandError(Exception):
    """What is wrong, in one line, with the exit status that says whose fault it is."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class OneLineParser(argparse.ArgumentParser):
    """Reports a usage error in one line, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(USAGE, f"{message} (--help shows the options)")


def run_command(name: str, command: Callable[[], None]) -> int:
    """Runs a command line; its exit status."""
    try:
        command()
    except CommandError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 5
    return 0
