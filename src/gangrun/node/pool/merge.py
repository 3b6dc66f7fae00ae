"""The results of a campaign's items put together once all of them have ended."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Iterable


def merge(run: Path, wanted: Any, items: Iterable[tuple[str, bool]]) -> str:
    """By a command, or by a rule into one file; `items` are names, and whether they were done. What went wrong."""
    if isinstance(wanted, list):
        try:
            code = subprocess.run(wanted, check=False).returncode
        except OSError as error:
            return f"the merge cannot be started: {wanted[0]}: {error.strerror}"
        return f"the merge ended with {code}" if code else ""
    merged = merged_of(run, wanted["file"], items)
    target = run / wanted["into"]
    draft = target.with_name(f"{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        return f"{wanted['into']} cannot be written: {error.strerror}"
    return ""


def merged_of(run: Path, file: str, items: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """How many items there are, the results of those that are done by name, the names of the others, and of every
    number at the top of the results the mean over the done ones, and its sum over how many items there are."""
    results: dict[str, Any] = {}
    missing: list[str] = []
    count = 0
    for name, done in items:
        count += 1
        try:
            results[name] = json.loads((run / "items" / name / file).read_bytes()) if done else None
        except (OSError, ValueError):
            results[name] = None
        if results[name] is None:
            del results[name]
            missing.append(name)
    numbers: dict[str, list[float]] = {}
    for found in results.values():
        for key, value in found.items() if isinstance(found, dict) else ():
            if isinstance(value, (int, float)):
                numbers.setdefault(key, []).append(float(value))
    return {
        "items": count,
        "done": len(results),
        "missing": missing,
        "mean": {key: sum(values) / len(values) for key, values in numbers.items()},
        "mean_of_all": {key: sum(values) / count for key, values in numbers.items()},
        "results": results,
    }
