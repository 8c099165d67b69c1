"""Training and evaluation of the reference model at tiny scale, on the CPU. Needs torch, safetensors and numpy."""

from __future__ import annotations

import io
import json
import math
import random
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
import numpy as np  # noqa: E402

from experiments.reference_model import evaluate, structure  # noqa: E402
from experiments.reference_model.attention import plain_attention  # noqa: E402
from experiments.reference_model.data import BatchStream, make_batch  # noqa: E402
from experiments.reference_model.generate import generate, sequence_logits  # noqa: E402
from experiments.reference_model.muon import Muon, orthogonalise  # noqa: E402
from experiments.reference_model.network import SIZES, ModelConfig, Network, rope_tables  # noqa: E402
from experiments.reference_model.schedule import CURRICULUM, Phase, learning_rate, phase_at  # noqa: E402
from experiments.reference_model.train import Recipe, Trainer  # noqa: E402
from experiments.tasks.documents import ByteClass, Filler  # noqa: E402
from experiments.tasks.evaluation import Cell  # noqa: E402

TINY = SIZES["tiny"]
SHIPPED = Path(__file__).parents[2] / "experiments" / "reference_model" / "model"
CORPUS = {
    "english": b"the quick brown fox jumps over the lazy dog. " * 400,
    "code": b"for i in range(10):\n    print(i)\n" * 500,
}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(TINY)


def tokens_of(batch: int, length: int) -> torch.Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(1, 256, (batch, length))
    tokens[:, 0] = 0
    return tokens


def test_batches_hold_both_kinds_of_rows_with_targets_to_weigh() -> None:
    rng = random.Random(0)
    batch = make_batch(rng, CORPUS, Filler(*CORPUS.values()), 512, 512 * 40, natural=0.5)
    assert batch.tokens.shape == batch.classes.shape == (40, 513)
    assert (batch.tokens[:, 0] == 0).all()
    natural = (batch.classes == ByteClass.NATURAL).all(1)
    assert 8 < natural.sum() < 32
    for row in np.flatnonzero(~natural):
        assert batch.tokens[row].tobytes().startswith(b"\0@")
        assert (batch.classes[row] == ByteClass.QUERIED_KEY).any()


def test_workers_follow_the_length_that_is_asked_for() -> None:
    with BatchStream(CORPUS, 2048, natural=0.5, workers=2, seed=0) as stream:
        for length in (256, 512, 1024):
            stream.set_length(length)
            for _ in range(3):
                assert stream.next().tokens.shape == (2048 // length, length + 1)


def test_schedule() -> None:
    assert phase_at(0.0) == CURRICULUM[0] and phase_at(0.9999) == phase_at(1.0) == CURRICULUM[-1]
    assert [phase_at(phase.until - 1e-9) for phase in CURRICULUM] == list(CURRICULUM)
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(1 / 60)
    assert learning_rate(1.0, 100, 0.2) == 1.0
    assert learning_rate(1.0, 100, 0.725) == pytest.approx(0.5)
    assert learning_rate(1.0, 100, 1.0) == pytest.approx(0.01)


def test_orthogonalise_levels_the_singular_values() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 20, 50) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    levelled = torch.linalg.svdvals(orthogonalise(matrices))
    assert levelled.min() > 0.5 and levelled.max() < 1.4
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    overlap = (orthogonalise(matrices) * (left @ right)).sum((1, 2)) / 20
    assert (overlap > 0.75).all(), "the directions stay those of U V^T"


def test_muon_updates_tall_and_wide_matrices_alike() -> None:
    torch.manual_seed(0)
    wide = torch.nn.Parameter(torch.zeros(2, 8, 16))
    tall = torch.nn.Parameter(torch.zeros(2, 16, 8))
    gradient = torch.randn(2, 8, 16)
    wide.grad, tall.grad = gradient.clone(), gradient.transpose(1, 2).clone()
    Muon([[wide, tall]], weight_decay=0.0).step(0.1)
    assert torch.allclose(wide, tall.transpose(1, 2), atol=1e-6)
    assert (wide * gradient).sum() < 0, "downhill"


def test_training_learns_and_saves_what_can_be_loaded(tmp_path: Path) -> None:
    recipe = Recipe(
        seconds=600, batch_bytes=2048, workers=1, natural=1.0, steps=100, peak_learning_rate=2e-2,
        curriculum=(Phase(128, 1e-9, 1), Phase(256, 1.0, 2)),
    )
    log = io.StringIO()
    with BatchStream(CORPUS, recipe.batch_bytes, recipe.natural, recipe.workers, 0) as batches:
        trainer = Trainer(TINY, recipe, "cpu")
        last = trainer.run(batches, log)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert lines[-1] == last and last["step"] == 100 and last["length"] == 256
    assert last["bits_per_byte"] < 3, "from 8 bits, on text that repeats itself"
    trainer.network.save(tmp_path / "m")
    loaded = Network.load(tmp_path / "m")
    assert loaded.config == TINY
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter.to(torch.bfloat16).float(), dict(loaded.named_parameters())[name]), name


def test_training_stops_where_it_diverges() -> None:
    recipe = Recipe(seconds=600, batch_bytes=1024, workers=1, steps=50, curriculum=(Phase(256, 1.0, 1),))
    with BatchStream(CORPUS, recipe.batch_bytes, recipe.natural, recipe.workers, 0) as batches:
        trainer = Trainer(TINY, recipe, "cpu")
        with torch.no_grad():
            trainer.network.head.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="diverged at step 25"):
            trainer.run(batches, io.StringIO())


