"""Slurm's commands as programs to be put first on PATH, and the faults of a real cluster as subclasses.

`install` writes the programs; each of their calls makes the chosen class anew in a process of its own and answers from
a directory: `jobs.json` (the controller's memory and accounting), `calls.jsonl` (who asked what, in which environment)
and files that a fault uses to count. The words and exit codes are those of Slurm 22.05 to 26.05.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
DOWN = "Unable to contact slurm controller (connect failure)"
FINAL = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}

Job = dict[str, Any]


class FakeSlurm:
    """A healthy cluster. Jobs stay pending until a test moves them on."""

    accounting = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # The programs. Each prints and returns its exit code.

    def sbatch(self, argv: list[str]) -> int:
        print(self.accept(argv)["id"])
        return 0

    def squeue(self, argv: list[str]) -> int:
        jobs = [job for job in self.selected(argv) if not job["forgotten"]]
        asked = option(argv, "--jobs")
        if asked and "," not in asked and not jobs:
            print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
            return 1
        form = option(argv, "--Format") or os.environ.get("SQUEUE_FORMAT", "")
        fields = [part.removesuffix(":|") for part in form.split(",")]
        for job in jobs:
            for row in self.rows(job):
                print("".join(f"{row[field]}|" for field in fields))
        return 0

    def sacct(self, argv: list[str]) -> int:
        if not self.accounting:
            print("Slurm accounting storage is disabled", file=sys.stderr)
            return 1
        fields = option(argv, "--format").split(",")
        for job in self.selected(argv):
            for row in self.rows(job):
                row |= {
                    "JobID": row["JobArrayID"], "JobIDRaw": job["id"], "JobName": job["name"],
                    "ExitCode": f"{job['code'] % 128}:{job['signal']}", "Submit": row["SubmitTime"],
                    "Start": row["StartTime"], "End": row["EndTime"], "Timelimit": row["TimeLimit"],
                }  # fmt: skip
                print("|".join(str(row[field]) for field in fields))
        return 0

    def scancel(self, argv: list[str]) -> int:
        with self.jobs() as jobs:
            for job in jobs:
                if job["id"] in argv and job["state"] not in FINAL:
                    job.update(state="CANCELLED", ended=time.time())
        return 0

    def scontrol(self, argv: list[str]) -> int:
        if argv == ["ping"]:
            print("Slurmctld(primary) at fake is UP")
        elif argv[:2] == ["show", "config"]:
            print("Configuration data as of 2026-11-21T00:49:19")
            print("ClusterName             = fake\nMaxArraySize            = 1001\nSLURM_VERSION           = 24.11.5")
        elif argv[:2] == ["show", "partition"]:
            print("PartitionName=gpu AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=UP")
        return 0

    def sinfo(self, argv: list[str]) -> int:
        print("gpu*|up|1-00:00:00|2|idle|16|100000|gpu:h100:8|n[1-2]|(null)")
        return 0

    # What they are made of.

    def hang(self) -> int:
        """As a command of a Slurm that does not answer: until the caller ends it, a minute at the most."""
        signal.alarm(60)
        signal.pause()
        return 1

    def accept(self, argv: list[str]) -> Job:
        """Takes a job in."""
        script = next(word for word in reversed(argv) if not word.startswith("-"))
        header = Path(script).read_text().splitlines()
        flags = [word for line in header if line.startswith("#SBATCH ") for word in line.split()[1:]]
        flags += argv[:-1]
        with self.jobs() as jobs:
            job = {
                "id": str(1000 + len(jobs)), "name": option(flags, "--job-name"), "state": "PENDING",
                "reason": "Priority", "nodes": "", "code": 0, "signal": 0, "restarts": 0, "submitted": time.time(),
                "started": None, "ended": None, "limit": "1:00:00", "partition": option(flags, "--partition") or "gpu",
                "user": os.getuid(), "tasks": option(flags, "--array"), "forgotten": False, "visible": 0,
                "dependency": option(flags, "--dependency"),
            }  # fmt: skip
            jobs.append(job)
        return job

    def selected(self, argv: list[str]) -> list[Job]:
        """The jobs that the flags ask for."""
        ids = {word.partition("_")[0] for word in option(argv, "--jobs").split(",") if word}
        names = {word for word in option(argv, "--name").split(",") if word}
        user = option(argv, "--user")
        with self.jobs() as jobs:
            return [
                job
                for job in jobs
                if (not ids or job["id"] in ids)
                and (not names or job["name"] in names)
                and (not user or str(job["user"]) == user)
                and job["visible"] <= time.time()
            ]

    def rows(self, job: Job) -> Iterator[dict[str, Any]]:
        first, _, last = job["tasks"].partition("%")[0].partition("-")
        tasks = [f"_{index}" for index in range(int(first), int(last) + 1)] if last else [""]
        for task in tasks:
            yield {
                "JobArrayID": job["id"] + task, "JobID": job["id"], "State": job["state"],
                "exit_code": f"{job['code']}:{job['signal']}", "RestartCnt": job["restarts"],
                "SubmitTime": moment(job["submitted"]), "StartTime": moment(job["started"]),
                "EndTime": moment(job["ended"]), "TimeLimit": job["limit"], "Partition": job["partition"],
                "NodeList": job["nodes"], "Reason": job["reason"], "Name": job["name"],
                "Dependency": job["dependency"] or "(null)",
            }  # fmt: skip

    @contextmanager
    def jobs(self) -> Iterator[list[Job]]:
        """All jobs, written back when the block ends."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "jobs.json"
            jobs = json.loads(path.read_text()) if path.exists() else []
            yield jobs
            path.write_text(json.dumps(jobs))

    def again(self, what: str) -> int:
        """How often this was asked before."""
        path = self.folder / f"count.{what}"
        path.touch()
        with path.open("a") as file:
            file.write("x")
        return path.stat().st_size - 1

    def main(self, program: str, argv: list[str]) -> int:
        call = {"program": program, "argv": argv, "env": dict(os.environ)}
        with (self.folder / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(call) + "\n")
        code = getattr(self, program)(argv)
        return int(code)


