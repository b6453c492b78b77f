"""Plain text out of three Debian packages: novels in an R database, a handbook in HTML, a gzipped text.

The sha256 of every text is pinned: a perplexity is only comparable on the same bytes.
"""

import gzip
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

# package -> {text: sha256}. Emma and Mansfield Park are for calibration, the others for evaluation.
TEXTS = {
    "r-cran-janeaustenr": {
        "northanger_abbey.txt": "51f91bbe0517db8e65cff009b097ce0a1836124c4e0532ac19e6c0cad982abed",
        "emma.txt": "7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe",
        "mansfield_park.txt": "98bc90519cdf4ef663ad7de2734bb529435ef24f7abbde6bb1a50898871dafe9",
    },
    "debian-handbook": {
        "handbook_en.txt": "4d1828e4eaebd2867b894ad7b89b38e3ad6691a23aef3d2ce7bbbb57e9daeea4",
    },
    "jargon-text": {
        "jargon.txt": "40dfb4b98191a670a09a183d5798d50f243d23fdbd1495dcc0aca2ce5895ba97",
    },
}


def r_strings(data: bytes) -> list[str]:
    """A character vector as R serializes it: XDR, format 3, UTF-8 (X\\n, versions, encoding, STRSXP)."""
    if data[:2] != b"X\n":
        raise ValueError("not an XDR serialization")
    version, _, _ = struct.unpack_from(">3i", data, 2)
    at = 14
    if version == 3:  # format 3 names its encoding
        (length,) = struct.unpack_from(">i", data, at)
        at += 4 + length
    kind, count = struct.unpack_from(">2i", data, at)
    if kind & 0xFF != 16:
        raise ValueError("not a character vector")
    at += 8
    strings = []
    for _ in range(count):
        _, length = struct.unpack_from(">2i", data, at)
        at += 8
        strings.append(data[at : at + length].decode())
        at += length
    return strings


def novels(tree: Path) -> dict[str, str]:
    """The records of an R database: a 4-byte big-endian length, then a zlib stream."""
    data = (tree / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    found = {}
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        lines = r_strings(stream.decompress(data[at + 4 :]))
        at = len(data) - len(stream.unused_data)
        found[lines[0].lower().replace(" ", "_") + ".txt"] = "\n".join(lines) + "\n"
    return found


class PageText(HTMLParser):
    """The text of one handbook page, without banner and navigation; a blank line after each block."""

    SILENT = {"head", "script", "style"}
    BLOCKS = {"p", "div", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "pre", "tr", "table", "ul"}

    def __init__(self):
        super().__init__()
        self.pieces: list[str] = []
        self.next_page = None
        self.silent = 0  # depth inside something that is not text
        self.pre = 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") == "next":
            self.next_page = attributes["href"]
        navigation = "docnav" in attributes.get("class", "") or attributes.get("id") in ("banner", "title")
        navigation = navigation or attributes.get("class") == "toc"
        if self.silent or tag in self.SILENT or navigation:
            if tag not in ("link", "meta", "img", "br", "hr", "col", "input"):
                self.silent += 1
            return
        self.pre += tag == "pre"
        if tag in self.BLOCKS:
            self.pieces.append("\n\n")

    def handle_endtag(self, tag):
        if self.silent:
            self.silent -= 1
            return
        self.pre -= tag == "pre"
        if tag in self.BLOCKS:
            self.pieces.append("\n\n")

    def handle_startendtag(self, tag, attrs):
        if tag == "link":
            self.handle_starttag(tag, attrs)
        elif tag == "br" and not self.silent:
            self.pieces.append("\n")

    def handle_data(self, data):
        if not self.silent:
            self.pieces.append(data if self.pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = [re.sub(r"^ (?! )", "", line).rstrip() for line in "".join(self.pieces).split("\n")]
        kept = [line for line, before in zip(lines, [""] + lines) if line or before]
        return "\n".join(kept).strip()


def handbook(tree: Path) -> dict[str, str]:
    """The English pages in reading order: each names the next one in its head."""
    folder = tree / "usr/share/doc/debian-handbook/html/en-US"
    pages = []
    name = "index.html"
    while name:
        page = PageText()
        page.feed((folder / name).read_text(encoding="utf-8"))
        pages.append(page.text())
        name = page.next_page
    return {"handbook_en.txt": "\n\n".join(pages) + "\n"}


def jargon(tree: Path) -> dict[str, str]:
    packed = (tree / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()
    return {"jargon.txt": gzip.decompress(packed).decode("utf-8")}


def from_package(package: str, tree: Path) -> dict[str, str]:
    extract = {"r-cran-janeaustenr": novels, "debian-handbook": handbook, "jargon-text": jargon}
    return extract[package](tree)
