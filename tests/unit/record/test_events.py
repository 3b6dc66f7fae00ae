from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gangrun.errors import RecordError
from gangrun.record.events import (
    CancelRequested,
    Created,
    Event,
    Found,
    GaveUp,
    NeverSent,
    Note,
    Observed,
    Rejected,
    Submitted,
    Submitting,
    Unknown,
    append,
    decode,
    decode_all,
    encode,
    process_start,
)
from gangrun.record.facts import Failure

EACH = [
    Created(
        gangrun="0.1.0",
        file="a b.toml",
        argv=("x", "é\n'\"", "\udcff"),
        cluster="c",
        commit="a" * 40,
        dirty=True,
        t=1.5,
    ),
    Submitting(2, "name", "host", 123, 456, t=2.0),
    Submitted("77", "c", t=3.0),
    Rejected("Invalid account or account/partition combination specified", t=3.0),
    GaveUp("no answer", t=3.0),
    NeverSent(t=3.0),
    Found("77_3", t=3.0),
    CancelRequested("77", "h", "u", t=4.0),
    Observed("77", "FAILED", 7, "NonZeroExitCode", "n[0-1]", 5.0, 6.0, 1, "main", Failure("a.0", 7, 3, "n1"), t=7.0),
    Note("text", t=8.0),
]


@pytest.mark.parametrize("event", EACH, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    line = encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["v"] == 1
    assert decode(line) == event


def test_reading_stops_at_no_cut(tmp_path: Path) -> None:
    """Wherever a crash cuts the file, the whole lines are read, and what is appended next is too."""
    path = tmp_path / "events.jsonl"
    first, second, third = encode(EACH[0]), encode(EACH[1]), Note("after")
    for cut in range(len(first), len(first + second) + 1):
        path.write_bytes((first + second)[:cut])
        whole = cut >= len(first + second) - 1  # all but the line's end is there
        kept = [EACH[0], EACH[1]] if whole else [EACH[0]]
        assert decode_all(path.read_bytes()) == kept
        append(str(path), third)
        assert decode_all(path.read_bytes()) == [*kept, third]


def test_a_tail_of_zeros_is_skipped(tmp_path: Path) -> None:
    """ext4 and XFS leave zeros where a power cut took the data but not the length."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(encode(EACH[0]) + b"\0" * 300)
    append(str(path), EACH[2])
    assert decode_all(path.read_bytes()) == [EACH[0], EACH[2]]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"v":1,"type":"Note"}',
        b'{"v":1,"t":"x","type":"Note","text":"a"}',
        b'{"v":"1","t":1,"type":"Note","text":"a"}',
        b'{"v":1,"t":1' + b"0" * 400 + b',"type":"Note","text":"a"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_skipped(line: bytes) -> None:
    assert decode(line) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":2,"t":1,"type":"Note","text":"a"}',
        b'{"v":1,"t":1,"type":"Teleported","to":"mars"}',
        b'{"v":1,"t":1,"type":"Submitted","job":77}',
        b'{"v":1,"t":1,"type":"Submitted"}',
        b'{"v":1,"t":1,"type":"Observed","job":"7","state":"FAILED","failed":{"x":1}}',
    ],
)
def test_an_event_of_another_version_is_kept(line: bytes) -> None:
    event = decode(line)
    assert isinstance(event, Unknown)
    assert json.loads(encode(event)) == json.loads(line)


def test_fields_of_a_later_release_do_not_harm() -> None:
    assert decode(b'{"v":1,"t":1,"type":"Note","text":"a","new":[1]}') == Note("a", t=1.0)


def _append_many(path: str, who: int) -> None:
    for number in range(200):
        append(path, Note(f"{who} {number} " + "x" * 300))


def test_processes_of_one_machine_do_not_mix_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "events.jsonl")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    texts = [event.text.split()[:2] for event in decode_all(Path(path).read_bytes()) if isinstance(event, Note)]
    assert sorted(texts) == sorted([str(who), str(number)] for who in range(3) for number in range(200))


def test_a_killed_writer_leaves_whole_events(tmp_path: Path) -> None:
    program = (
        "import sys; from gangrun.record.events import Note, append\n"
        "n = int(sys.argv[2])\n"
        "while True:\n"
        "    append(sys.argv[1], Note(f'{n} ' + 'x' * 5000)); n += 1\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "events.jsonl"
    dice = random.Random(4)
    expected = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(expected)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(dice.randrange(1, 30)):
                expected = int(child.stdout.readline())
            time.sleep(dice.random() * 0.003)
            child.send_signal(signal.SIGKILL)
            later = child.stdout.read().split()
        expected = int(later[-1]) if later else expected
        numbers = [int(event.text.split()[0]) for event in decode_all(path.read_bytes()) if isinstance(event, Note)]
        # What was confirmed is there; one more may be.
        assert numbers[:expected] == list(range(expected))
        assert len(numbers) - expected in {0, 1}
        expected = len(numbers)


def test_a_full_disk_is_said_in_words() -> None:
    with pytest.raises(RecordError) as caught:
        append("/dev/full", EACH[2])
    assert "cannot record Submitted" in str(caught.value)
    assert "the disk is full (ENOSPC" in str(caught.value)


def test_a_full_disk_leaves_the_earlier_events(small_disk: Path) -> None:
    path = small_disk / "events.jsonl"
    written = 0

    def fill() -> None:
        nonlocal written
        while True:
            append(str(path), Note(f"{written} " + "x" * 1000))
            written += 1

    with pytest.raises(RecordError, match="disk is full"):
        fill()
    assert written > 20
    assert len(decode_all(path.read_bytes())) == written
    ballast = path.read_bytes()
    path.write_bytes(ballast[: len(ballast) // 2])  # room again, and a line cut in the middle
    append(str(path), EACH[2])
    assert decode_all(path.read_bytes())[-1] == EACH[2]


def test_a_deleted_run_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="the directory is gone"):
        append(str(tmp_path / "no" / "events.jsonl"), EACH[0])


def test_a_process_is_told_by_its_start() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        started = process_start(child.pid)
        assert started is not None
        assert process_start(os.getpid()) is not None
        assert started >= (process_start(os.getpid()) or 0)
        child.kill()
        child.wait()
        assert process_start(child.pid) is None
    event = Submitting.here(1, "n")
    assert (event.pid, event.pid_started) == (os.getpid(), process_start(os.getpid()))


def test_a_zombie_is_no_process() -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 20
    while process_start(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert Path(f"/proc/{child.pid}").exists()
    child.wait()
