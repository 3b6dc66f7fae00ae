"""Watches one node of a job and writes down what the job uses there, one line of JSON for each sample.

    python3 -IS monitor.py every=15 gpus=8 cpus=112 mem=500G

`every` is in seconds; the others are what was asked for this node, left out where nothing was. The lines go to
`attempts/NNN/usage/NODE.jsonl` in the run directory:

    {"v":1,"t":…,"host":"node7","every":15,"gpus":8,"cpus":112,"mem":512000,"asked":true}    first, and after a restart
    {"t":…,"devices":[[0,"GPU-6f…","NVIDIA H100 80GB HBM3",81559]]}    index, UUID, name, MiB; when they are first seen
    {"t":…,"given":{"trainer.0":["0","1"]}}    CUDA_VISIBLE_DEVICES of each replica; when it changes
    {"t":…,"note":"nvidia-smi is not installed"}
    {"t":…,"job":[3.1,9120],"r":{"trainer.0":[2.9,8800,1.2,0.0]},"g":[[97,41,60211,64,655.2]]}

`job`: CPUs busy and MiB used by all of the job, where Slurm keeps a cgroup for it. `r`: for each replica CPUs busy, MiB
of its processes (memory that several of them share counted in each), MB/s read and written. `g`: for each GPU percent
of the time that a kernel ran, percent that its memory was read or written, MiB used, degrees Celsius, watts; null
where the driver does not say. Memory is in MiB, all else in the units above.

Never ends with an error, as nothing that it meets is a reason to end a job. TERM ends it at once: every sample is on
its way to disk when it has been taken.
"""

import json
import os
import re
import select
import signal
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "utilization.gpu",
    "utilization.memory",
    "memory.used",
    "temperature.gpu",
    "power.draw",
)
PATIENCE = 60.0
"""Seconds without a line after which nvidia-smi counts as hung, at the least."""
LONGEST_PAUSE = 600.0
"""Seconds between tries to start it, at the most."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class Processes:
    """The processes of this job on this node, replica by replica."""

    def __init__(self, token: str, own: str, proc: str = "/proc") -> None:
        self.token, self.own, self.proc = token.encode(), own, proc
        self.known: Dict[int, Tuple[str, str]] = {}
        self.given: Dict[str, List[str]] = {}
        self.before: Dict[str, List[float]] = {}
        self.when = 0.0

    def sample(self, now: float) -> Dict[str, List[float]]:
        """For each replica CPUs busy, MiB, and MB/s read and written since the last call; nothing at the first."""
        totals = self._totals()
        span = now - self.when if self.when else 0.0
        rows = {}
        for name, (seconds, size, read, written) in totals.items() if span else ():
            cpu, before_read, before_written = self.before.get(name, [0.0, 0.0, 0.0])
            # A process that ends takes its counts along unless its parent collects them: never less than nothing.
            busy, reads, writes = (
                max(now_ - then, 0.0) / span
                for now_, then in ((seconds, cpu), (read, before_read), (written, before_written))
            )
            rows[name] = [round(busy, 2), round(size / _MIB), round(reads / 1e6, 1), round(writes / 1e6, 1)]
        self.before = {name: [row[0], row[2], row[3]] for name, row in totals.items()}
        self.when = now
        return rows

    def _totals(self) -> Dict[str, List[float]]:
        """For each replica CPU seconds, bytes of memory, and bytes read and written by those that live now."""
        parents: Dict[int, int] = {}
        counts: Dict[int, List[float]] = {}
        found: Dict[int, Tuple[str, str]] = {}
        for pid in self._mine():
            try:
                fields = _read(self.proc, pid, "stat").rpartition(b")")[2].split()
                started = fields[19].decode()
                parents[pid] = int(fields[1])
                counts[pid] = [sum(map(int, fields[11:15])) / _TICKS]
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
            if self.known.get(pid, ("", ""))[0] == started:
                found[pid] = self.known[pid]
            else:
                name = self._replica(pid)
                if name:
                    found[pid] = started, name
        self.known = found
        totals: Dict[str, List[float]] = {}
        for pid, count in counts.items():
            name = _of_ancestor(pid, parents, found)
            if not name or name == self.own:
                continue
            total = totals.setdefault(name, [0.0, 0.0, 0.0, 0.0])
            for place, value in enumerate((*count, *self._memory_and_disk(pid))):
                total[place] += value
        return totals

    def _mine(self) -> Iterator[int]:
        user = os.geteuid()
        with os.scandir(self.proc) as entries:
            for entry in entries:
                if entry.name.isdigit():
                    try:
                        if user == 0 or entry.stat().st_uid == user:
                            yield int(entry.name)
                    except OSError:
                        continue

    def _replica(self, pid: int) -> str:
        """The replica by the process's environment, and by the way which GPUs it was given."""
        try:
            environment = _read(self.proc, pid, "environ").split(b"\0")
        except OSError:
            return ""
        token = next((word[13:] for word in environment if word.startswith(b"GANGRUN_TASK=" + self.token)), b"")
        name = token[len(self.token) :].partition(b"/")[0].decode("utf-8", "replace")
        given = next((word[21:] for word in environment if word.startswith(b"CUDA_VISIBLE_DEVICES=")), b"")
        if name and name != self.own:
            devices = self.given.setdefault(name, [])
            devices += [one for one in given.decode("utf-8", "replace").split(",") if one and one not in devices]
        return name

    def _memory_and_disk(self, pid: int) -> Tuple[float, float, float]:
        size = read = written = 0.0
        try:
            # Resident without what it shares with files: program text would count once for every process.
            _, resident, shared = _read(self.proc, pid, "statm").split()[:3]
            size = float((int(resident) - int(shared)) * _PAGE)
            for line in _read(self.proc, pid, "io").splitlines():
                key, _, value = line.partition(b": ")
                read += int(value) if key == b"read_bytes" else 0
                written += int(value) if key == b"write_bytes" else 0
        except (OSError, ValueError):
            pass  # it has just ended, or it changed its user and closed these files to us
        return size, read, written


