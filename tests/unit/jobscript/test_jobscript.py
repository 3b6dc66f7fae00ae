"""Batch scripts that somebody wrote: what is read of them, their faults, and the script around them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gangrun.errors import UsageError
from gangrun.jobscript.faults import Fault, faults, masked
from gangrun.jobscript.read import SUFFIXES, JobScript, is_one, read, words_for_sbatch
from gangrun.script.written import written
from gangrun.spec import tree


def script(folder: Path, text: str, name: str = "job.sh") -> JobScript:
    (folder / name).write_text(text)
    return read(str(folder / name))


def test_the_head_ends_at_the_first_command(tmp_path: Path) -> None:
    job = script(tmp_path, "#!/bin/bash -e\n#SBATCH -J a\n\n# words\n#SBATCH --time=1:00\nset -u\n#SBATCH -N2\n")
    assert job.interpreter == ("/bin/bash", "-e")
    assert job.head == ("#SBATCH -J a", "#SBATCH --time=1:00")
    assert (job.name, script(tmp_path, "#!/bin/sh\n").name) == ("a", "job.sh")


def test_words_for_sbatch() -> None:
    head = ['#SBATCH -N2 -J "a b" --exclusive --mem 4G # why', "#SBATCH --gres=gpu:2 -t=1:00"]
    assert list(words_for_sbatch(head)) == [
        ("-N", "2"), ("-J", "a b"), ("--exclusive", ""), ("--mem", "4G"), ("--gres", "gpu:2"), ("-t", "1:00"),
    ]  # fmt: skip


def test_what_is_a_batch_script(tmp_path: Path) -> None:
    for name, text in (("a.sh", ""), ("b.slurm", ""), ("plain", "#!/bin/sh\n"), ("c.py", "#!/x\n"), ("d.toml", "#!")):
        (tmp_path / name).write_text(text)
    found = {name for name in ("a.sh", "b.slurm", "plain", "c.py", "d.toml", "absent.sh", "absent", ".")
             if is_one(str(tmp_path / name))}  # fmt: skip
    assert found == {"a.sh", "b.slurm", "plain", "absent.sh"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo\n", "begins with #!"),
        ("", "begins with #!"),
        ("#!/bin/bash\r\ntrue\r\n", "line ends of Windows"),
        ("#!/bin/bash\n#SBATCH -a 0-3\n", "is a job array"),
        ("#!/bin/bash\n#SBATCH packjob\n", ":2: gangrun has no jobs of several components"),
    ],
)
def test_what_cannot_be_sent(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "job.sh").write_bytes(text.encode())
    with pytest.raises(UsageError) as error:
        read(str(tmp_path / "job.sh"))
    assert told in str(error.value)


@pytest.mark.slow
def test_the_script_around_it(tmp_path: Path) -> None:
    head = ("#SBATCH --output=out-%x.txt", "#SBATCH -J old")
    text = written(head, "it's old", ("/bin/bash", "-e"), "exp_step_1", "/tmp/a b/%")
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        '#SBATCH --output="/tmp/a b/%%/job.log"',
        "#SBATCH --open-mode=append",
        "#SBATCH --output=out-it's old.txt",
        "#SBATCH -J old",
        "#SBATCH --job-name=exp_step_1",
        "#SBATCH --comment=exp_step_1",
    ]
    assert '  written /bin/bash -e "$RUN_DIR/job.sh"' in lines
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    subprocess.run(["shellcheck", "--shell=bash", "-"], input=text, text=True, check=True)


# Each with the line in which the fault is, the words that tell it, and those of the mend.
FAULTY = [
    ("exec srun python a.py\npython after.py\n", 1, "nothing after this exec runs, as the work in line 3", "leave"),
    ("trap clean EXIT\nif x; then\n  exec srun \\\n    a\nfi\n", 3, "takes the trap in line 2 away", "leave"),
    ("( sleep 9 & PID=$! )\nkill $PID\n", 1, "PID is set in a subshell", "without the brackets"),
    ("(\n  sleep 9 &\n  export PID=$!\n)\n", 3, "PID is set in a subshell", "without the brackets"),
    ('x="${CUDA_LAUNCH_BLOCKING:0}"\n', 1, "from its letter 0 on, not a default", "${CUDA_LAUNCH_BLOCKING:-0}"),
    ("M=$(scontrol show hostnames | sort | head -n1)\n", 1, "sorted host names", "Slurm's order"),
    ("export MASTER_PORT=29500\n", 1, "the port 29500 is fixed", "SLURM_JOB_ID"),
    ('torchrun --rdzv_endpoint="$H:29400" a.py\n', 1, "the port 29400 is fixed", "SLURM_JOB_ID"),
    ("a &\nwait\n", 2, "a bare wait returns 0", "wait for each"),
    ("python a.py | tee log\n", 1, "exit code of `… | tee` is that of tee", "set -o pipefail"),
    ("module load x\n#SBATCH --time=1\n", 2, "no #SBATCH line after the first command", "to the top"),
    ("#SBATCH --output=$HOME/x\n", 1, "no variable: sbatch takes it as it stands", "command line"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "what", "mend"), FAULTY)
def test_faults(tmp_path: Path, text: str, line: int, what: str, mend: str) -> None:
    found = [fault for fault in faults(script(tmp_path, f"#!/bin/bash\n{text}")) if "SC" not in fault.what]
    assert [(fault.line, what in fault.what, mend in fault.mend) for fault in found] == [(line + 1, True, True)], found


@pytest.mark.parametrize(
    "text",
    [
        "exec > >(cat) 2>&1\necho more\n",
        "exec 3<file\nread -r x <&3\n",
        "exec srun python a.py\n",
        "if x; then\n  exec a\nfi\nexec b\n",
        "sleep 9 &\nPID=$!\nkill $PID\n",
        "f() { sleep 9 & PID=$!; }\n",
        "n=$(( (1 + 2) * 3 ))\nsleep 1 &\nPID=$!\n",
        'x="${A:-0} ${A:1:2} ${A: -1}"\n',
        "set -euo pipefail\npython a.py | tee log\n",
        "wait \"$PID\"\nwait -n\n# wait\necho 'wait'\n",
        "MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))\n",
        "cat <<EOF\nwait\nMASTER_PORT=29500\nEOF\n",
    ],
)
def test_what_is_no_fault(tmp_path: Path, text: str) -> None:
    assert [fault for fault in faults(script(tmp_path, f"#!/bin/bash\n{text}")) if "SC" not in fault.what] == []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is absent")
def test_unquoted_expansions_by_shellcheck(tmp_path: Path) -> None:
    found = faults(script(tmp_path, "#!/bin/bash\npython a.py --data $DATA\n"))
    assert found == [Fault(2, "Double quote to prevent globbing and word splitting (SC2086)", '"$DATA"')]


def test_any_of_them_can_be_a_step_of_the_tree() -> None:
    assert set(tree.SUFFIXES) >= SUFFIXES


def test_a_script_of_another_language_has_no_shells_faults(tmp_path: Path) -> None:
    assert faults(script(tmp_path, "#!/usr/bin/env python3\n#SBATCH -N1\nwait\n", "job.slurm")) == []


def test_masked() -> None:
    text = "a # b\necho 'x # y' \"# $z\" \\# c#d\ncat <<-'E'\nw $x\n\tE\nend\n"
    assert masked(text).splitlines() == ["a ", 'echo         "# $z" \\# c#d', "cat <<-   ", "", "", "end"]
