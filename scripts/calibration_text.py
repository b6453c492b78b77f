"""One calibration text out of packages: novels, source code, a handbook in several languages.

About half of it is English prose, a quarter is code, a quarter other languages. None of it is in a text that
we evaluate on. The parts are pinned together: the same packages give the same bytes, and the sha256 says so.
"""

import re
from pathlib import Path

import extract_texts

NAME = "calibration.txt"
SHA256 = "09e701e54c6c75dea5a08ff7333feaebcb3a7770c7a63693914512889f3cb34a"

NOVELS = ["emma.txt", "mansfield_park.txt"]  # of extract_texts.TEXTS
NOVEL_CHARACTERS = 250_000  # of each

# Modules that updates of the package leave alone.
CODE_PACKAGES = ["libpython3.11-stdlib", "libpython3.11-minimal"]
CODE_MODULES = [
    "argparse", "asyncio/tasks", "collections/__init__", "concurrent/futures/_base", "dataclasses", "datetime",
    "difflib", "fractions", "functools", "heapq", "json/decoder", "shlex", "statistics", "textwrap", "threading",
]
CODE_CHARACTERS = 17_000  # of each

# language -> characters of its handbook. Small vocabularies spend a token on every byte of the last two.
LANGUAGES = {"fr": 60_000, "de": 60_000, "es": 60_000, "ja": 12_000, "zh-cn": 12_000}
CHAPTERS = ["ch01", "ch02"]


def first_lines(text: str, n_characters: int) -> str:
    """The front of a text up to a line's end."""
    if len(text) <= n_characters:
        return text
    return text[: text.rindex("\n", 0, n_characters) + 1]


def code(trees: list[Path]) -> str:
    parts = []
    for module in CODE_MODULES:
        paths = [tree / f"usr/lib/python3.11/{module}.py" for tree in trees]
        (path,) = [path for path in paths if path.exists()]
        parts.append(first_lines(path.read_text(encoding="utf-8"), CODE_CHARACTERS))
    return "\n".join(parts)


def handbook(language: str, tree: Path) -> str:
    """DocBook pages: banners and contents are left out, lines that only indent the markup with them."""
    parts = []
    for chapter in CHAPTERS:
        page = extract_texts.PageText()
        html = (tree / f"usr/share/debian-reference/{chapter}.{language}.html").read_text(encoding="utf-8")
        html = re.sub(r'class="(navheader|navfooter|toc)"', 'class="docnav"', html)
        page.feed(html)
        parts.append(page.text())
    half = LANGUAGES[language] // len(CHAPTERS)
    return "\n\n".join(first_lines(part, half) for part in parts)


def build(novels: list[Path], package_tree) -> str:
    """package_tree(name): the unpacked files of a Debian package."""
    parts = [first_lines(path.read_text(encoding="utf-8"), NOVEL_CHARACTERS) for path in novels]
    parts.append(code([package_tree(package) for package in CODE_PACKAGES]))
    parts += [handbook(language, package_tree(f"debian-reference-{language}")) for language in LANGUAGES]
    return "\n".join(parts)