def _read(proc: str, pid: int, name: str) -> bytes:
    with open(f"{proc}/{pid}/{name}", "rb", buffering=0) as file:
        return file.read()


def _of_ancestor(pid: int, parents: Dict[int, int], found: Dict[int, Tuple[str, str]]) -> str:
    """The replica of a process or else of its nearest ancestor: some programs write their title over what is read."""
    for _ in range(64):
        if pid in found:
            return found[pid][1]
        if pid not in parents:
            return ""
        pid = parents[pid]
    return ""


class JobGroup:
    """The job's cgroup on this node, version 1 or 2; nothing where Slurm keeps none."""

    def __init__(self, text: str, root: str = "/sys/fs/cgroup") -> None:
        self.memory = self.cpu = ""
        self.unified = False
        for line in text.splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            job = re.match(r".*/job_[0-9]+(?=/|$)", path)
            if job and not controllers:
                self.unified, self.memory, self.cpu = True, root + job[0], root + job[0]
            elif job and "memory" in controllers.split(","):
                self.memory = root + "/memory" + job[0]
            elif job and "cpuacct" in controllers.split(","):
                self.cpu = root + "/cpuacct" + job[0]
        self.before = self.when = 0.0

    def limit(self) -> Optional[int]:
        """MiB that the job may use here, or None."""
        text = _text(f"{self.memory}/{'memory.max' if self.unified else 'memory.limit_in_bytes'}")
        return int(text) // _MIB if text.strip().isdigit() and int(text) < 1 << 60 else None

    def sample(self, now: float) -> Optional[List[float]]:
        """CPUs busy since the last call and MiB that cannot be given back (no page cache), or None."""
        values = _values(self.memory + "/memory.stat")
        names = ("anon", "shmem") if self.unified else ("total_rss", "total_shmem")
        size = sum(values.get(name, 0) for name in names)
        if self.unified:
            seconds = _values(self.cpu + "/cpu.stat").get("usage_usec", 0) / 1e6
        else:
            seconds = int(_text(self.cpu + "/cpuacct.usage").strip() or 0) / 1e9
        busy, span = seconds - self.before, now - self.when if self.when else 0.0
        self.before, self.when = seconds, now
        return [round(max(busy, 0.0) / span, 2), round(size / _MIB)] if size and span else None


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def _values(path: str) -> Dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class Gpus:
    """What nvidia-smi says of the GPUs: one that goes on, since each start of it costs a tenth of a second of CPU."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.fields = list(FIELDS)
        self.file = self.pid = -1
        self.rest = b""
        self.words = ""
        self.columns: List[str] = []
        self.rows: Dict[str, Dict[str, str]] = {}
        self.fresh = False
        self.heard = self.next_try = 0.0
        self.pause = PATIENCE
        self.notes: List[str] = []
        self.said: Set[str] = set()

    def start(self, now: float) -> None:
        """Starts it if it does not run and it is time to."""
        if self.file >= 0 or now < self.next_try:
            return
        query = "--query-gpu=" + ",".join(self.fields)
        seconds = str(max(round(self.every), 1))
        try:
            # On a terminal of its own: it writes line by line, and when this program dies it is hung up.
            self.pid, self.file = os.forkpty()
        except OSError as error:
            self._again(now, f"nvidia-smi cannot be started: {error.strerror}")
            return
        if self.pid == 0:
            try:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                os.execvp("nvidia-smi", ["nvidia-smi", query, "--format=csv,nounits", "-l", seconds])
            except OSError:
                os._exit(127)
        self.heard, self.rest, self.words, self.columns = now, b"", "", []

    def take(self, now: float) -> None:
        """Reads what has come. Ends one that ended or that is silent for too long."""
        if self.file < 0:
            return
        try:
            data = os.read(self.file, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the other end was closed
        if not data:
            self._ended(now)
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace").strip(), now)

    def check(self, now: float) -> None:
        """Gives up one that is silent for too long."""
        if self.file >= 0 and now - self.heard > max(PATIENCE, 4 * self.every):
            self._stop()
            self._again(now, "nvidia-smi does not answer")

    def sample(self) -> Optional[Dict[str, Dict[str, str]]]:
        """The rows by index if there are new ones."""
        fresh, self.fresh = self.fresh, False
        return self.rows if fresh else None

    def _line(self, line: str, now: float) -> None:
        cells = [cell.strip() for cell in line.split(",")]
        names = [cell.partition(" [")[0] for cell in cells]
        if "index" in names:
            self.columns = names
        elif self.columns and len(cells) == len(self.columns):
            row = dict(zip(self.columns, cells))
            self.rows[row["index"]] = row
            self.heard, self.fresh, self.pause = now, True, PATIENCE
        elif line:
            self.words = line

    def _ended(self, now: float) -> None:
        code = self._stop()
        if code == 127:
            self._again(now, "nvidia-smi is not installed")
            self.next_try = float("inf")
            return
        unknown = re.search(r'Field "([^"]+)" is not a valid', self.words)
        if unknown and unknown.group(1) in self.fields[1:]:
            self.fields.remove(unknown.group(1))  # of another age than this list
            return
        self._again(now, f"nvidia-smi ended with {code}: {self.words}")

    def _stop(self) -> int:
        """Ends it and returns its exit code; 0 of one that even a kill does not end, as in a driver that hangs."""
        os.close(self.file)
        self.file = -1
        for tries in range(20):
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            if tries == 10:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return 0

    def _again(self, now: float, why: str) -> None:
        """Tries later, with growing pauses; says each reason once."""
        if why not in self.said:
            self.said.add(why)
            self.notes.append(why)
        self.rows = {}
        self.next_try = now + self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)


class Writer:
    """Appends lines to the node's file, which is opened each time: closing makes a network file system send them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.torn = False
        self.lost = 0
        self.why = ""

    def write(self, **line: Any) -> None:
        """Writes a line. What cannot be written is gone, and told of as soon as writing works again."""
        if self.lost and not self._append({"t": line["t"], "note": f"{self.lost} lines lost: {self.why}"}):
            self.lost += 1
            return
        self.lost = 0 if self._append(line) else 1

    def _append(self, line: Dict[str, Any]) -> bool:
        text = json.dumps(line, separators=(",", ":"))
        data = ("\n" if self.torn else "") + text + "\n"
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                self.torn = True
                self.torn = file.write(data.encode()) < len(data)
        except OSError as error:
            self.why = error.strerror or str(error)
            return False
        return not self.torn


