"""A stand-in nvidia-smi for the lab's nodes, whose GPUs are none: it goes by the processes that hold them.

A process holds the GPUs that its CUDA_VISIBLE_DEVICES lists. Those are as busy as it keeps CPUs, and as full as its
memory is large. Knows what monitors ask for: `-L`, `--query-gpu=… --format=csv[,noheader][,nounits] [-l SECONDS]`, and
`dmon` with `--select pumt`. Runs by itself from a copy, so it imports nothing of gangrun.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

NAME, MEMORY, WINDOW = "Stand-in H100 80GB", 81559, 0.2
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def holders() -> dict[int, tuple[list[str], float, float]]:
    """Of each process that holds GPUs, which, the CPU seconds that it has used, and its memory in MiB."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            listed = next((word[21:] for word in environment if word.startswith(b"CUDA_VISIBLE_DEVICES=")), b"")
            if devices := [one for one in listed.decode().split(",") if one]:
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                pages = (folder / "statm").read_bytes().split()
                cpu = (int(fields[11]) + int(fields[12])) / _TICKS
                found[int(folder.name)] = devices, cpu, (int(pages[1]) - int(pages[2])) * _PAGE / (1 << 20)
    return found


def measure(count: int) -> list[dict[str, str]]:
    """The fields of every GPU, over a short while."""
    before, began = holders(), time.monotonic()
    time.sleep(WINDOW)
    after, span = holders(), time.monotonic() - began
    busy, used = [0.0] * count, [0.0] * count
    for pid, (devices, cpu, memory) in after.items():
        for device in devices:
            if device.isdigit() and int(device) < count:
                busy[int(device)] += (cpu - before.get(pid, (devices, cpu, 0.0))[1]) / span / len(devices)
                used[int(device)] += memory / len(devices)
    return [_fields(index, min(busy[index], 1.0), min(used[index], MEMORY)) for index in range(count)]


def _fields(index: int, busy: float, used: float) -> dict[str, str]:
    return {
        "index": str(index),
        "uuid": uuid(index),
        "name": NAME,
        "memory.total": f"{MEMORY} MiB",
        "memory.used": f"{used:.0f} MiB",
        "utilization.gpu": f"{100 * busy:.0f} %",
        "utilization.memory": f"{40 * busy:.0f} %",
        "temperature.gpu": f"{30 + 40 * busy:.0f}",
        "power.draw": f"{70 + 580 * busy:.2f} W",
    }


def uuid(index: int) -> str:
    """The same at every call, and different on every host."""
    host = sum(ord(letter) << 8 * place for place, letter in enumerate(reversed(os.uname().nodename[-6:])))
    return f"GPU-{index:08x}-0000-0000-0000-{host:012x}"


_UNITS = {
    "memory.total": "MiB",
    "memory.used": "MiB",
    "utilization.gpu": "%",
    "utilization.memory": "%",
    "power.draw": "W",
}


def query(names: list[str], form: str, every: float | None, count: int) -> int:
    """`--query-gpu`."""
    for name in names:
        if name not in _fields(0, 0, 0):
            print(f'Field "{name}" is not a valid field to query.\n')
            return 2
    bare = "nounits" in form
    if "noheader" not in form:
        print(", ".join(f"{name} [{_UNITS[name]}]" if name in _UNITS else name for name in names), flush=True)
    while True:
        for row in measure(count):
            print(", ".join(row[name].split(" ")[0] if bare and name in _UNITS else row[name] for name in names))
        sys.stdout.flush()
        if every is None:
            return 0
        time.sleep(max(every - WINDOW, 0.1))


def dmon(every: float, file: TextIO, count: int) -> int:
    """`dmon --select pumt --options DT`: two lines of head again and again, `-` for what there is none of."""
    columns = ["Date", "Time", "gpu", "pwr", "gtemp", "mtemp", "sm", "mem", "enc", "dec", "fb", "bar1", "rxpci"]
    units = ["YYYYMMDD", "HH:MM:SS", "Idx", "W", "C", "C", "%", "%", "%", "%", "MB", "MB", "MB/s"]
    samples = 0
    while True:
        if samples % 10 == 0:
            for marks in (columns, units):
                print("#" + " ".join(mark.rjust(5) for mark in marks).lstrip(), file=file)
        samples += 1
        for row in measure(count):
            number = {name: value.split(" ")[0].partition(".")[0] for name, value in row.items()}
            values = [number["index"], number["power.draw"], number["temperature.gpu"], "-", number["utilization.gpu"]]
            values += [number["utilization.memory"], "0", "0", number["memory.used"], "1", "-"]
            print(time.strftime(" %Y%m%d %H:%M:%S ") + " ".join(value.rjust(5) for value in values), file=file)
        file.flush()
        time.sleep(max(every - WINDOW, 0.1))


def main(words: list[str], count: int) -> int:
    """The exit code. A word that it does not know is refused, as by the real one."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(prog="nvidia-smi", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=["dmon"])
    parser.add_argument("-L", "--list-gpus", action="store_true")
    parser.add_argument("--query-gpu", default="")
    parser.add_argument("--format", default="csv")
    parser.add_argument("-l", "--loop", type=float)
    parser.add_argument("-d", "--delay", type=float, default=1.0)
    parser.add_argument("-s", "--select", default="pumt")
    parser.add_argument("-o", "--options", default="DT")
    parser.add_argument("-f", "--filename", default="/dev/stdout")
    args = parser.parse_args(words)
    if args.verb == "dmon":
        with Path(args.filename).open("a") as file:
            return dmon(args.delay, file, count)
    if args.query_gpu:
        return query(args.query_gpu.split(","), args.format, args.loop, count)
    for row in range(count):
        print(f"GPU {row}: {NAME} (UUID: {uuid(row)})")
    return 0