class NoAccounting(FakeSlurm):
    accounting = False


class AccountingDown(FakeSlurm):
    def sacct(self, argv: list[str]) -> int:
        print("sacct: error: Problem talking to the database: Connection refused", file=sys.stderr)
        return 1


class Chatty(FakeSlurm):
    """A site whose plugin talks, on a cluster of several clusters."""

    def sbatch(self, argv: list[str]) -> int:
        print("Welcome to the cluster. 42 jobs are ahead of you.")
        print("sbatch: lua: job goes to the GPU partition", file=sys.stderr)
        print(f"{self.accept(argv)['id']};fake")
        return 0


class Refusing(FakeSlurm):
    """Says no, in the words of `refusal.json`: [code, stderr]."""

    def sbatch(self, argv: list[str]) -> int:
        code, words = json.loads((self.folder / "refusal.json").read_text())
        sys.stderr.write(words)
        return int(code)


class Foretelling(FakeSlurm):
    """Has the partitions of `forecasts.json`, and what `sbatch --test-only` says of each: [code, stderr]."""

    def forecasts(self) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = json.loads((self.folder / "forecasts.json").read_text())
        return found

    def sbatch(self, argv: list[str]) -> int:
        if "--test-only" not in argv:
            return super().sbatch(argv)
        code, words = self.forecasts()[option(argv, "--partition")]
        sys.stderr.write(words)
        return code

    def scontrol(self, argv: list[str]) -> int:
        if argv[:2] != ["show", "partition"]:
            return super().scontrol(argv)
        for name in self.forecasts():
            print(f"PartitionName={name} AllowAccounts=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP")
        return 0


class Down(FakeSlurm):
    """No controller, for as long as `up` says no."""

    def up(self) -> bool:
        return False

    def main(self, program: str, argv: list[str]) -> int:
        if self.up():
            return super().main(program, argv)
        with (self.folder / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps({"program": program, "argv": argv, "env": {}}) + "\n")
        if argv == ["ping"]:
            print("Slurmctld(primary) at fake is DOWN")
            return 1
        head = {"sbatch": "sbatch: error: Batch job submission failed: ", "scancel": "scancel: error: Kill job error: "}
        print(head.get(program, "slurm_load_jobs error: ") + DOWN, file=sys.stderr)
        return 8 if program == "scancel" else 1


