"""Figures need no torch, and capture says so where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = [
    "capture",
    "errors",
    "figures",
    "lines",
    "progress",
    "results",
    "trace_file",
]

WITHOUT_TORCH = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "


def run(code):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code], capture_output=True, text=True
    )


@pytest.mark.parametrize("module", MODULES)
def test_importing_needs_no_torch(module):
    done = run(f"import hindsight_analysis.{module}")
    assert done.returncode == 0, done.stderr


CAPTURE = "from hindsight_analysis.capture import main; sys.exit(main({arguments}))"


def test_capture_names_the_package_that_is_missing():
    arguments = "--model m --text t --prompt-tokens 1 --tokens 2 --out o".split()
    done = run(CAPTURE.format(arguments=arguments))
    assert done.returncode == 4 and done.stderr.count("\n") == 1
    assert "torch is not installed" in done.stderr


def test_capture_helps_without_torch_and_with_an_example():
    done = run(CAPTURE.format(arguments=["--help"]))
    assert done.returncode == 0
    assert "Example: python -m hindsight_analysis.capture --model" in done.stdout
