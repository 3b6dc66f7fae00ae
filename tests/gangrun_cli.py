"""The installed command line as a user has it: in a project directory of its own, its venv's programs on PATH."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.terminal import Terminal

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
"""Where `gangrun`, `python` and `torchrun` of this environment are."""

HOSTILE = [
    "a b", "", "it's", '"q"', "$(touch x)", "`touch x`", "$HOME", "a\nb", "a,b", "--flag", "-n", "\\", "\\n", "*", "~",
    "é ü 日本 🦊", "x" * 300, "a;touch x", "&", "|", "!", "#c", "%x %j", "\t", "a=b", "--", "\x1b[31m",
]  # fmt: skip
"""What a program must get unchanged, be it an argument or a variable."""

_NOT_OURS = ("SLURM_", "SBATCH_", "SQUEUE_", "GANGRUN_", "VIRTUAL_ENV", "CONDA_", "COLUMNS")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)


class Started:
    """A command that goes on, in a group of its own as a shell would start it."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def done(self, limit: float = 120) -> Done:
        """Waits for its end."""
        try:
            out, err = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            out, err = self.kill()
            raise AssertionError(f"not within {limit} s: {self.process.args!r}\n{out}\n{err}") from None
        return Done(self.process.returncode, out, err)

    def kill(self) -> tuple[str, str]:
        """Ends it and its group if it has not ended; the rest of its stdout and stderr."""
        if self.process.stdout is None or self.process.stdout.closed:
            return "", ""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.communicate()


@dataclass
class Project:
    """A directory with `clusters/`, and gangrun called in it. Used in a `with`, it ends what was started in it."""

    dir: Path
    env: dict[str, str] = field(default_factory=dict)
    """Beyond the environment of these tests."""
    started: list[Started | Terminal] = field(default_factory=list)

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.started:
            one.kill()
        # A test that fails in the middle leaves runs that nobody ends; their scripts end with their programs.
        for line in marked(f"GANGRUN_RUN_DIR={self.dir}/", whole=False):
            with suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)

    def write(self, name: str, text: str | bytes) -> Path:
        """Writes a file, its folders included."""
        file = self.dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
        return file

    def example(self, name: str) -> str:
        """Copies a shipped example here and returns its experiment file."""
        shutil.copytree(REPOSITORY / "examples" / name, self.dir / "examples" / name)
        return f"examples/{name}/{name}.toml"

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that commands get: nothing of a cluster or an environment around these tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
        home = self.dir.with_name(f"{self.dir.name}.home")  # not one's own, whose .bashrc a shell would run
        home.mkdir(exist_ok=True)
        path = f"{PROGRAMS}{os.pathsep}{kept['PATH']}"
        ours = {"PATH": path, "HOME": str(home), "XDG_CONFIG_HOME": f"{home}/.config"}
        return {**kept, **ours, **self.env, **more}

    def spawn(self, *argv: str, env: dict[str, str] | None = None) -> Started:
        """Any command, in the background."""
        one = Started(argv, self.dir, self.environment(**env or {}))
        self.started.append(one)
        return one

    def terminal(self, *argv: str, env: dict[str, str] | None = None) -> Terminal:
        """Any command, on a terminal of its own."""
        one = Terminal(argv, self.dir, self.environment(**env or {}))
        self.started.append(one)
        return one

    def start(self, *words: str, env: dict[str, str] | None = None) -> Started:
        """`gangrun WORDS…` in the background."""
        return self.spawn("gangrun", *words, env=env)

    def gangrun(self, *words: str, env: dict[str, str] | None = None, limit: float = 120) -> Done:
        """`gangrun WORDS…` to its end."""
        return self.start(*words, env=env).done(limit)

    def ok(self, *words: str, limit: float = 120) -> Done:
        """`gangrun WORDS…`, which must end with 0."""
        done = self.gangrun(*words, limit=limit)
        assert done.code == 0, f"{words} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def runs(self) -> list[dict[str, Any]]:
        """`gangrun ls --json`: newest first."""
        data = self.ok("ls", "--json").data
        assert isinstance(data, list)
        return data

    def run(self, name: str = "latest") -> dict[str, Any]:
        """`gangrun show NAME --json`."""
        data = self.ok("show", name, "--json").data
        assert isinstance(data, dict)
        return data


def project_in(folder: Path, **env: str) -> Project:
    """A new project in this folder, which is made."""
    (folder / "clusters").mkdir(parents=True)
    return Project(folder, env)


def wait_for(what: Callable[[], T], limit: float = 60, every: float = 0.1) -> T:
    """Polls until it is true, and returns what it was then."""
    deadline = time.monotonic() + limit
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {limit} s; it was {value!r}"
        time.sleep(every)
    return value


def marked(*marks: str, whole: bool = True) -> list[str]:
    """Processes on this machine, in whatever namespace, with one of these texts in their environment, as a whole entry
    of it or as the beginning of one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if any(mark == entry or (not whole and entry.startswith(mark)) for entry in environment for mark in marks):
            found.append(f"{folder.name}: {command}")
    return found


def sh(text: str) -> str:
    """`command = […]` for a line of bash, as TOML."""
    return f"command = {json.dumps(['bash', '-c', text], ensure_ascii=False)}\n"
