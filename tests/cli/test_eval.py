"""`hindsight eval` as a script sees it, with the reference model: results, statuses, one line of error with its place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

BINARY = os.environ.get("HINDSIGHT_BIN", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="HINDSIGHT_BIN does not name the program")

MODEL = Path(__file__).parents[2] / "experiments" / "reference_model" / "model"
CONFIG = """version: 1
model: model
mode: generate
data: [recall.jsonl]
device: cpu
methods:
  - {name: dense, selector: dense}
  - {name: retro, selector: quest, budget.ratio: 0.5, retro: {window: 2, query: original}}
"""


def hindsight(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *words], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").symlink_to(MODEL)
    table = "".join(f"k{chr(97 + i)}{chr(97 + i)}:{111 * (i + 1)}\n" for i in range(8))
    prompt = f"\0@recall\n\n{table}\n@ask kbb kff\n@out\n"
    (tmp_path / "recall.jsonl").write_text(
        json.dumps({"prompt": prompt, "answer": "kbb:222\nkff:666\n", "scored": [[4, 7], [12, 15]]}) + "\n"
    )
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def test_results_are_in_the_file_and_in_the_report(folder: Path) -> None:
    done = hindsight("eval", "c.yaml", cwd=folder)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    with h5py.File(folder / "results" / "c.h5") as file:
        assert file.attrs["configuration"].count(b"selector") == 2
        assert b"  model\n" in file.attrs["trace_sha256"]
        for point in file["points"].values():
            assert point.attrs["measurements"] == b"generate"
            written = bytes(int(token) for token in point["written"][0] if token >= 0)
            assert len(written) == 16 and written.startswith(b"k")
            assert point["expected"][0][:4].tolist() == list(b"kbb:")
        retro = next(p for p in file["points"].values() if p.attrs["name"] == b"retro")
        assert retro.attrs["retro.query"] == b"original" and retro.attrs["retro.summaries"] == b"recompute"
    report = hindsight("report", "results/c.h5", "--format", "json", cwd=folder)
    rows = json.loads(report.stdout)
    assert [row["name"] for row in rows] == ["dense", "retro"]
    assert all(0 <= row["accuracy_mean"] <= 1 for row in rows)


def test_teacher_forced_by_position_and_resumed(folder: Path) -> None:
    words = ["eval", "c.yaml", "--set", "mode=teacher_forced", "-o", "t.h5"]
    assert hindsight(*words, cwd=folder).returncode == 0
    before = (folder / "t.h5").read_bytes()
    resumed = hindsight(*words, "--resume", cwd=folder)
    assert resumed.returncode == 0 and (folder / "t.h5").read_bytes() == before
    by_step = json.loads(hindsight("report", "t.h5", "--by", "step", "--format", "json", cwd=folder).stdout)
    dense = [row for row in by_step if row["name"] == "dense"]
    assert len(dense) > 4 and all(abs(row["delta_nll_mean"]) < 1e-4 for row in dense)
    other = hindsight("eval", "c.yaml", "-o", "t.h5", "--resume", cwd=folder)
    assert other.returncode == 2 and "teacher_forced" in other.stderr


def test_exposure_and_recall_explain_a_result(folder: Path) -> None:
    done = hindsight("eval", "c.yaml", "--set", "measure=[recall]", cwd=folder)
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "results" / "c.h5") as file:
        retro = next(p for p in file["points"].values() if p.attrs["name"] == b"retro")
        assert retro.attrs["measurements"] == b"generate recall"
        shape = retro["effective_exposure"].shape
        assert shape == (15, 6) and [d[0].name.split("/")[-1] for d in retro["effective_exposure"].dims] == [
            "step",
            "layer",
        ]
        assert retro["mass_recall_first"].shape == retro["oracle_page_recall"].shape == shape
    rows = json.loads(hindsight("report", "results/c.h5", "--format", "json", cwd=folder).stdout)
    assert rows[1]["effective_exposure_mean"] > 1 and 0 < rows[1]["oracle_page_recall_mean"] < 1
    by_layer = json.loads(hindsight("report", "results/c.h5", "--by", "layer", "--format", "json", cwd=folder).stdout)
    assert [row["layer"] for row in by_layer if row["name"] == "retro"] == [2, 3, 4, 5, 6, 7]
    other = hindsight("eval", "c.yaml", "--resume", cwd=folder)
    assert other.returncode == 2 and "its points hold generate, recall on CPU" in other.stderr


def test_dry_run_says_what_would_be_done(folder: Path) -> None:
    done = hindsight("eval", "c.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\n2 points on CPU.*\ntokens +30 to decode.*\npeak memory +[\d.]+ MB.*\ntime +[\d.]+ s ", done.stdout
    )
    assert re.search(r"output +.*c.h5, up to [\d.]+ kB\n", done.stdout)
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    "settings",
    [
        # What takes most of it: caches of prompts, those of a batch that decodes, dense references, the model itself.
        "mode: generate\ndata: [d.jsonl]\nmax_new_tokens: 5\nbatch: 1\n",
        "mode: generate\ndata: [d.jsonl]\nmax_new_tokens: 5\nbatch: 16\nmeasure: [recall]\n",
        "mode: teacher_forced\ndata: [d.txt]\ntokens: 2600\nprompt_tokens: 2590\nbatch: 2\n",
        "mode: teacher_forced\ndata: [d.txt]\ntokens: 600\nprompt_tokens: 400\n",
        "mode: teacher_forced\ndata: [d.txt]\ntokens: 80\nprompt_tokens: 70\nsequences: 1\n",
    ],
)
def test_the_memory_that_a_dry_run_states_is_what_the_run_takes(folder: Path, settings: str) -> None:
    lines = [json.dumps({"prompt": chr(97 + i) * 2500}) for i in range(16)]
    (folder / "d.jsonl").write_text("\n".join(lines))
    (folder / "d.txt").write_bytes(bytes(32 + i * i % 90 for i in range(8 * 2600)))
    (folder / "m.yaml").write_text(
        f"version: 1\nmodel: model\ndevice: cpu\n{settings}methods:\n"
        "  - {name: r, selector: quest, budget.ratio: 0.5, retro.window: 2}\n"
    )
    stated = re.search(r"peak memory +([\d.]+) MB", hindsight("eval", "m.yaml", "--dry-run", cwd=folder).stdout)
    assert stated
    # A child's high-water mark starts at that of what it was forked from: a small process measures it.
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", measure, BINARY, "eval", "m.yaml", "--quiet"]
    taken = int(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout) * 1024 / 1e6
    assert float(stated[1]) == pytest.approx(taken, rel=0.25)


def test_what_does_not_fit_in_memory_is_not_begun(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"prompt": "abc"}\n' * 20000)
    words = "eval c.yaml --set data=d.jsonl --set max_new_tokens=8000 --set batch=20000".split()
    for more in ([], ["--dry-run"]):
        done = hindsight(*words, *more, cwd=folder)
        assert done.returncode == 4 and "c.yaml: the sweep needs about " in done.stderr, done.stderr
        assert "fewer or shorter sequences or a smaller batch would be right" in done.stderr
        assert not (folder / "results").exists()


@pytest.mark.parametrize(
    "change, status, said",
    [
        (("mode: generate", "mode: genrate"), 2, "c.yaml:3:7: mode: 'genrate' is not known; did you mean generate?"),
        (("mode: generate\n", ""), 2, "c.yaml:1:1: mode is missing"),
        (("model: model\n", ""), 2, "c.yaml:1:1: model is missing"),
        (("data:", "date:"), 2, "c.yaml:4:1: configuration: key date is not known; did you mean data?"),
        (("device: cpu", "prompt_tokens: 3"), 2, "c.yaml:5:1: prompt_tokens: has no meaning in mode generate"),
        (("device: cpu", "sampling: {temperature: -1}"), 2, "c.yaml:5:25: sampling.temperature: is negative"),
        (("query: original", "query: orignal"), 2, "did you mean original?"),
        (("selector: quest", "selector: streaming"), 2, "retro cannot refine streaming"),
        (("selector: quest", "dense_layers: 8, selector: quest"), 2, "no sparse layer is left"),
        (("model: model", "model: none"), 3, "none/config.json: no such file"),
        (("recall.jsonl", "none.jsonl"), 3, "none.jsonl: no such file"),
        (("recall.jsonl", "'*.json'"), 3, "data: no file matches"),
        (("device: cpu", "device: cuda:99"), 4, ""),
        (("device: cpu", "measure: [recal]"), 2, "c.yaml:5:11: measure: 'recal' is not known; recall (how much"),
        (("device: cpu", "measure: []"), 2, "c.yaml:5:10: measure: is empty"),
        (("device: cpu", "precision: half"), 2, "c.yaml:5:12: precision: 'half' is not known; float32, or storage"),
        (("device: cpu", "device: cpu\nprecision: storage"), 2, "precision: storage has no meaning on CPU"),
    ],
)
def test_mistakes_are_one_line_with_their_place(folder: Path, change, status: int, said: str) -> None:
    assert change[0] in CONFIG
    (folder / "c.yaml").write_text(CONFIG.replace(*change))
    done = hindsight("eval", "c.yaml", cwd=folder)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and done.stderr.startswith("hindsight: error: ")
    assert not (folder / "results" / "c.h5").exists()


def test_a_replay_refuses_what_only_a_model_has(folder: Path) -> None:
    trace = shutil.copy(MODEL.parents[1] / "traces" / "quickstart.h5", folder / "t.h5")
    assert Path(trace).exists()
    (folder / "r.yaml").write_text(
        "version: 1\ntraces: t.h5\nmethods:\n"
        "  - {name: r, selector: quest, budget.ratio: 0.1, retro: {window: 2, refresh: recompute}}\n"
    )
    done = hindsight("run", "r.yaml", cwd=folder)
    assert done.returncode == 2 and "r.yaml:4:70: method r: retro.refresh concerns a model that decodes" in done.stderr


def test_a_trace_is_captured_without_python(folder: Path) -> None:
    (folder / "text").write_text("the text of a file that is captured, byte for byte\n" * 3)
    words = "trace capture --model model --text text --prompt-tokens 100 --tokens 140 --layers 2,7 -o t.h5".split()
    done = hindsight(*words, cwd=folder)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert hindsight("trace", "validate", "t.h5", cwd=folder).returncode == 0
    with h5py.File(folder / "t.h5") as file:
        assert sorted(file["layers"]) == ["2", "7"] and file["layers/2/q"].shape == (40, 4, 64)
        assert bytes(file["tokens"][1:9].astype("uint8")) == b"the text" and file["tokens"][0] == 0
    words[words.index("140")], words[-1] = "600", "u.h5"
    too_long = hindsight(*words, cwd=folder)
    assert too_long.returncode == 2 and "--text: has " in too_long.stderr and not (folder / "u.h5").exists()
