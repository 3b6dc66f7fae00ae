"""`python warm.py MODULE:FUNCTION`: calls the function for one item after another, in a process that stays.

Each request, a line of JSON on standard input (a socket), names the item's parameters, which the function gets as
keyword arguments, its directory, its log, and its variables. Each is answered by a line with the exit code that a
process of its own would have had. What the function returns, if it is a dict, becomes the item's `metrics.json`.
Runs on the user's own Python and imports nothing of the package, which is not there.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any, Callable, Dict


def load(name: str) -> Callable[..., Any]:
    """The function called MODULE:FUNCTION, of a module in the working directory or installed."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def call(function: Callable[..., Any], request: Dict[str, Any]) -> int:
    """Calls it for one item and returns the exit code."""
    try:
        result = function(**request["parameters"])
        if isinstance(result, dict):
            path = os.path.join(request["dir"], "metrics.json")
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump(result, file, default=float)  # numbers of numpy and torch
            os.replace(path + ".new", path)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Works until standard input ends."""
    private = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    requests = os.fdopen(private, "rb")
    sys.path[0] = os.getcwd()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a log tells what came before what
    function: Any = None
    for line in requests:
        request = json.loads(line)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.update(request["env"])
        code = 1
        try:
            function = function or load(sys.argv[1])
        except Exception:
            traceback.print_exc()
        else:
            code = call(function, request)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(private, json.dumps({"code": code}).encode() + b"\n")


if __name__ == "__main__":
    main()