def number(row: Dict[str, str], name: str) -> Optional[float]:
    """The number in a column, None where the driver has none: `[N/A]`, `[Not Supported]`."""
    try:
        value = float(row.get(name, "").split()[0])
    except (IndexError, ValueError):
        return None
    return round(value, 1) if value % 1 else int(value)


def ours(rows: Dict[str, Dict[str, str]], asked: int, held: List[str]) -> List[Dict[str, str]]:
    """The rows of this job's GPUs: all if there are no more than asked for, else those that it holds or was given."""
    everyone = [rows[index] for index in sorted(rows, key=lambda text: (len(text), text))]
    if len(everyone) <= asked:
        return everyone
    return [
        row
        for row in everyone
        if any(one == row["index"] or (len(one) > 4 and row.get("uuid", "").startswith(one)) for one in held)
    ]


def cpus_here(environment: Dict[str, str], node: int) -> Optional[int]:
    """CPUs of the job on its `node`-th node from Slurm's `32(x3),16`, or None."""
    counts: List[int] = []
    for cpus, times in re.findall(r"([0-9]+)(?:\(x([0-9]+)\))?", environment.get("SLURM_JOB_CPUS_PER_NODE", "")):
        counts += [int(cpus)] * int(times or 1)
    return counts[node] if node < len(counts) else None


