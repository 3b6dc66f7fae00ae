"""`@ FILE` and `--key.path VALUE` after it: how each program here is configured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings:
    """A TOML file with the flags of the command line over it."""

    def __init__(self, words: list[str]) -> None:
        self.values: dict[str, Any] = {}
        while words:
            word, value, *words = words
            if word == "@":
                self.values = tomllib.loads(Path(value).read_text(encoding="utf-8"))
            else:
                self._set(word.removeprefix("--").replace("-", "_").split("."), value)

    def _set(self, path: list[str], text: str) -> None:
        *tables, last = path
        here = self.values
        for name in tables:
            here = here.setdefault(name, {})
        here[last] = json.loads(text) if text[:1] in "[{" or text.isdigit() else text

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key; an error where there is neither value nor default. `"None"` is none."""
        here: Any = self.values
        for name in key.split("."):
            here = here.get(name) if isinstance(here, dict) else None
        if here is None or here == "None":
            if default is None:
                raise SystemExit(f"the configuration says no {key}")
            return default
        return here


def settings() -> Settings:
    """Those of this program's own command line."""
    return Settings(sys.argv[1:])
