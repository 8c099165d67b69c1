"""Assembles the corpus from unpacked packages: two kinds of training text and the held-out documents of each.

    python3 -m experiments.reference_model.corpus.build PACKAGES OUT

reads PACKAGES/<package>/..., each an unpacked .deb, and writes OUT/<kind>.bin.xz (documents separated by byte
0), OUT/heldout-<kind>.txt.xz, OUT/heldout-rest-<kind>.txt.xz and OUT/corpus.json (what came from where). The same packages give the same
bytes: the order is that of the sha256 of the path.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import lzma
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import licences, text
from .sources import KINDS, Source

HELD_OUT_BYTES = 1_900_000  # of each kind, never trained on
FIRST_HELD_OUT_BYTES = 500_000  # of those, what evaluations of the model read; the rest is in a file beside
HELD_OUT_LENGTHS = range(8_300, 200_001)  # a document fills a context of 8192
HELD_OUT_SHARE = 6000 / 65536
LARGEST_FILE = 4_000_000  # before HTML is stripped


@dataclass(frozen=True)
class Document:
    name: str  # package/path, and #piece of a dictionary
    package: str
    data: bytes

    @property
    def order(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def fingerprint(self) -> bytes:
        """Of its beginning: copies and near copies are the same document."""
        return hashlib.sha256(self.data[:4000]).digest()

    @property
    def may_be_held_out(self) -> bool:
        draw = int(hashlib.sha256(b"held" + self.name.encode()).hexdigest()[:4], 16)
        return len(self.data) in HELD_OUT_LENGTHS and draw < HELD_OUT_SHARE * 65536


def matching_files(packages: Path, source: Source) -> Iterator[tuple[str, Path]]:
    """(package/path, file) of a source, less what its copyright file excludes."""
    root = Path(os.path.realpath(packages / source.package))
    include = re.compile(source.include)
    exclude = re.compile(source.exclude) if source.exclude else None
    patterns = licences.excluded_patterns(packages / source.package)
    excluded = re.compile("|".join(map(fnmatch.translate, patterns))) if patterns else None
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder) / file
            name = f"{source.package}/{path.relative_to(root)}"
            if path.is_symlink() or not include.search(name):
                continue
            if (exclude and exclude.search(name)) or (excluded and excluded.match(name)):
                continue
            yield name, path


def documents_of(packages: Path, source: Source) -> tuple[list[Document], dict[str, int]]:
    """The documents of one source, a little over its cap, and how many files were dropped for their wording."""
    found: list[Document] = []
    seen: set[bytes] = set()
    total = 0
    counts = {"read": 0, "dropped_for_wording": 0}
    ordered = sorted(
        matching_files(packages, source), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest()
    )
    for name, path in ordered:
        if total > source.cap_mb * 1e6 * 1.12:
            break
        data = text.unpack(name, path.read_bytes())
        if data is None or (len(data) > LARGEST_FILE and not source.is_dictionary):
            continue
        counts["read"] += 1
        # A dictionary is one file: its pieces are judged one by one, below.
        if not source.is_dictionary and not licences.may_be_used(data, source.is_perl):
            counts["dropped_for_wording"] += 1
            continue
        cleaned = text.clean(name, data, source.is_dictionary)
        if cleaned is None:
            continue
        document = Document(name, source.package, cleaned)
        if document.fingerprint in seen:
            continue
        seen.add(document.fingerprint)
        total += len(cleaned)
        if not source.is_dictionary or len(cleaned) <= 400_000:
            found.append(document)
            continue
        for i, piece in enumerate(text.dictionary_pieces(cleaned)):
            if licences.may_be_used(piece, is_perl=False):
                found.append(Document(f"{name}#{i}", source.package, piece))
            else:
                counts["dropped_for_wording"] += 1
    return found, counts


def split(documents: list[Document], caps: dict[str, float]) -> tuple[list[Document], list[Document]]:
    """(held out, training): whole documents held out until there are enough, the rest up to the caps."""
    held: list[Document] = []
    training: list[Document] = []
    totals: dict[str, int] = {}
    seen: set[bytes] = set()
    held_bytes = 0
    for document in sorted(documents, key=lambda document: document.order):
        if document.fingerprint in seen:
            continue
        seen.add(document.fingerprint)
        size = len(document.data)
        if held_bytes < HELD_OUT_BYTES and document.may_be_held_out:
            held.append(document)
            held_bytes += size
        elif totals.get(document.package, 0) + size <= caps[document.package]:
            totals[document.package] = totals.get(document.package, 0) + size
            training.append(document)
    return held, training


def first_and_rest(held: list[Document]) -> tuple[list[Document], list[Document]]:
    """The first held-out documents, 0.5 MB of them, and the others."""
    first: list[Document] = []
    rest: list[Document] = []
    for document in held:
        fits = sum(len(other.data) for other in first) + len(document.data) <= FIRST_HELD_OUT_BYTES
        (first if fits else rest).append(document)
    return first, rest


def write(path: Path, documents: list[Document]) -> None:
    """Documents separated by byte 0, compressed."""
    path.write_bytes(lzma.compress(b"\0".join(document.data for document in documents), preset=6))


def build(packages: Path, out: Path, kinds: dict[str, list[Source]] = KINDS, processes: int = 2) -> dict:
    """Builds all kinds; what corpus.json holds: per kind the bytes by package, and the held-out documents."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {}
    for kind, sources in kinds.items():
        missing = [source.package for source in sources if not (packages / source.package).is_dir()]
        if missing:
            raise FileNotFoundError(f"{packages}: not unpacked there: {', '.join(sorted(set(missing)))}")
        with multiprocessing.Pool(processes) as pool:
            largest_first = sorted(sources, key=lambda source: -source.cap_mb)
            results = pool.starmap(documents_of, [(packages, source) for source in largest_first], chunksize=1)
        held, training = split(
            [document for documents, _ in results for document in documents],
            {source.package: source.cap_mb * 1e6 for source in sources},
        )
        # Neighbours in the file are neighbours in their package: xz finds what they share.
        training.sort(key=lambda document: (document.package, document.name))
        write(out / f"{kind}.bin.xz", training)
        first, rest = first_and_rest(held)
        write(out / f"heldout-{kind}.txt.xz", first)
        write(out / f"heldout-rest-{kind}.txt.xz", rest)
        by_package: dict[str, int] = {}
        for document in training:
            by_package[document.package] = by_package.get(document.package, 0) + len(document.data)
        summary[kind] = {
            "bytes": sum(by_package.values()),
            "documents": len(training),
            "by_package": dict(sorted(by_package.items())),
            "files": {source.package: counts for source, (_, counts) in zip(largest_first, results)},
            "held_out": [[document.name, len(document.data)] for document in held],
            "shipped_held_out": [document.name for document in first],
        }
        print(
            f"{kind}: {summary[kind]['bytes'] / 1e6:.1f} MB in {len(training)} documents, "
            f"{sum(len(document.data) for document in held) / 1e6:.2f} MB held out",
            file=sys.stderr,
        )
    (out / "corpus.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(prog="corpus.build", description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder of unpacked packages")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    try:
        build(options.packages, options.out, processes=options.processes)
    except OSError as error:
        sys.exit(f"corpus.build: error: {error}")


if __name__ == "__main__":
    main()