def mebibytes(text: str) -> int:
    """`500G` in MiB, as Slurm counts; a number alone is megabytes."""
    unit = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}.get(text[-1])
    return int(text) if unit is None else round(int(text[:-1]) * unit)


def main(words: List[str]) -> None:
    """Samples until it is told to stop."""
    # At once, with whatever is left of it to the kernel: nothing here waits to be written.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    options = dict(word.split("=", 1) for word in words)
    env = dict(os.environ)
    node, every, asked = env["GANGRUN_NODE_RANK"], float(options["every"]), int(options.get("gpus", 0))
    attempt = f"{env['GANGRUN_RUN_DIR']}/attempts/{env['GANGRUN_ATTEMPT']}"
    writer = Writer(f"{attempt}/usage/{node}.jsonl")
    token = f"{env['GANGRUN_RUN_NAME']}/{env['GANGRUN_JOB']}/{env['GANGRUN_ATTEMPT']}/"
    processes = Processes(token, env["GANGRUN_REPLICA"])
    group = JobGroup(_text("/proc/self/cgroup"))
    gpus = Gpus(every)
    limit = group.limit() or (mebibytes(options["mem"]) if "mem" in options else None)
    writer.write(
        v=1,
        t=round(time.time(), 1),
        host=env.get("SLURMD_NODENAME") or os.uname().nodename,
        every=every,
        gpus=asked,
        cpus=cpus_here(env, int(node)) or int(options.get("cpus", 0)) or os.cpu_count(),
        mem=limit or os.sysconf("SC_PHYS_PAGES") * _PAGE // _MIB,
        asked=limit is not None,
    )
    devices: List[List[Any]] = []
    told = ""
    pause = min(0.25, every)
    tick = time.monotonic() + pause
    processes.sample(time.monotonic())
    group.sample(time.monotonic())
    while True:
        if asked:
            gpus.start(time.monotonic())
        left = max(tick - time.monotonic(), 0)
        ready, _, _ = select.select([gpus.file] if gpus.file >= 0 else [], [], [], left)
        if ready:
            gpus.take(time.monotonic())
        now, stamp = time.monotonic(), round(time.time(), 1)
        gpus.check(now)
        for note in gpus.notes:
            writer.write(t=stamp, note=note)
        gpus.notes.clear()
        if now < tick:
            continue
        # Close together at first, so that a short job has its samples, too.
        pause = min(pause * 2, every)
        tick = now + pause
        line: Dict[str, Any] = {"t": stamp, "r": processes.sample(now)}
        whole = group.sample(now)
        if whole:
            line["job"] = whole
        given = json.dumps(processes.given, sort_keys=True)
        if given != told and processes.given:
            writer.write(t=stamp, given=processes.given)
            told = given
        rows = gpus.sample()
        if rows:
            # Slurm says which, by their numbers on the node; elsewhere one can only look at what is used.
            held = env.get("SLURM_STEP_GPUS", "").split(",")
            mine = ours(rows, asked, held if held[0] else [one for each in processes.given.values() for one in each])
            seen = [[row["index"], row.get("uuid"), row.get("name"), number(row, "memory.total")] for row in mine]
            if seen != devices:
                writer.write(t=stamp, devices=seen)
                devices = seen
            line["g"] = [[number(row, name) for name in FIELDS[4:]] for row in mine]
        writer.write(**line)


if __name__ == "__main__":
    main(sys.argv[1:])
