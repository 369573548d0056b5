"""The code in the project's documents: fenced blocks, the commands in them, and code within sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = {"curl", "deeprecsys", "echo", "make", "perf_analyzer", "pip", "python"}
"""What a command of the documents may begin with."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        file: its document, relative to the repository.
        line: of its first line of code.
        language: as the fence names it; "" where it names none.
    """

    file: str
    line: int
    language: str
    text: str

    @property
    def is_commands(self) -> bool:
        """Whether each of its lines begins, or goes on with, a command of `PROGRAMS`."""
        if self.language not in ("sh", ""):
            return False
        try:
            return all(words[0] in PROGRAMS for _, words in commands(self.text))
        except ValueError:
            return False


def documents() -> list[Path]:
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    ]


def blocks() -> list[Block]:
    found = []
    for path in documents():
        text = path.read_text()
        for m in re.finditer(r"^```(\w*|\{.*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if m[1].startswith("{"):  # a directive of the site
                continue
            line = text.count("\n", 0, m.start(2)) + 1
            found.append(Block(path.relative_to(ROOT).as_posix(), line, m[1], m[2]))
    return found


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, and its words. One may go over several lines, by a quote or a backslash."""
    kept = ""
    for line in text.splitlines(keepends=True):
        kept += line
        if kept.endswith("\\\n"):
            kept = kept[:-2]
            continue
        try:
            words = shlex.split(kept, comments=True)
        except ValueError:  # a quote that a later line closes
            continue
        if words:
            yield kept.strip(), words
        kept = ""
    if kept:
        raise ValueError(f"expected whole commands, got the rest {kept!r}")


def inline() -> list[tuple[str, str]]:
    """Code within sentences: document and text."""
    found = []
    for path in documents():
        prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += [(path.relative_to(ROOT).as_posix(), code) for code in re.findall(r"`([^`\n]+)`", prose)]
    return found
