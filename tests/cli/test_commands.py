"""The command line as a script sees it: exit statuses, one line of error, tables on stdout and everything else on stderr."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

BINARY = os.environ.get("HINDSIGHT_BIN", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="HINDSIGHT_BIN does not name the program")

SWEEP = """version: 1
traces: [trace.h5]
device: cpu
methods:
  - {name: dense, selector: dense}
  - {name: quest, selector: quest, grid: {budget.ratio: [0.1, 0.3]}}
"""


def hindsight(*words: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *words], cwd=cwd, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    made = hindsight(
        *"trace synth -o trace.h5 --tokens 400 --prompt-tokens 340 --layers 4".split(), cwd=folder
    )
    assert made.returncode == 0, made.stderr
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


@pytest.mark.parametrize(
    "words, status, said",
    [
        ("", 2, "a subcommand is required: run, eval, report, compare, merge"),
        ("fly", 2, "unknown subcommand fly"),
        ("rnu sweep.yaml", 2, "did you mean run"),
        ("trace inof trace.h5", 2, "did you mean info?; see hindsight trace --help"),
        ("--fast", 2, "unknown option --fast"),
        ("run", 2, "config"),
        ("run none.yaml", 2, "none.yaml: no such file"),
        ("run sweep.yaml --fast", 2, "--fast"),
        ("run sweep.yaml --resum", 2, "unknown option --resum, did you mean --resume?; see hindsight run --help"),
        ("--quite run sweep.yaml", 2, "did you mean --quiet"),
        ("report r.h5 --frmat=csv", 2, "did you mean --format"),
        ("run sweep.yaml --set repeats=x", 2, "--set repeats=x"),
        ("run sweep.yaml --device gpu", 2, "--device gpu"),
        ("run sweep.yaml --set layers=[9]", 2, "does not hold layer 9"),
        ("run sweep.yaml --set steps.count=61", 2, "steps.count"),
        ("run sweep.yaml --set steps.from=60", 2, "steps.from"),
        ("run sweep.yaml --set layers=[0,1]", 2, "no sparse layer is left"),
        ("run sweep.yaml --set traces=none.h5", 3, "none.h5: no such file"),
        ("run sweep.yaml --set traces=none*.h5", 3, "no file matches"),
        ("run sweep.yaml --set traces=sweep.yaml", 3, "not a whole HDF5 file"),
        ("run sweep.yaml --device cuda:77", 4, "cuda:77"),
        ("run sweep.yaml -o /proc/none/r.h5", 4, "/proc/none/r.h5"),
        ("run sweep.yaml -o sweep.yaml", 4, "is not replaced"),
        ("report none.h5", 4, "none.h5"),
        ("report trace.h5", 4, "attribute format"),
        ("methods qest", 2, "did you mean quest"),
        ("trace info none.h5", 3, "none.h5"),
        ("trace", 2, "subcommand"),
        ("trace synth -o x.h5 --q-heads 3", 2, "--q-heads"),
        ("trace synth -o none/x.h5", 4, "none/x.h5"),
        ("trace synth -o x.h5 --dtype f16", 2, "f16 not in {bfloat16,float16,float32}"),
        ("trace convert sweep.yaml -o x.h5 --prompt-tokens 5", 3, "neither .npz nor .safetensors"),
    ],
)
def test_errors_are_one_line_with_their_status(folder: Path, words: str, status: int, said: str) -> None:
    for more in ([], ["--quiet"]):
        done = hindsight(*words.split(), *more, cwd=folder)
        assert done.returncode == status, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("hindsight: error: ")
        assert done.stdout == ""
        assert not (folder / "results").exists(), "an error before the first point leaves no file"


def test_a_table_that_cannot_be_written_is_an_error(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, "methods"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 4
    assert done.stderr.startswith("hindsight: error: ") and "No space left" in done.stderr


@pytest.mark.parametrize(
    "command",
    ["", "run", "report", "compare", "merge", "trace", "trace synth", "trace convert", "methods", "version"],
)
def test_every_help_has_an_example(folder: Path, command: str) -> None:
    done = hindsight(*command.split(), "--help", cwd=folder)
    assert done.returncode == 0
    assert "Example: hindsight" in done.stdout


def test_methods_and_version(folder: Path) -> None:
    assert "retro" in hindsight("methods", cwd=folder).stdout
    one = hindsight("methods", "quest", cwd=folder).stdout
    assert "budget.ratio" in one and "per_kv_head | per_query_head" in one
    version = hindsight("version", cwd=folder).stdout
    assert "backends" in version and "HDF5" in version


def test_a_dry_run_shows_the_points_and_what_they_take_and_writes_nothing(folder: Path) -> None:
    done = hindsight("run", "sweep.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("quest") >= 2
    for word in ("3 points", "peak memory", "time", "output"):
        assert word in done.stdout
    assert not (folder / "results").exists()


def test_a_run_then_a_report(folder: Path) -> None:
    done = hindsight("run", "sweep.yaml", "-o", "run/r.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "\r" not in done.stderr, "no bar where stderr is no terminal"
    assert hindsight("run", "sweep.yaml", "-o", "run/r.h5", "--quiet", cwd=folder).stderr == ""
    assert "quest" in hindsight("report", "run/r.h5", cwd=folder).stdout


def test_an_interrupted_run_keeps_its_points_and_goes_on(folder: Path) -> None:
    made = hindsight(
        *"trace synth -o long.h5 --tokens 3000 --prompt-tokens 1000 --layers 6".split(), cwd=folder
    )
    assert made.returncode == 0
    words = [BINARY, "run", "sweep.yaml", "--set", "traces=long.h5", "-o", "cut/r.h5"]
    running = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not (folder / "cut" / "r.h5").exists():
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    error = running.communicate(timeout=120)[1]
    if running.returncode == 0:
        pytest.skip("the sweep was over before the signal came")
    assert running.returncode == 5 and "--resume" in error
    with h5py.File(folder / "cut" / "r.h5") as file:
        kept = len(file["points"])
        assert 1 <= kept < 3
    assert subprocess.run([*words, "--resume"], cwd=folder, capture_output=True).returncode == 0
    words[-1] = "cut/whole.h5"
    assert subprocess.run(words, cwd=folder, capture_output=True).returncode == 0
    with h5py.File(folder / "cut" / "r.h5") as resumed, h5py.File(folder / "cut" / "whole.h5") as whole:
        assert resumed["summary"][...].tobytes() == whole["summary"][...].tobytes()


def test_traces_of_python_and_of_the_program_are_the_same_format(folder: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {}
    for layer in (1, 3):
        arrays[f"layers.{layer}.k"] = rng.standard_normal((50, 2, 8)).astype(np.float16)
        arrays[f"layers.{layer}.v"] = rng.standard_normal((50, 2, 8)).astype(np.float16)
        arrays[f"layers.{layer}.q"] = rng.standard_normal((20, 6, 8)).astype(np.float16)
    for save, name in ((np.savez, "a.npz"), (np.savez_compressed, "b.npz")):
        save(folder / name, **arrays)
        done = hindsight("trace", "convert", name, "-o", "c.h5", "--prompt-tokens", "30", cwd=folder)
        assert done.returncode == 0, done.stderr
        with h5py.File(folder / "c.h5") as file:
            assert file.attrs["format"] in ("hindsight-trace", b"hindsight-trace")
            for name_in_file, array in arrays.items():
                stored = file[name_in_file.replace(".", "/")]
                assert stored.dtype == np.float16
                np.testing.assert_array_equal(stored[...], array)
        assert hindsight("trace", "validate", "c.h5", cwd=folder).returncode == 0


def test_safetensors_are_converted(folder: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rng = np.random.default_rng(2)
    tensors = {
        "model.0.keys": rng.standard_normal((40, 1, 8)).astype(np.float32),
        "model.0.vals": rng.standard_normal((40, 1, 8)).astype(np.float32),
        "model.0.quer": rng.standard_normal((10, 4, 8)).astype(np.float32),
    }
    save_file(tensors, folder / "t.safetensors")
    names = "--k-name model.{}.keys --v-name model.{}.vals --q-name model.{}.quer".split()
    done = hindsight(*"trace convert t.safetensors -o s.h5 --prompt-tokens 30".split(), *names, cwd=folder)
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "s.h5") as file:
        np.testing.assert_array_equal(file["layers/0/q"][...], tensors["model.0.quer"])


@pytest.mark.parametrize("damage", ["truncated", "header", "offsets"])
def test_damaged_arrays_are_refused(folder: Path, damage: str) -> None:
    good = (folder / "a.npz").read_bytes() if (folder / "a.npz").exists() else None
    if damage == "truncated":
        if good is None:
            np.savez(folder / "a.npz", x=np.zeros((3, 3, 3), np.float32))
            good = (folder / "a.npz").read_bytes()
        (folder / "bad").write_bytes(good[: len(good) // 2])
    elif damage == "header":
        (folder / "bad").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    else:
        header = b'{"layers.0.k":{"dtype":"F32","shape":[2,1,2],"data_offsets":[0,99999]}}'
        (folder / "bad").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    done = hindsight(*"trace convert bad -o x.h5 --prompt-tokens 1".split(), cwd=folder)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "x.h5").exists()


def test_synthetic_traces_have_sinks_and_locality_and_are_reproducible(folder: Path) -> None:
    words = "trace synth --tokens 600 --prompt-tokens 500 --layers 1 --dtype float32 --seed 5 -o".split()
    for threads, name in (("1", "one.h5"), ("3", "three.h5")):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        assert hindsight(*words, name, cwd=folder, env=environment).returncode == 0
    with h5py.File(folder / "one.h5") as one, h5py.File(folder / "three.h5") as three:
        for array in "kvq":
            np.testing.assert_array_equal(one[f"layers/0/{array}"][...], three[f"layers/0/{array}"][...])
        k, q = one["layers/0/k"][:, 0], one["layers/0/q"][:, 0]
    logits = q @ k.T / np.sqrt(k.shape[-1])
    positions = 500 + np.arange(100)[:, None]
    logits[np.arange(600)[None] > positions] = -np.inf
    mass = np.exp(logits - logits.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    distance = positions - np.arange(600)[None]
    assert mass[:, :4].sum(1).mean() > 20 * 4 / 550, "sinks"
    assert (mass * (distance >= 0) * (distance < 64)).sum(1).mean() > 2 * 64 / 550, "locality"
    top = np.sort(mass, 1)[:, ::-1]
    assert top[:, :27].sum(1).mean() > 0.3, "few keys get much"


def write_vast_trace(file: Path, tokens: int) -> None:
    """A trace whose values were never written: they take no room in the file and are read as zeros."""
    prompt, heads, head_dim = tokens - 100, 8, 128
    with h5py.File(file, "w") as trace:
        trace.attrs.update(
            format="hindsight-trace",
            format_version=1,
            model="vast",
            source="synthetic",
            rope="none",
            n_tokens=tokens,
            prompt_tokens=prompt,
            n_q_heads=heads,
            n_kv_heads=heads,
            head_dim=head_dim,
            n_model_layers=4,
            softmax_scale=head_dim**-0.5,
        )
        for name, rows in (("k", tokens), ("v", tokens), ("q", 100)):
            shape = (rows, heads, head_dim)
            trace.create_dataset(f"layers/3/{name}", shape, np.float16, chunks=(100, heads, head_dim))
        trace["layers/3/q"].attrs["q_start"] = prompt


def test_what_does_not_fit_in_memory_is_refused_before_it_runs(folder: Path) -> None:
    write_vast_trace(folder / "vast.h5", 20_000)
    (folder / "vast.yaml").write_text(
        "version: 1\ntraces: [vast.h5]\ndevice: cpu\nmeasure: [latency]\nbatch: 65536\noutput: vast.result.h5\n"
        "methods: [{name: quest, selector: quest, budget.ratio: 0.1}]\n"
    )
    done = hindsight("run", "vast.yaml", cwd=folder)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
    assert "vast.yaml: the sweep needs about" in done.stderr and "a smaller batch" in done.stderr
    assert not (folder / "vast.result.h5").exists()


@pytest.mark.parametrize("words", ["trace info", "trace validate", "run sweep.yaml --set traces="])
def test_a_trace_too_large_for_any_memory_is_refused_unread(folder: Path, words: str) -> None:
    write_vast_trace(folder / "vaster.h5", 2_000_000_000)
    command = (words if words.endswith("=") else words + " ") + "vaster.h5"
    done = hindsight(*command.split(), cwd=folder)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert "vaster.h5: /layers/3/k: 2048000000000 elements do not fit" in done.stderr


def test_validate_reads_the_tokens_too(folder: Path) -> None:
    words = "trace synth -o tokens.h5 --tokens 900 --prompt-tokens 800 --layers 1".split()
    assert hindsight(*words, cwd=folder).returncode == 0
    with h5py.File(folder / "tokens.h5", "a") as file:
        ids = np.arange(900, dtype=np.int32)
        tokens = file.create_dataset("tokens", data=ids, chunks=(300,), compression="gzip")
        damaged = tokens.id.get_chunk_info(1).byte_offset
    assert hindsight("trace", "validate", "tokens.h5", cwd=folder).returncode == 0
    with open(folder / "tokens.h5", "r+b") as file:
        file.seek(damaged)
        file.write(bytes(range(255, 215, -1)))
    done = hindsight("trace", "validate", "tokens.h5", cwd=folder)
    assert done.returncode == 3 and done.stderr.startswith("hindsight: error: tokens.h5: /tokens: "), done.stderr


def test_a_damaged_layer_that_is_read_ahead_is_one_line(folder: Path) -> None:
    words = "trace synth -o layers.h5 --tokens 900 --prompt-tokens 800 --layers 4".split()
    assert hindsight(*words, cwd=folder).returncode == 0
    with h5py.File(folder / "layers.h5", "a") as file:
        keys, attributes = file["layers/3/k"][...], dict(file["layers/3/k"].attrs)
        del file["layers/3/k"]
        packed = file.create_dataset("layers/3/k", data=keys, chunks=(300, *keys.shape[1:]), compression="gzip")
        packed.attrs.update(attributes)
        damaged = packed.id.get_chunk_info(1).byte_offset
    with open(folder / "layers.h5", "r+b") as file:
        file.seek(damaged)
        file.write(bytes(range(255, 215, -1)))
    (folder / "layers.yaml").write_text(
        "version: 1\ntraces: [layers.h5]\ndevice: cpu\nmeasure: [fidelity]\noutput: layers.result.h5\n"
        "methods: [{name: quest, selector: quest, budget.ratio: 0.1}]\n"
    )
    done = hindsight("run", "layers.yaml", "--quiet", cwd=folder)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert "layers.h5: /layers/3/k: " in done.stderr and "inflate" in done.stderr


def peak_memory_stated(words: list[str], cwd: Path) -> float:
    """Megabytes, as --dry-run states them."""
    return float(re.search(r"peak memory +([\d.]+) MB", hindsight(*words, "--dry-run", cwd=cwd).stdout)[1])


def peak_memory_taken(words: list[str], cwd: Path) -> float:
    """Megabytes. A child's high-water mark starts at that of what it was forked from: a small process measures it."""
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", measure, BINARY, *words, "--quiet"]
    return int(subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout) * 1024 / 1e6


