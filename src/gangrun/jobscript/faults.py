"""Faults that grown batch scripts have, by line, each with its mend.

A pattern sees the script without its comments, its texts in single quotes and its here-documents, line for line; what
needs a shell's whole grammar is left to shellcheck, where that is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from gangrun.jobscript.read import JobScript


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One of them."""

    line: int
    what: str
    mend: str


SHELLS = frozenset({"sh", "bash", "dash", "ksh"})
_UNQUOTED = frozenset({2046, 2048, 2068, 2086})
_PATTERNS = (
    (
        r"\$\{(\w+):(\d+)\}",
        "${{{0}:{1}}} is the text of {0} from its letter {1} on, not a default",
        "${{{0}:-{1}}}",
    ),
    (
        r"show\s+hostnames?\b[^|\n]*\|\s*sort\b",
        "sorted host names put node10 before node9, so the first is not the node of rank 0",
        "leave the sort out: Slurm's order is that of the ranks",
    ),
    (
        r"(?:MASTER_PORT=|--master[-_]port[= ]|--rdzv[-_]endpoint[= ]\S*:|--main[-_]process[-_]port[= ])\"?(\d{4,5})\b",
        "the port {0} is fixed: two jobs on one node collide",
        "$((10000 + SLURM_JOB_ID % 20000)), the same on all nodes of a job and different for each job",
    ),
    (
        r"^\s*wait\s*(?:;|$)",
        "a bare wait returns 0 whatever its processes returned",
        'keep their ids and wait for each: for pid in "${{pids[@]}}"; do wait "$pid" || code=$?; done; exit "$code"',
    ),
)
_BLOCK_ENDS = re.compile(r"\s*(?:fi|done|esac|else|elif|;;|\}|\))")
_EXEC = re.compile(r"^(\s*)exec\s+(?![0-9]*[<>&{])\S")


def faults(job: JobScript) -> list[Fault]:
    """All of them, by line."""
    found = [*_directives(job)]
    if job.interpreter[0].rpartition("/")[2] in SHELLS or job.interpreter[-1].split()[0] in SHELLS:
        text = masked(job.text)
        lines = text.split("\n")
        found += [*_patterns(lines), *_exec(lines), *_tee(lines), *_lost_ids(text), *_shellcheck(job)]
    return sorted(set(found))


def _directives(job: JobScript) -> Iterator[Fault]:
    begun = False
    for number, line in enumerate(job.text.splitlines(), 1):
        if line.startswith("#SBATCH") and begun:
            yield Fault(number, "sbatch reads no #SBATCH line after the first command", "move it to the top")
        elif line.startswith("#SBATCH") and re.search(r"\$\{?\w", line):
            what = "a variable in an #SBATCH line is no variable: sbatch takes it as it stands"
            yield Fault(number, what, "say it on sbatch's command line")
        begun = begun or bool(line.strip() and not line.startswith("#"))


def _patterns(lines: list[str]) -> Iterator[Fault]:
    for pattern, what, mend in _PATTERNS:
        compiled = re.compile(pattern)
        for number, line in enumerate(lines, 1):
            if match := compiled.search(line):
                groups = [group or "" for group in match.groups()]
                yield Fault(number, what.format(*groups), mend.format(*groups))


def _exec(lines: list[str]) -> Iterator[Fault]:
    """What stands behind an `exec` in the same block, and traps that it takes away."""
    traps = [number for number, line in enumerate(lines, 1) if re.search(r"\btrap\b.*\bEXIT\b", line)]
    for number, line in enumerate(lines, 1):
        match = _EXEC.match(line)
        if not match or (number > 1 and lines[number - 2].endswith("\\")):
            continue
        end = number
        while end < len(lines) and lines[end - 1].endswith("\\"):
            end += 1  # the command goes on
        after = next((at for at in range(end + 1, len(lines) + 1) if lines[at - 1].strip()), None)
        if after and not _BLOCK_ENDS.match(lines[after - 1]):
            yield Fault(number, f"nothing after this exec runs, as the work in line {after}", "leave the exec out")
        elif traps:
            what = f"this exec takes the trap in line {traps[0]} away, so what that cleans up stays"
            yield Fault(number, what, "leave the exec out")


def _tee(lines: list[str]) -> Iterator[Fault]:
    careful = False
    for number, line in enumerate(lines, 1):
        careful = careful or bool(re.search(r"\bset\b.*\bpipefail\b", line))
        if re.search(r"\|\s*tee\b", line) and not careful:
            yield Fault(number, "the exit code of `… | tee` is that of tee: a failure is lost", "set -o pipefail")


def _lost_ids(text: str) -> Iterator[Fault]:
    """`NAME=$!` inside of ( … ), whose variables end with it."""
    depth, line, at = 0, 1, 0
    while at < len(text):
        letter = text[at]
        line += letter == "\n"
        if letter == "(":
            # `name()` opens nothing; arithmetic opens and closes two.
            at += 1 if text[at : at + 2] == "()" else 0
            depth += text[at] == "("
        elif letter == ")" and depth:
            depth -= 1
        elif depth and (match := re.compile(r"(\w+)=\"?\$!").match(text, at)) and not text[at - 1 : at].isalnum():
            what = f"{match[1]} is set in a subshell and unknown after it, so nobody can end that process"
            yield Fault(line, what, "start it without the brackets")
            at += len(match[0]) - 1
        at += 1


def _shellcheck(job: JobScript) -> Iterator[Fault]:
    """Unquoted expansions and what does not parse; nothing where there is no shellcheck."""
    program = shutil.which("shellcheck")
    if program is None:
        return
    words = [program, "--format=json", "--shell=bash", "-"]
    try:
        remarks = json.loads(subprocess.run(words, input=job.text, capture_output=True, text=True, timeout=60).stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return
    for remark in remarks:
        code = remark["code"]
        if remark["level"] == "error" or code in _UNQUOTED:
            line = job.text.splitlines()[remark["line"] - 1]
            word = line[remark["column"] - 1 : remark["endColumn"] - 1] if remark["endLine"] == remark["line"] else ""
            mend = f'"{word}"' if code in _UNQUOTED and word else f"see https://www.shellcheck.net/wiki/SC{code}"
            yield Fault(remark["line"], f"{remark['message'].rstrip('.')} (SC{code})", mend)


def masked(text: str) -> str:
    """The script with blanks for comments, for what stands in single quotes, and for here-documents."""
    found = []
    until = ""
    quoted = double = False
    for line in text.split("\n"):
        if until:
            found.append("")
            if line.strip() == until:
                until = ""
            continue
        letters = list(line)
        at = 0
        while at < len(letters):
            letter = letters[at]
            if quoted:
                quoted = letter != "'"
                letters[at] = " "
            elif letter == "\\":
                at += 1
            elif letter == '"':
                double = not double
            elif letter == "'" and not double:
                quoted, letters[at] = True, " "
            elif letter == "#" and not double and (at == 0 or letters[at - 1] in " \t;(&|"):
                del letters[at:]
            at += 1
        found.append("".join(letters))
        if not double and (match := re.search(r"(?<!<)<<-?\s*[\"']?(\w+)[\"']?", line)) and "<<<" not in line:
            until = match[1]
    return "\n".join(found)
