"""One attempt at an item of a campaign: its program, watched for hanging, and afterwards the verdict.

`try RULES -- COMMAND…`. It ends with 0 where the verdict is good, whatever the program ended with, and says why it did
not in the item's `attempts/NNN/verdict`. Without a verdict the program's own code counts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Iterable

HUNG = 124
"""What an attempt ends with that was ended for hanging."""
EVERY = 1.0
"""Seconds between two looks at the logs."""
STAYS = 5.0
"""Seconds for which a line must have been the last one before it counts as such."""
_ARRIVES = 3.0
"""Seconds for which a result that cannot be read is read again: it may come through a network file system."""
_TAIL = 4096


class Attempt:
    """See the module."""

    def __init__(self, rules: dict[str, Any], command: list[str]) -> None:
        self._rules = rules
        self._command = command
        self._item = Path(os.environ["GANGRUN_RUN_DIR"])
        self._number = os.environ.get("GANGRUN_ATTEMPT", "001")
        self._stopping = 0
        """The signal by which somebody wants the end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked)

    def _asked(self, number: int, _: object) -> None:
        # The program is in this process's group, and has had the signal, too.
        self._stopping = self._stopping or number

    def run(self) -> int:
        """The exit code of the attempt."""
        verdict = self._rules.get("verdict")
        before = _signature(self._result) if isinstance(verdict, dict) else None
        child = subprocess.Popen(self._command)
        words = self._watch(child)
        code = child.returncode
        if self._stopping:
            return 128 + self._stopping
        if words:
            return self._failed(f"hung: {words}", HUNG)
        code = 128 - code if code < 0 else code
        if verdict is None:
            return code
        words = self._by_rule(verdict, before) if isinstance(verdict, dict) else self._by_command(verdict, code)
        return self._failed(words, code or 1) if words else 0

    def _failed(self, words: str, code: int) -> int:
        """Leaves word for the driver and in the log."""
        print(f"gangrun: {words}", flush=True)
        folder = self._item / "attempts" / self._number
        draft = folder / "verdict.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(words + "\n", encoding="utf-8")
            draft.replace(folder / "verdict")
        except OSError:
            pass  # the log has it
        return code

    # --- hanging -----------------------------------------------------------------------------------------------------

    def _watch(self, child: subprocess.Popen[bytes]) -> str:
        """Until the program has ended; the words say why it was made to, where it was."""
        hang = self._rules.get("hang")
        grown = time.monotonic()
        sizes: list[tuple[str, int]] = []
        while not _ended(child, EVERY if hang else None):
            found = [(log, size) for log in self._logs() if (size := _size(log)) is not None]
            if found != sizes or not found:  # a main that waits for a server has none, and no reason to print
                sizes, grown = found, time.monotonic()
            elif hang and not self._stopping and (words := _hangs(hang, sizes, time.monotonic() - grown)):
                self._end(child)
                return words
        return ""

    def _logs(self) -> list[str]:
        """What the watched replicas print into; a script makes the directory itself, after its setup."""
        found = (self._item / "attempts").glob("[0-9]*")
        folders = sorted((folder for folder in found if folder.name >= self._number), reverse=True)
        watched = self._rules["hang"]["watch"]
        return [str(folders[0] / "logs" / f"{name}.log") for name in watched] if folders else []

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Asks it to, and then makes it; what else belongs to the attempt ends with this process."""
        child.terminate()
        if not _ended(child, self._rules["grace"]):
            child.kill()
            child.wait()

    # --- the verdict -------------------------------------------------------------------------------------------------

    @property
    def _result(self) -> Path:
        return self._item.joinpath(self._rules["verdict"]["file"])

    def _by_command(self, command: list[str], code: int) -> str:
        """What is wrong; nothing where the command ends with 0."""
        try:
            judge = subprocess.run(command, env={**os.environ, "GANGRUN_EXIT_CODE": str(code)}, check=False)
        except OSError as error:
            return f"the verdict cannot be had: {command[0]}: {error.strerror}"
        ended = f", the program with {code}" if code else ""
        return f"the verdict ended with {judge.returncode}{ended}" if judge.returncode else ""

    def _by_rule(self, rule: dict[str, Any], before: object) -> str:
        deadline = time.monotonic() + _ARRIVES
        while True:
            words, final = self._judged(rule, before)
            if final or time.monotonic() > deadline:
                return words
            time.sleep(0.5)

    def _judged(self, rule: dict[str, Any], before: object) -> tuple[str, bool]:
        """What is wrong, and whether that cannot change any more."""
        name = rule["file"]
        after = _signature(self._result)
        if after is None:
            return f"there is no {name}", False
        if after == before:
            return f"{name} is an earlier attempt's", False
        try:
            found = json.loads(self._result.read_bytes())
        except (OSError, ValueError):
            return f"{name} is no whole JSON", False
        for path, wanted in rule["where"].items():
            if words := judge(found, path, wanted):
                return f"{name}: {words}", True
        return "", True


def _ended(child: subprocess.Popen[bytes], within: float | None) -> bool:
    try:
        child.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _hangs(hang: dict[str, Any], logs: list[tuple[str, int]], quiet: float) -> str:
    """By which rule it hangs, after so many quiet seconds."""
    silent, pattern = hang.get("silent"), hang.get("last_line")
    if silent is not None and quiet >= silent:
        return f"no output for {silent} s"
    if pattern is not None and quiet >= STAYS:
        for log, _ in logs:
            if re.search(pattern, line := _last_line(log)):
                return f"the last line is {line!r}"
    return ""


def judge(found: Any, path: str, wanted: Any) -> str:
    """What is wrong with the values at this path, in which `*` is every entry of a list or table."""
    values = _at([found], path.split("."))
    if not values:
        return f"there is no {path}"
    for value in values:
        if words := _wrong(value, wanted):
            shown = json.dumps(value)
            return f"{path} is {shown if len(shown) <= 60 else shown[:57] + '…'}, {words}"
    return ""


def _at(values: list[Any], path: list[str]) -> list[Any]:
    for part in path:
        values = [inner for value in values for inner in _inside(value, part)]
    return values


def _inside(value: Any, part: str) -> Iterable[Any]:
    if part == "*":
        return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, dict):
        return [value[part]] if part in value else []
    if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
        return [value[int(part)]]
    return []


def _wrong(value: Any, wanted: Any) -> str:
    if not isinstance(wanted, dict):
        allowed = wanted if isinstance(wanted, list) else [wanted]
        return "" if value in allowed else f"not {' or '.join(json.dumps(one) for one in allowed)}"
    for name, limit in wanted.items():
        if name == "not":
            if value in (limit if isinstance(limit, list) else [limit]):
                return "which is not allowed"
        elif not isinstance(value, (int, float)) or isinstance(value, bool):
            return "which is no number"
        elif not (value >= limit if name == "min" else value <= limit):
            return f"{'less' if name == 'min' else 'more'} than {limit}"
    return ""


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _last_line(path: str) -> str:
    """The last line that is not empty."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


def main(words: list[str]) -> int:
    """`try RULES -- COMMAND…`"""
    return Attempt(json.loads(words[0]), words[2:]).run()