@pytest.mark.parametrize(
    "sweep, settings",
    [
        ("page_size", ["repeats=1", "steps.count=64"]),
        ("quickstart", ["measure=[fidelity]"]),  # many points, of which threads could keep what they freed
    ],
)
def test_the_memory_that_a_dry_run_states_is_what_the_run_takes(
    tmp_path: Path, sweep: str, settings: list[str]
) -> None:
    root = Path(__file__).parents[2]
    few = [word for setting in settings for word in ("--set", setting)]
    words = ["run", f"configs/{sweep}.yaml", "--device", "cpu", *few, "-o", str(tmp_path / "r.h5")]
    assert peak_memory_stated(words, root) == pytest.approx(peak_memory_taken(words, root), rel=0.25)


@pytest.mark.parametrize(
    "measure, method",
    [
        ("fidelity", "{name: q, selector: quest, budget.ratio: 0.1}"),
        ("fidelity", "{name: r, selector: quest, budget.ratio: 0.3, gqa.unit: per_query_head, retro.window: 8}"),
        ("latency", "{name: d, selector: dense}"),
    ],
)
def test_the_memory_stated_is_right_whatever_takes_most_of_it(tmp_path: Path, measure: str, method: str) -> None:
    # Queries of the whole prompt, stored though none is replayed, are as large as all else of a layer.
    rng = np.random.default_rng(0)
    tokens, steps, heads, head_dim = 4000, 60, {"k": 2, "v": 2, "q": 12}, 128
    arrays = {
        f"layers.{layer}.{name}": rng.standard_normal((tokens, n, head_dim), np.float32).astype(np.float16)
        for layer in (2, 3)
        for name, n in heads.items()
    }
    np.savez(tmp_path / "a.npz", **arrays)
    prompt = str(tokens - steps)
    assert hindsight(*"trace convert a.npz -o t.h5 --prompt-tokens".split(), prompt, cwd=tmp_path).returncode == 0
    (tmp_path / "c.yaml").write_text(
        f"version: 1\ntraces: [t.h5]\ndevice: cpu\nmeasure: [{measure}]\nrepeats: 2\nmethods: [{method}]\n"
    )
    words = ["run", "c.yaml"]
    assert peak_memory_stated(words, tmp_path) == pytest.approx(peak_memory_taken(words, tmp_path), rel=0.25)
