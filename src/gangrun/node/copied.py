"""Looks whether this Python imports the project from the copy of the code, before any work is done with it.

    copied.py COPY LIVE CODE FIRST [--package PATH]... [--module PATH]...

COPY is where the copy of the repository LIVE is; the other paths start in it: CODE is the project's root, FIRST the
directory that the program will have first on its path. A package of the copy must not be found anywhere else; a single
module not in LIVE, as others have names like it. What is not found at all is nobody's trap. Nothing is imported.
"""

import importlib.util
import os
import sys
from typing import List


def elsewhere(name: str, copy: str, live: str) -> str:
    """Where a top-level name would be imported from, if that is not the copy; `live` limits where that counts."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    outside = [place for place in places if not _within(place, copy)]
    return next((place for place in outside if not live or _within(place, live)), "")


def _within(path: str, folder: str) -> bool:
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder + os.sep)


def main(words: List[str]) -> int:
    """Says what would come from elsewhere; then 1."""
    copy, live, code, first = words[:4]
    sys.path[0] = os.path.normpath(os.path.join(copy, first))
    wrong = 0
    for kind, path in zip(words[4::2], words[5::2]):
        name = os.path.basename(path)
        name = name[:-3] if name.endswith(".py") else name
        place = elsewhere(name, copy, live if kind == "--module" else "")
        if place:
            wrong = 1
            folder = os.path.relpath(os.path.dirname(path) or ".", code)
            sys.stderr.write(
                f"gangrun: {sys.executable} would import {name} from {place}, where it may have changed since this run "
                "was submitted, and not from its copy of the code: it is installed from there (pip install -e), or on "
                "PYTHONPATH\n"
                f'gangrun: way out: [env] PYTHONPATH = "{{code.dir}}{"" if folder == "." else "/" + folder}"\n'
            )
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