class DownSlowly(Down):
    """As the real one: ping knows at once, every other command only after its time."""

    def main(self, program: str, argv: list[str]) -> int:
        if argv != ["ping"]:
            self.hang()
        return super().main(program, argv)


class DownAtFirst(Down):
    def up(self) -> bool:
        return self.again("up") >= 2


class DownBetween(Down):
    """The ping answers, sbatch already does not; then it is back."""

    def up(self) -> bool:
        return self.again("up") != 1


class SilentAccept(FakeSlurm):
    """Takes the job in and never answers."""

    def sbatch(self, argv: list[str]) -> int:
        self.accept(argv)
        return self.hang()


class SilentAcceptThenDown(SilentAccept):
    """Takes the job in, does not answer, and is away when it is asked."""

    def squeue(self, argv: list[str]) -> int:
        if self.again("squeue") < 2:
            print(f"slurm_load_jobs error: {DOWN}", file=sys.stderr)
            return 1
        return super().squeue(argv)


class Deaf(SilentAccept):
    """The first sbatch hangs and nothing arrives."""

    def sbatch(self, argv: list[str]) -> int:
        return FakeSlurm.sbatch(self, argv) if self.again("sbatch") else self.hang()


class TimedOut(FakeSlurm):
    """The first sbatch is told that the socket timed out, and the job was taken in, visible a moment later."""

    words = "Socket timed out on send/recv operation"
    taken_in = True

    def sbatch(self, argv: list[str]) -> int:
        if self.again("sbatch"):
            return super().sbatch(argv)
        if self.taken_in:
            job = self.accept(argv)
            with self.jobs() as jobs:
                next(each for each in jobs if each["id"] == job["id"])["visible"] = time.time() + 0.3
        print(f"sbatch: error: Batch job submission failed: {self.words}", file=sys.stderr)
        return 1


class ZeroBytes(TimedOut):
    words = "Zero Bytes were transmitted or received"


class TimedOutUnheard(TimedOut):
    taken_in = False


class TimedOutLate(TimedOut):
    """As TimedOut, and so busy that the first job comes in only just before the second one."""

    def sbatch(self, argv: list[str]) -> int:
        if (self.folder / "count.sbatch").exists():
            with self.jobs() as jobs:
                jobs[0]["visible"] = 0
            return super().sbatch(argv)
        code = super().sbatch(argv)
        with self.jobs() as jobs:
            jobs[0]["visible"] = time.time() + 3600
        return code


class TimedOutThenRefused(TimedOutLate):
    """The second is refused because the first, late, fills the limit of one job."""

    def accept(self, argv: list[str]) -> Job:
        with self.jobs() as jobs:
            full = bool(jobs)
        if full:
            print("sbatch: error: QOSMaxSubmitJobPerUserLimit", file=sys.stderr)
            print("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", file=sys.stderr)
            sys.exit(1)
        return super().accept(argv)


class Killed(FakeSlurm):
    """sbatch is killed after the job was taken in."""

    def sbatch(self, argv: list[str]) -> int:
        self.accept(argv)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


class QueueFull(FakeSlurm):
    """MaxJobCount: sbatch sleeps for a while and then gets through, longer than one command may last."""

    seconds = 1.5

    def sbatch(self, argv: list[str]) -> int:
        print(
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", file=sys.stderr, flush=True
        )
        time.sleep(self.seconds)  # as the real sbatch does between its tries
        return super().sbatch(argv)


class QueueFullForEver(QueueFull):
    seconds = 60.0


class FullForTheFourth(QueueFull):
    """There is room for three jobs, and after a while for the others."""

    def sbatch(self, argv: list[str]) -> int:
        return super().sbatch(argv) if self.again("sbatch") == 3 else FakeSlurm.sbatch(self, argv)