def test_rotary_embedding_turns_halves_by_position() -> None:
    cos, sin = rope_tables(torch.tensor([0, 5]), TINY)
    assert torch.equal(cos[0], torch.ones(16)) and torch.equal(sin[0], torch.zeros(16))
    assert cos[1, 0] == pytest.approx(math.cos(5), abs=1e-6)
    assert sin[1, 15] == pytest.approx(math.sin(5 * TINY.rope_theta ** (-15 / 16)), rel=1e-5)


def test_plain_attention_is_causal_and_shares_kv_heads_in_order() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    out = plain_attention(q, k, v)
    for head in range(4):
        for t in range(6):
            weights = (k[0, head // 2, : t + 1] @ q[0, head, t] / math.sqrt(8)).softmax(0)
            assert torch.allclose(out[0, head, t], weights @ v[0, head // 2, : t + 1], atol=1e-6)


def test_generation_equals_running_the_whole_sequence(network: Network) -> None:
    prompts = tokens_of(11, 40)
    generated = generate(network, prompts, 12)
    whole = sequence_logits(network, torch.cat([prompts, generated], 1))
    assert torch.equal(whole[:, 39:-1].argmax(-1), generated)


def test_bits_per_byte_of_a_model_that_knows_nothing_is_eight() -> None:
    torch.manual_seed(0)
    blank = Network(TINY)
    with torch.no_grad():
        blank.head.zero_()
    found = evaluate.bits_per_byte(blank, CORPUS["english"] + b"\0short", 257, "cpu", most=5)
    assert found["windows"] == 5 and found["all"] == pytest.approx(8.0, abs=1e-5)


def test_windows_stay_within_documents() -> None:
    rows = evaluate.windows(b"a" * 25 + b"\0" + b"b" * 9 + b"\0" + b"c" * 10, 11)
    assert [bytes(row) for row in rows] == [b"\0" + b"a" * 10, b"\0" + b"a" * 10, b"\0" + b"c" * 10]


def test_structure_of_attention_that_is_known() -> None:
    """Keys of which one page is looked at by all queries and nothing else is."""
    length, queries = 320, 8
    k = torch.zeros(1, 1, length, 4)
    k[0, 0, 100:104, 0] = 100.0
    q = torch.zeros(1, 2, queries, 4)
    q[..., 0] = 1.0
    found = structure.layer_structure(q, k, length - queries)
    assert found["top_5_percent"] == pytest.approx(1) and found["first_4"] == pytest.approx(0, abs=1e-6)
    assert found["last_64"] == pytest.approx(0, abs=1e-6)
    for how in ("mean", "max", "oracle"):
        assert found[f"mass_{how}"] == pytest.approx(1)
        assert found[f"overlap_{how}"] == 1.0 and found[f"union_{how}"] == [1.0] * structure.UNION_STEPS


def test_page_scores_bound_the_logits_and_masses_add_up() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 50, 8)
    logits = q @ k.repeat_interleave(2, 1).transpose(-1, -2)
    bounds = structure.page_scores(q, k)
    assert bounds.shape == (2, 4, 5, 4)
    for page in range(4):
        assert (bounds[..., page] >= logits[..., 16 * page : 16 * page + 16].amax(-1) - 1e-5).all()
    mass = structure.masses(q, k, 45)
    assert torch.allclose(mass.sum(-1), torch.ones(2, 4, 5))
    assert mass[:, :, 0, 46:].sum() == 0 and (mass[:, :, 4] > 0).all()


def test_union_growth_counts_pages_seen_in_later_steps() -> None:
    selected = torch.zeros(1, 1, 9, 40, dtype=torch.bool)
    for t in range(9):
        selected[0, 0, t, 2 * t : 2 * t + 4] = True  # two of four pages are new at every step
    assert structure.union_growth(selected) == [1 + 0.5 * n for n in range(1, structure.UNION_STEPS + 1)]


def test_evaluation_measures_all_and_prints_tables(network: Network) -> None:
    cells = [(1024, 40, 256, (2, 3, 2))]
    result = evaluate.evaluate(network, CORPUS, cells, 512, 2, 1, "cpu")
    json.dumps(result)
    printed = evaluate.markdown(result)
    assert re.search(r"^\| english \| \d+ x 512 \| \d\.\d{3} \|", printed, re.M)
    assert len(re.findall(r"^\| (recall|chain|ledger) \| 1024 \| 40 \|", printed, re.M)) == 3
    assert len(re.findall(r"^\| (mean|max) \| [01] \|", printed, re.M)) == 4


@pytest.fixture(scope="module")
def shipped() -> Network:
    return Network.load(SHIPPED)


def test_the_shipped_model_solves_its_tasks(shipped: Network) -> None:
    for task, lines in (("recall", 12), ("chain", 20), ("ledger", 10)):
        found = evaluate.task_accuracy(shipped, Cell.of(task, 40, 1024, 256, lines), 4, 99, "cpu")
        assert found["right"] > 0.9, task


def test_the_shipped_model_is_small_and_foretells_held_out_text(shipped: Network) -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 13e6
    assert shipped.config == ModelConfig()
    import lzma

    for kind, most in (("english", 1.4), ("code", 1.2)):
        text = lzma.decompress((evaluate.HELD_OUT / f"{kind}.txt.xz").read_bytes())
        assert 450_000 < len(text) <= 500_000
        assert evaluate.bits_per_byte(shipped, text, 1024, "cpu", most=8)["all"] < most


def test_transformers_computes_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    assert transformers
    from experiments.reference_model.check_transformers import TOLERANCE, relative_difference

    assert relative_difference(SHIPPED, 600) < TOLERANCE
