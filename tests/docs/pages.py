"""The Markdown pages as their tests read them: headings, tables, links, and fenced blocks with their marks.

A block's first word is its language, the others are marks:

- `toml experiment` loads, resolves and fits the JSON Schema. `toml fragment` is a part of one, `toml profile` the
  profile of a cluster, `toml package` the entry points of an extension.
- `toml rl` is a configuration for `gangrun rl`, and becomes a script.
- `console run` is run on this machine without a cluster, `console slurm` on a lab; what it shows must come out.
  `exit=N` says that the last command ends with N. `console` alone is only read: its commands and flags must exist.
- `python extension` is imported, through the entry points of the `toml package` after it. Other python must compile.

A block whose first line is a comment with nothing but a path (`# experiments/a/b_0.toml`) is the file of that name for
the commands after it on its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", REPOSITORY / "CONTRIBUTING.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))

_FENCE = re.compile(r"```(\w*)(.*)")
_FILE = re.compile(r"# ([\w./-]+\.(?:toml|py|sh))")
_CODE = re.compile(r"`[^`]*`")
_LINK = re.compile(r"!?\[(?:[^\]`]|`[^`]*`)*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """Language and first mark: `console run`."""
        return " ".join((self.language, *(mark for mark in self.marks if "=" not in mark)))

    @property
    def file(self) -> str:
        """The name in the first line, or nothing."""
        found = _FILE.fullmatch(self.text.split("\n", 1)[0])
        return found[1] if found else ""

    @property
    def exit_code(self) -> int:
        """What the last command must end with."""
        return next((int(mark[5:]) for mark in self.marks if mark.startswith("exit=")), 0)

    def commands(self) -> list[tuple[str, list[str]]]:
        """Every command of a console block and the lines that it shows."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0].endswith("\\") and not found[-1][1]:
                found[-1] = (found[-1][0][:-1] + line.strip(), [])
            else:
                found[-1][1].append(line)
        return found


class Page:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(REPOSITORY))
        self.text = path.read_text(encoding="utf-8")

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def _parts(self) -> tuple[list[tuple[int, str]], list[Block]]:
        prose: list[tuple[int, str]] = []
        blocks: list[Block] = []
        fence: tuple[int, re.Match[str]] | None = None
        inside: list[str] = []
        for number, line in enumerate(self.text.splitlines(), 1):
            if fence is None and (match := _FENCE.fullmatch(line)):
                fence, inside = (number, match), []
            elif fence is not None and line == "```":
                start, match = fence
                blocks.append(Block(self.name, start, match[1], tuple(match[2].split()), "\n".join(inside) + "\n"))
                fence = None
            elif fence is not None:
                inside.append(line)
            else:
                prose.append((number, line))
        assert fence is None, f"{self.name}:{fence[0] if fence else 0}: a fence without an end"
        return prose, blocks

    @property
    def prose(self) -> list[tuple[int, str]]:
        """Line numbers and lines outside of fenced blocks."""
        return self._parts[0]

    @property
    def blocks(self) -> list[Block]:
        """Fenced blocks in order."""
        return self._parts[1]

    def headings(self, level: int | None = None) -> list[str]:
        """Texts of the headings."""
        found = (re.fullmatch(r"(#+) (.+)", line) for _, line in self.prose)
        return [match[2] for match in found if match and level in (None, len(match[1]))]

    def anchors(self) -> set[str]:
        """The anchors that GitHub makes of the headings."""
        return {
            re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
            for heading in self.headings()
        }

    def links(self) -> Iterator[tuple[int, str]]:
        """Line numbers and targets."""
        for number, line in self.prose:
            yield from ((number, match[1]) for match in _LINK.finditer(line))

    def section(self, heading: str) -> list[str]:
        """The lines of prose under this heading, up to the next of its level or above."""
        lines: list[str] = []
        level = 0
        for _, line in self.prose:
            match = re.fullmatch(r"(#+) (.+)", line)
            if match and level and len(match[1]) <= level:
                break
            if level:
                lines.append(line)
            elif match and match[2] == heading:
                level = len(match[1])
        assert level, f"{self.name} has no heading {heading!r}"
        return lines

    def table(self, heading: str) -> list[list[str]]:
        """The rows of the first table under this heading, without its head."""
        rows: list[list[str]] = []
        for line in self.section(heading):
            if line.startswith("|"):
                rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            elif rows:
                break
        assert len(rows) > 2, f"{self.name} has no table under {heading!r}"
        return rows[2:]


def code(cell: str) -> str:
    """The first piece of code in a cell of a table, or nothing."""
    found = _CODE.search(cell)
    return found[0].strip("`") if found else ""


def all_pages() -> list[Page]:
    """Every page, so far as it is there."""
    return [Page(path) for path in PAGES if path.is_file()]
