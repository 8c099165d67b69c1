"""From the bytes of a file to text worth training on: unpacked, HTML to text, plain quotes, or refused."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser

SMALLEST, LARGEST = 400, 500_000  # bytes of a document
LARGEST_DICTIONARY = 40_000_000
DICTIONARY_PIECE = 60_000
LONGEST_LINE = 5000
MOST_NON_ASCII = 0.03  # of the bytes

PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0xA0: " ", 0x2013: "-", 0x2014: "-"}


class _TextOfHtml(HTMLParser):
    """Text as a reader sees it: lines of blocks, stars of lists, nothing of scripts and navigation."""

    SKIPPED = {"script", "style", "head", "nav", "footer"}
    BLOCKS = {"p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "br", "pre", "dt", "dd", "table", "ul", "ol"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipped = self._preformatted = 0

    def handle_starttag(self, tag, attrs):
        self._skipped += tag in self.SKIPPED
        self._preformatted += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n")
        if tag == "li":
            self.parts.append("* ")

    def handle_endtag(self, tag):
        if tag in self.SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self._skipped:
            self.parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))


def text_of_html(html: bytes) -> bytes:
    """The text of an HTML page, in UTF-8, ending in one newline."""
    parser = _TextOfHtml()
    parser.feed(html.decode("utf-8", "ignore"))
    text = "".join(parser.parts).replace("\u00b6", "").translate(PLAIN)  # the sign of section links
    text = re.sub(r"[ \t]+\n", "\n", text)
    if "\n    " not in text:  # no code to keep the indentation of
        text = re.sub(r"\n +(?=\S)", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip().encode() + b"\n"


def unpack(name: str, data: bytes) -> bytes | None:
    """The file itself; None if it claims to be compressed and is not."""
    if not name.endswith((".gz", ".dz")):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, ValueError):
        return None


def clean(name: str, data: bytes, is_dictionary: bool) -> bytes | None:
    """The text of an unpacked file; None where it is too short, too long, or not text for people."""
    if name.removesuffix(".gz").endswith((".html", ".htm")):
        data = text_of_html(data)
    if is_dictionary:
        data = data.decode("utf-8", "ignore").translate(PLAIN | {0x2026: "..."}).encode()
    data = data.replace(b"\0", b"").replace(b"\r", b"")
    if not SMALLEST <= len(data) <= (LARGEST_DICTIONARY if is_dictionary else LARGEST):
        return None
    if len(data) - len(data.translate(None, bytes(range(128, 256)))) > MOST_NON_ASCII * len(data):
        return None
    if max(map(len, data.split(b"\n", 2000)[:2000])) > LONGEST_LINE:
        return None
    return data


def dictionary_pieces(data: bytes) -> list[bytes]:
    """A dictionary in pieces of about 60 kB, cut before entries (lines that are not indented)."""
    entry = re.compile(rb"\n(?=\S)")
    pieces, start = [], 0
    while start < len(data):
        found = entry.search(data, start + DICTIONARY_PIECE)
        end = found.end() if found else len(data)
        pieces.append(data[start:end])
        start = end
    return pieces
