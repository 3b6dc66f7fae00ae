"""TOML with the line of every key, so that an error can say where.

`tomllib` gives values without positions. The values come from it; only the positions come from the small scan below,
which runs over text that `tomllib` has already accepted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeAlias

from gangrun.errors import Problem, SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Key: TypeAlias = "tuple[str | int, ...]"
Table: TypeAlias = "dict[str, Any]"

_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]\}\n#]+")
_MENDS = (
    ("Invalid value", "text stands in quotes"),
    ("after a statement", "text stands in quotes"),
    ("Cannot overwrite", "a key stands in a file once: keep one of the two"),
    ("twice", "a table stands in a file once: keep one of the two"),
)
"""What mends an error, by words of tomllib's."""
_ERROR_PLACE = re.compile(r"\(at line (\d+), column \d+\)")


def read(path: Path) -> tuple[Table, dict[Key, int]]:
    """The file's values and the 1-based line of each key path (list items by index).

    Raises SpecError when the file is absent, not UTF-8, or not TOML.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError([Problem("", f"cannot be read: {error.strerror}", str(path))]) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        problem = Problem("", f"is not UTF-8 (byte 0x{byte:02x})", str(path), line, "save the file as UTF-8")
        raise SpecError([problem]) from error
    # tomllib takes CRLF but counts lines by \n, as we do.
    text = text.removeprefix("\ufeff")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _ERROR_PLACE.search(str(error))
        line = int(place[1]) if place else text.count("\n") + 1
        what = _ERROR_PLACE.sub("", str(error)).strip()
        way_out = next((mend for words, mend in _MENDS if words in what), "")
        raise SpecError([Problem("", f"is not TOML: {what}", str(path), line, way_out)]) from error
    return values, _Scan(text).lines()


def value_of(text: str) -> Any:
    """A TOML value as on the command line; text that is no TOML value is itself, and so are dates and times."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break in the text can begin a second key; 12:00:00 is a duration here rather than a time of day.
    plain = len(table) == 1 and isinstance(table["value"], (str, int, float, list, dict))
    return table["value"] if plain else text


class _Scan:
    """One pass over valid TOML that notes where each key stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Key, int] = {}
        self.tables: dict[Key, int] = {}

    def lines(self) -> dict[Key, int]:
        prefix: Key = ()
        while self._skip(_GAP) < len(self.text):
            if self.text.startswith("[", self.at):
                prefix = self._header()
            else:
                self._pair(prefix)
        return self.found

    def _skip(self, pattern: re.Pattern[str]) -> int:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return self.at

    def _note(self, key: Key) -> None:
        line = self.text.count("\n", 0, self.at) + 1
        for end in range(1, len(key) + 1):
            self.found.setdefault(key[:end], line)

    def _header(self) -> Key:
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        key = self._into_arrays(self._dotted(), last=not array)
        if array:
            index = self.tables.get(key, -1) + 1
            self.tables[key] = index
            key = (*key, index)
        self._note(key)
        self.at = self.text.index("]", self.at) + (2 if array else 1)
        return key

    def _into_arrays(self, key: Key, *, last: bool) -> Key:
        """`[a.b]` after `[[a]]` means the newest `a`."""
        full: Key = ()
        for position, part in enumerate(key):
            full = (*full, part)
            if full in self.tables and (last or position < len(key) - 1):
                full = (*full, self.tables[full])
        return full

    def _dotted(self) -> Key:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            if match := _STRING.match(self.text, self.at):
                parts.append(tomllib.loads(f"value = {match[0]}")["value"])
            elif not (match := _BARE.match(self.text, self.at)):
                break
            else:
                parts.append(match[0])
            self.at = match.end()
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                break
            self.at += 1
        return tuple(parts)

    def _pair(self, prefix: Key) -> None:
        start = self.at
        key = (*prefix, *self._dotted())
        end, self.at = self.at, start
        self._note(key)
        self.at = self.text.index("=", end) + 1
        self._skip(_SPACE)
        self._value(key)

    def _value(self, key: Key) -> None:
        self._note(key)
        opening = self.text[self.at]
        if match := _STRING.match(self.text, self.at):
            self.at = match.end()
        elif opening in "[{":
            self.at += 1
            index = 0
            while self.text[self._skip(_GAP)] not in "]}":
                if opening == "{":
                    self._pair(key)
                else:
                    self._value((*key, index))
                    index += 1
                self._skip(_GAP)
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        else:
            self._skip(_SCALAR)
