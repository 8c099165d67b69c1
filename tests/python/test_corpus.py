"""The corpus builder: what it leaves out for its licence, what it makes of files, and what it holds out."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest

from experiments.reference_model.corpus import build as corpus
from experiments.reference_model.corpus import licences, sources, text
from experiments.reference_model.corpus.sources import Source

WORDS = "free words of a manual that explain at some length how a thing is to be used\n" * 8
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: someone
License: Expat

Files: src/gnu/*
 src/other.txt
Copyright: someone else
License: LGPL-2.1+

Files: src/dual/*
Copyright: someone else
License: GPL-2 or BSD-3-Clause

Files: debian/*
Copyright: a packager
License: GPL-2+
"""


@pytest.fixture()
def packages(tmp_path: Path) -> Path:
    root = tmp_path / "packages"

    def put(name: str, data: str | bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    put("good/usr/share/doc/good/copyright", COPYRIGHT)
    put("good/src/plain.txt", "plain " + WORDS)
    put("good/src/packed.txt.gz", gzip.compress(("packed " + WORDS).encode()))
    put("good/src/broken.txt.gz", b"\x1f\x8bnothing")
    put(
        "good/src/page.html",
        f"<html><head><title>no</title></head><body><p>page &amp; {WORDS}</p></body></html>",
    )
    put("good/src/gnu/a.txt", "lesser " + WORDS)
    put("good/src/other.txt", "other " + WORDS)
    put("good/src/dual/a.txt", "dual " + WORDS)
    put("good/src/mentions.txt", "under the GNU General Public License " + WORDS)
    put("good/src/short.txt", "short")
    put("good/src/copy.txt", "plain " + WORDS)
    put("good/src/excluded.txt", "excluded " + WORDS)
    put("good/src/binary.txt", bytes(range(128, 256)) * 10)
    put("perl-x/a.pod", "perl: GPL or Artistic " + WORDS)
    put("perl-x/b.pod", "perl: GPL " + WORDS)
    entries = [f"word {i}\n   " + "a meaning " * 20 + "\n" for i in range(6000)]
    entries[3000] = "gcide\n   is under the GPL\n"
    put("dict-x/d.dict.dz", gzip.compress("".join(entries).encode()))
    for i in range(300):
        put(f"long/{i}.txt", f"{i} " + WORDS * 20)
    return root


KINDS = {
    "english": [
        Source("good", r"\.(txt|html)(\.gz)?$", "excluded", 1),
        Source("perl-x", r"\.pod$", None, 1),
        Source("dict-x", r"\.dict\.dz$", None, 5),
    ],
    "code": [Source("long", r"\.txt$", None, 2)],
}


def documents(file: Path) -> list[bytes]:
    return lzma.decompress(file.read_bytes()).split(b"\0")


def test_the_corpus_holds_what_may_be_used_and_nothing_else(packages: Path, tmp_path: Path) -> None:
    corpus.build(packages, tmp_path / "out", KINDS, processes=1)
    found = documents(tmp_path / "out" / "english.bin.xz")
    beginnings = {document[:5] for document in found}
    assert {b"plain", b"packe", b"dual ", b"perl:"} <= beginnings
    assert not beginnings & {b"lesse", b"other", b"under", b"short", b"exclu"}
    assert sum(document.startswith(b"plain") for document in found) == 1, "copies are dropped"
    assert (
        sum(document.startswith(b"perl:") for document in found) == 1
    ), "Perl needs the Artistic wording"
    assert any(document.startswith(b"page & free words") for document in found), "HTML becomes text"
    pieces = [document for document in found if document.startswith(b"word ")]
    assert len(pieces) >= 20 and not any(b"GPL" in piece for piece in pieces)
    assert all(b"GPL" not in document or b"Artistic" in document for document in found)


def test_held_out_documents_are_never_trained_on(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "FIRST_HELD_OUT_BYTES", 100_000)
    summary = corpus.build(packages, tmp_path / "out", KINDS, processes=2)
    trained = set(documents(tmp_path / "out" / "code.bin.xz"))
    first = documents(tmp_path / "out" / "heldout-code.txt.xz")
    rest = documents(tmp_path / "out" / "heldout-rest-code.txt.xz")
    names = [name for name, _ in summary["code"]["held_out"]]
    assert len(first) == len(summary["code"]["shipped_held_out"]) > 3
    assert sum(map(len, first)) <= 100_000 < sum(map(len, first + rest)), "the rest has what was left"
    assert len(set(first + rest)) == len(names) == len(first) + len(rest)
    assert trained.isdisjoint(first + rest)
    assert len(trained) + len(names) <= 300
    assert summary["code"]["bytes"] <= 2e6, "the cap"
    assert (
        json.loads((tmp_path / "out" / "corpus.json").read_text())["code"]["bytes"]
        == summary["code"]["bytes"]
    )


def test_the_same_packages_give_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    for out, processes in (("a", 1), ("b", 2)):
        corpus.build(packages, tmp_path / out, KINDS, processes=processes)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="good"):
        corpus.build(tmp_path, tmp_path / "out", KINDS)


@pytest.mark.parametrize(
    "wording, may",
    [
        (b"Permission is hereby granted, free of charge", True),
        (b"GNU General  Public\nLicense", False),
        (b"SPDX-License-Identifier: MPL-2.0", False),
        (b"Creative Commons Attribution", False),
        (b"for non-commercial use", False),
        (b"simple MPLS routing", True),
    ],
)
def test_wordings(wording: bytes, may: bool) -> None:
    assert licences.may_be_used(wording, is_perl=False) == may


def test_the_report_names_licences_and_verdicts(packages: Path) -> None:
    said = licences.report(packages)
    assert "good: Expat x1" in said and "LGPL-2.1+ (excluded): src/gnu/* src/other.txt" in said
    assert "GPL-2 or BSD-3-Clause (offers a choice)" in said
    assert "long: no copyright file" in said


def test_code_in_pages_keeps_its_indentation() -> None:
    page = b"<p>a\n   b</p><pre>if x:\n    y()</pre><script>no()</script><ul><li>one<li>two</ul>"
    assert text.text_of_html(page) == b"a b\n\nif x:\n    y()\n\n* one\n* two\n"


def test_every_source_is_read_for_something() -> None:
    assert len(sources.packages()) == len(set(sources.packages())) == 85
    for kind in sources.KINDS.values():
        assert len({source.package for source in kind}) == len(kind)