class SmallArrays(FakeSlurm):
    """Four tasks in an array at the most."""

    largest = 4

    def scontrol(self, argv: list[str]) -> int:
        if argv[:2] != ["show", "config"]:
            return super().scontrol(argv)
        print(f"ClusterName             = fake\nMaxArraySize            = {self.largest}")
        return 0


class NoArrays(SmallArrays):
    largest = 0


class HangsWithTheThird(SmallArrays, SilentAccept):
    """The third job is taken in, and sbatch does not say so."""

    def sbatch(self, argv: list[str]) -> int:
        return FakeSlurm.sbatch(self, argv) if self.again("sbatch") < 2 else super().sbatch(argv)


class HangsWithTheSecond(SmallArrays, SilentAccept):
    """The second job is taken in, and sbatch does not say so; later ones are well."""

    def sbatch(self, argv: list[str]) -> int:
        return super().sbatch(argv) if self.again("sbatch") == 1 else FakeSlurm.sbatch(self, argv)


class Slow(FakeSlurm):
    """Every answer takes its time."""

    def main(self, program: str, argv: list[str]) -> int:
        time.sleep(0.2)
        return super().main(program, argv)


class SlowQueue(FakeSlurm):
    """squeue takes longer than one is used to."""

    def main(self, program: str, argv: list[str]) -> int:
        if program == "squeue":
            time.sleep(1.5)
        return super().main(program, argv)


class Hanging(FakeSlurm):
    """squeue never answers, and has a child that holds its streams open."""

    def squeue(self, argv: list[str]) -> int:
        os.fork()
        return self.hang()  # both


class NotYours(FakeSlurm):
    def scancel(self, argv: list[str]) -> int:
        print("scancel: error: Kill job error on job id 7: Access/permission denied", file=sys.stderr)
        return 1


class Unconfigured(FakeSlurm):
    """The commands are installed on a machine outside the cluster."""

    def main(self, program: str, argv: list[str]) -> int:
        print(f"{program}: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host", file=sys.stderr)
        print(f"{program}: fatal: Could not establish a configuration source", file=sys.stderr)
        return 1


def option(argv: list[str], name: str) -> str:
    """The value of the last `--name=value`, empty without."""
    found = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return found[-1] if found else ""


def moment(seconds: float | None) -> str:
    """As Slurm prints times: in the asker's time zone and format."""
    form = os.environ.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S")
    return "N/A" if seconds is None else time.strftime(form, time.localtime(seconds))


class Installed:
    """The handle that a test holds: what was asked, and what the jobs do next."""

    def __init__(self, folder: Path, kind: type[FakeSlurm]) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self._slurm = FakeSlurm(folder)
        here = str(Path(__file__).parent)
        for program in PROGRAMS:
            path = self.bin / program
            path.write_text(
                f"#!{sys.executable} -IS\nimport sys\nfrom pathlib import Path\nsys.path.insert(0, {here!r})\n"
                f"from {Path(__file__).stem} import {kind.__name__} as Kind\n"
                f"sys.exit(Kind(Path({str(folder)!r})).main({program!r}, sys.argv[1:]))\n"
            )
            path.chmod(0o755)

    def calls(self, program: str = "") -> list[dict[str, Any]]:
        """What was asked of this program, or of all, in order."""
        path = self.folder / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in found if not program or call["program"] == program]

    def jobs(self) -> list[Job]:
        """All jobs that were ever taken in."""
        with self._slurm.jobs() as jobs:
            return jobs

    def move(self, job: str, **changes: Any) -> None:
        """Changes what is known of a job, such as state="RUNNING", nodes="n1"."""
        with self._slurm.jobs() as jobs:
            next(each for each in jobs if each["id"] == job).update(changes)

    def refuse(self, code: int, words: str) -> None:
        """What `Refusing` says."""
        (self.folder / "refusal.json").write_text(json.dumps([code, words]))


def install(folder: Path, kind: type[FakeSlurm] = FakeSlurm) -> Installed:
    """Writes the programs of this kind of cluster below `folder`; `.bin` belongs first on PATH."""
    assert re.fullmatch(r"\S{1,200}", str(Path(sys.executable))), "a shebang line cannot name this interpreter"
    return Installed(folder, kind)
