"""A page's commands, run in a project that holds the page's files, and what they print made comparable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from time import monotonic, sleep

from tests.docs.pages import REPOSITORY, Block, Page
from tests.gangrun_cli import Project, project_in

HOME = "/home/ada/project"
"""Where the pages say that the project is."""
COLUMNS = "100"
"""Columns of the terminal that the pages show."""
_LIMIT = 120
_READS = re.compile("gangrun (ls|show|why) ?")

_SAME = (
    (r"\d{6}_\d{6}(?:-\d+)?", "STAMP"),
    (r"local-\d+-\d+", "JOB"),
    (r"\bjob(\s+)\d+", r"job\1JOB"),
    (r"\d+(\s+)lab\b", r"JOB\1lab"),
    (r"\d+\.\d+ on node", "JOB.STEP on node"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", "DATE"),
    (r"\b\d+[smhd] ago\b", "AGO"),
    (r"\b\d+s\b", "SECONDS"),
    (r":\d{5}\b", ":PORT"),
    (r"\d+\.\d+", "N"),
    (r"\d+ per second", "N per second"),
)
"""What differs from one run to the next."""


def install(page: Page, site: Path) -> None:
    """Installs the page's extensions into `site` as pip would: the modules, and a dist-info with the entry points."""
    site.mkdir(exist_ok=True)
    modules = [block for block in page.blocks if block.kind == "python extension"]
    packages = [block for block in page.blocks if block.kind == "toml package"]
    for module in modules:
        (site / module.file).write_text(module.text, encoding="utf-8")
    for number, package in enumerate(packages):
        info = site / f"extension{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: extension{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points(package.text))


def entry_points(toml: str) -> str:
    """The tables `[project.entry-points."GROUP"]` of a pyproject.toml in the form of entry_points.txt."""
    return re.sub(r'\[project\.entry-points\."([\w.]+)"\]', r"[\1]", toml).replace('"', "")


def project_of(page: Page, folder: Path) -> Project:
    """A project with the examples and the page's files in it, its extensions installed beside it."""
    install(page, folder / "site")
    project = project_in(folder / "project", COLUMNS=COLUMNS, PYTHONPATH=str(folder / "site"))
    shutil.copytree(
        REPOSITORY / "examples", project.dir / "examples", ignore=shutil.ignore_patterns("__pycache__", "outputs")
    )
    for block in page.blocks:
        if block.file and block.kind != "python extension":
            project.write(block.file, block.text)
    return project


def play(project: Project, block: Block) -> list[str]:
    """Runs the block's commands and returns what is wrong with what they did."""
    wrong: list[str] = []
    commands = block.commands()
    for number, (command, shown) in enumerate(commands):
        expected = block.exit_code if number == len(commands) - 1 else 0
        # What Slurm says of a job that was just sent changes within seconds.
        deadline = monotonic() + (20 if block.kind == "console slurm" and _READS.match(command) else 0)
        while words := _play(project, command, shown, expected):
            if monotonic() > deadline:
                wrong.append(f"{block}: {words}")
                break
            sleep(0.5)
    return wrong


def _play(project: Project, command: str, shown: list[str], expected: int) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=project.dir,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT,
    )
    if done.returncode != expected:
        return f"`{command}` ended with {done.returncode}, not {expected}:\n{done.stdout}"
    if missing := absent(shown, done.stdout, project.dir):
        return "\n".join((f"`{command}` does not print", *missing, "but", done.stdout))
    return ""


def absent(shown: list[str], printed: str, project: Path) -> list[str]:
    """Shown lines that were not printed. `…` stands for anything."""
    there = [_plain(line, project) for line in printed.splitlines()]
    missing = []
    for line in shown:
        wanted = _plain(line, project)
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        if wanted.strip("… ") and not any(re.fullmatch(pattern, one) for one in there):
            missing.append(line)
    return missing


def _plain(line: str, project: Path) -> str:
    line = line.replace(os.fspath(project), HOME)
    for pattern, word in _SAME:
        line = re.sub(pattern, word, line)
    return " ".join(line.split())
