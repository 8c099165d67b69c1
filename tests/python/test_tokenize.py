"""Ids that tokenize writes are the tokenizer's own, and spans follow them."""

from __future__ import annotations

import json

import pytest

from hindsight_analysis import tokenize


def test_spans_are_of_the_ids_that_hold_any_of_the_characters():
    offsets = [(0, 2), (2, 5), (5, 6), (6, 9)]
    assert tokenize.spans_of_ids([[0, 2], [3, 6], [8, 9]], offsets) == [[0, 1], [1, 3], [3, 4]]
    for wrong in ([2, 2], [-1, 3], [9, 12], [1]):
        with pytest.raises(ValueError, match="scored"):
            tokenize.spans_of_ids([wrong], offsets)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of words, with a beginning of its own; as a folder that can be loaded."""
    pytest.importorskip(
        "transformers", reason="tokenize needs transformers, which is not installed"
    )
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<unk>": 1, "key": 2, "value": 3, "is": 4, "7": 5, "8": 6}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def write_lines(file, *lines: dict) -> str:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_texts_prompts_and_answers_become_ids(tokenizer, tmp_path):
    lines = write_lines(
        tmp_path / "in.jsonl",
        {"text": "key is 7"},
        {"prompt": "key is", "answer": "7 value 8", "scored": [[0, 1], [2, 9]], "rows": 3},
    )
    text = tmp_path / "text.txt"
    text.write_text("value is 8")
    out = tmp_path / "ids.jsonl"
    assert tokenize.main(["--tokenizer", tokenizer, "--out", str(out), lines, str(text)]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"tokens": [0, 2, 4, 5]},
        {"prompt": [0, 2, 4], "answer": [5, 3, 6], "scored": [[0, 1], [1, 3]], "rows": 3},
        {"tokens": [0, 3, 4, 6]},
    ]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('{"text": 7}', "in.jsonl:2: text: is no text"),
        ('{"answer": "7"}', "in.jsonl:2: needs text"),
        ("[1]", "in.jsonl:2: is no JSON object"),
        ("{", "in.jsonl:2: is no JSON"),
        ('{"prompt": "key", "answer": "7", "scored": [[5, 6]]}', "in.jsonl:2: scored"),
    ],
)
def test_a_wrong_line_is_one_line_with_its_place(tokenizer, tmp_path, capsys, line, place):
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "key"}\n' + line + "\n")
    out = tmp_path / "ids.jsonl"
    assert tokenize.main(["--tokenizer", tokenizer, "--out", str(out), str(file)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and place in error
    assert not out.exists()


def test_a_tokenizer_that_is_not_there_is_one_line(tokenizer, tmp_path, capsys):
    arguments = ["--tokenizer", str(tmp_path / "none"), "--out", str(tmp_path / "ids.jsonl"), "x"]
    assert tokenize.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
