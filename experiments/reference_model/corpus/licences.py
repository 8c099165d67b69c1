"""Keeps copyleft text out of the corpus: by the package's copyright file, and by the wording of every file.

A check by machine and on the safe side: a file that merely mentions the GPL is left out too.

    python3 -m experiments.reference_model.corpus.licences PACKAGES

lists, for every package unpacked in PACKAGES, the licences of its copyright file and the stanzas to look at.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COPYLEFT_WORDING = re.compile(
    rb"GPL|[Gg]eneral\s+[Pp]ublic\s+[Ll]icen|General\W+(?:\S+\W+){0,2}Public\W+(?:\S+\W+){0,2}License"
    rb"|Free Documentation|GFDL|GNU\s+(?:Lesser|Library|Affero)|Creative Commons|CC[- ]BY|[Ss]hare-?[Aa]like"
    rb"|Mozilla Public|\bMPL\b|CDDL|Eclipse Public|[Nn]on-?[Cc]ommercial|Licensed under the EUPL"
    rb"|SPDX-License-Identifier:[^\n]*(?:GPL|MPL|EPL|CC-BY)"
)
ARTISTIC_WORDING = re.compile(rb"Artistic|same\s+terms\s+as\s+(?:the\s+)?[Pp]erl")

# Of the names of licences in a machine-readable copyright file.
SUSPECT_NAME = re.compile(r"GPL|FDL|CC-BY|MPL|CDDL|EPL|OFL|custom|other|nonfree", re.I)
PERMISSIVE_NAME = re.compile(
    r"BSD|MIT|Expat|Apache|Artistic|ISC|PSF|Python|public.?domain|BSL|zlib|X11|CC0|Ruby|Permissive", re.I
)


@dataclass(frozen=True)
class Stanza:
    """The licence that a copyright file states for some files (patterns of Debian's DEP-5 format)."""

    licence: str
    files: list[str]

    @property
    def is_suspect(self) -> bool:
        """Copyleft or unclear, with no permissive licence to choose instead."""
        offers_choice = re.search(r"\bor\b", self.licence, re.I) and PERMISSIVE_NAME.search(self.licence)
        return bool(SUSPECT_NAME.search(self.licence)) and not offers_choice


def copyright_files(package: Path) -> list[Path]:
    """The copyright files of an unpacked package; its own, where it has more than one."""
    found = sorted(package.glob("usr/share/doc/*/copyright"))
    return [file for file in found if file.parent.name == package.name] or found


def stanzas(copyright_file: Path) -> Iterator[Stanza]:
    """The `Files:` stanzas of a machine-readable copyright file; none of a free-form one."""
    for paragraph in re.split(r"\n\s*\n", copyright_file.read_text(errors="replace")):
        licence = re.search(r"^License:[ \t]*(.*(?:\n [^\n]*)?)", paragraph, re.M)
        files = re.search(r"^Files:((?:.|\n)*?)(?=^\S)", paragraph, re.M)
        if licence and files:
            first_line = licence[1].split("\n")[0].strip()
            yield Stanza(first_line or licence[1].strip(), files[1].split())


def excluded_patterns(package: Path) -> list[str]:
    """Patterns of paths (fnmatch) of the package that its copyright files put under a suspect licence.

    Two parts of a path are kept of each: a package's paths differ from its source's. `debian/*` is packaging,
    of which nothing is read; `*` is the package, which was looked at before it was listed.
    """
    patterns = set()
    for file in package.glob("usr/share/doc/*/copyright"):
        for stanza in stanzas(file):
            if not stanza.is_suspect:
                continue
            for pattern in stanza.files:
                if pattern != "*" and not pattern.startswith("debian/"):
                    patterns.add("*/" + "/".join(pattern.split("/")[-2:]))
    return sorted(patterns)


def may_be_used(text: bytes, is_perl: bool) -> bool:
    """Whether the wording of a file is free of copyleft licences; in Perl's, or offers the Artistic one."""
    if not COPYLEFT_WORDING.search(text):
        return True
    return is_perl and ARTISTIC_WORDING.search(text) is not None


def report(packages: Path) -> str:
    """For reading: the licences of every package, and the stanzas that need a look."""
    lines = []
    for package in sorted(path for path in packages.iterdir() if path.is_dir()):
        files = copyright_files(package)
        if not files:
            lines.append(f"{package.name}: no copyright file (its doc folder may link to another package's)")
            continue
        text = files[0].read_text(errors="replace")
        if "Format:" not in text[:400]:
            mentions = len(COPYLEFT_WORDING.findall(text.encode()))
            lines.append(f"{package.name}: free form, {mentions} copyleft mentions: {' '.join(text.split())[:300]}")
            continue
        found = list(stanzas(files[0]))
        counts = Counter(stanza.licence for stanza in found)
        lines.append(f"{package.name}: " + ", ".join(f"{name} x{n}" for name, n in counts.most_common(12)))
        for stanza in found:
            if SUSPECT_NAME.search(stanza.licence):
                verdict = "excluded" if stanza.is_suspect else "offers a choice"
                lines.append(f"    {stanza.licence} ({verdict}): {' '.join(stanza.files)[:200]}")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m experiments.reference_model.corpus.licences PACKAGES")
    print(report(Path(sys.argv[1])))
