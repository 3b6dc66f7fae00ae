"""`python3 {run.dir}/node/pool drive …` on the first node, `… work …` or `… ray …` on every node.

`… try …` is each attempt at an item of a campaign, `… step …` what runs in the step that an item has for itself.
"""

import sys
from importlib import import_module
from pathlib import Path

MODULES = {"drive": "driver", "work": "agent", "ray": "ray_node", "try": "attempt", "step": "own_step"}

if __name__ == "__main__":
    # Python was given this directory, whose modules know each other as a package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(import_module("pool." + MODULES[sys.argv[1]]).main(sys.argv[2:]))
