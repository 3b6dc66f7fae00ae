"""Following runs while they go on: what they print, and on a terminal one live line for each replica below it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from gangrun.record import items, pools
from gangrun.record.facts import AttemptFacts
from gangrun.record.rundir import RunDir
from gangrun.record.state import Progress, RunState, State
from gangrun.scheduler import reasons
from gangrun.views.logs import Merged, painter
from gangrun.views.runs import clock, last_lines, progress_line, replica_state

if TYPE_CHECKING:
    from rich.text import Text

LOOK = 0.1
"""Seconds between looks at the logs."""
FIRST, LONGEST, GROWTH = 1.0, 30.0, 1.5
"""Seconds between questions to the scheduler: the first pause, the longest, and how pauses grow."""
RESTS = 9.0
"""How much longer a table that is drawn anew rests than drawing it takes."""
SAID_EVERY = 10.0
"""Seconds between two words on the progress of a sweep where there is no terminal."""
MOST_ROWS = 16
"""Live lines shown at the most."""


def follow_process(
    run: RunDir,
    process: subprocess.Popen[bytes],
    *,
    quiet: bool,
    stopping: Callable[[], None],
    killing: Callable[[], None],
) -> int:
    """Follows a run started here to its end and returns its exit code.

    Signals are passed on to its script; `stopping` is called before the first is, `killing` after a second Ctrl-C has
    killed the script.
    """
    known = items.read(run)
    counted = (lambda: pools.progress(run, len(known))) if known else None
    with _passing_on(process, stopping, killing), _screen(run, quiet=quiet, counted=counted) as show:
        while process.poll() is None:
            show(final=False)
            time.sleep(LOOK)
        show(final=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def follow_runs(
    runs: Sequence[RunDir], states: Callable[[], Sequence[RunState]], *, role: str = "", quiet: bool = False
) -> None:
    """Follows queued runs until all have ended: the logs of a single one, else changes of state.

    Asks the scheduler once for all runs, at growing intervals, and at once when the runs' own files say that they
    ended. Interrupting it ends the watching, not the runs.
    """
    single = len(runs) == 1 and not quiet
    known: dict[str, str] = {}
    lost: set[str] = set()
    now = list(states())

    def counted() -> Progress | None:
        progress = now[0].progress
        return pools.progress(runs[0], progress.items) if progress and now[0].mode == "pool" else progress

    with _screen(runs[0], role=role, quiet=not single, counted=counted if now and now[0].mode else None) as show:
        pause, asked = FIRST, -LONGEST
        while True:
            if not quiet:
                _tell(now, known)
            # A scheduler may fail to list a job once, so LOST counts only when it is said twice.
            if all(state.final and (state.state != State.LOST or state.run in lost) for state in now):
                break
            lost = {state.run for state in now if state.state == State.LOST}
            asked = time.monotonic()
            while time.monotonic() - asked < pause:
                show(final=False)
                time.sleep(LOOK)
                if time.monotonic() - asked > FIRST and _all_ended(runs, now):
                    break
            pause = min(pause * GROWTH, LONGEST)
            now = list(states())
        show(final=True)


def follow_use(run: RunDir, state: Callable[[], RunState]) -> None:
    """Shows what a run uses until it ends: on a terminal in place, elsewhere once at the end."""
    from rich.live import Live
    from rich.text import Text

    from gangrun.views import gpus
    from gangrun.views.terminal import console

    def table() -> Text:
        return Text("\n".join(gpus.lines(run, gpus.latest(run))), no_wrap=True, overflow="crop")

    screen = console()
    with Live(console=screen, transient=True, auto_refresh=False) as live:
        pause, now = FIRST, state()
        while not now.final:
            asked = time.monotonic()
            while time.monotonic() - asked < pause and not _all_ended([run], [now]):
                began = time.monotonic()
                if screen.is_terminal:
                    live.update(table(), refresh=True)
                # A day of 32 nodes takes seconds on all cores: a login machine has others to serve.
                time.sleep(max(FIRST, RESTS * (time.monotonic() - began)))
            pause = min(pause * GROWTH, LONGEST)
            now = state()
    print("\n".join(gpus.lines(run, gpus.latest(run))))


def _all_ended(runs: Sequence[RunDir], states: Sequence[RunState]) -> bool:
    """Whether every run that is not known to have ended has written its exit code."""
    alive = [run for run, state in zip(runs, states, strict=True) if not state.final]
    facts = (run.facts(replicas=False) for run in alive)  # to the first that has not, as this is asked at every look
    return all(one is not None and one.exit is not None for one in facts)


def _tell(states: Sequence[RunState], known: dict[str, str]) -> None:
    for state in states:
        words = state.state
        if state.state == State.PENDING and state.reason:
            words += f": {reasons.pending(state.reason).words}"
        if known.get(state.run) != words:
            known[state.run] = words
            print(f"gangrun: {state.run} {words}", file=sys.stderr, flush=True)


@contextmanager
def _passing_on(
    process: subprocess.Popen[bytes], stopping: Callable[[], None], killing: Callable[[], None]
) -> Iterator[None]:
    """Ctrl-C and friends go to the script, which stops what it started. A second Ctrl-C kills it; processes that it
    started here notice that within seconds and end, and `killing` ends the steps of a held allocation."""
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process.poll() is not None:
            return
        if len(received) == 1:
            stopping()
        again = received.count(signal.SIGINT) > 1
        # Not by print, which refuses when the second one comes while the first is being written.
        os.write(2, b"gangrun: killing\n" if again else b"gangrun: stopping, Ctrl-C again kills\n")
        process.send_signal(signal.SIGKILL if again else number)
        if again:
            killing()

    # What is ignored, as in the background of a script or under nohup, stays so: bash cannot trap it, and 5.2 turns in
    # circles when it waits and gets one nevertheless.
    caught = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _screen(
    run: RunDir, *, role: str = "", quiet: bool, counted: Callable[[], Progress | None] | None = None
) -> Iterator[Callable[..., None]]:
    """Gives a function that shows what is new: lines as they come, and on a terminal the live lines below them.

    Of a sweep, of which `counted` says how far its items are, that is one line; elsewhere it is said now and then.
    """
    merged = Merged(run, role)
    terminal = sys.stdout.isatty() and not quiet
    paint = painter(colour=terminal)

    if not terminal:
        said, told = time.monotonic(), ""

        def plain(*, final: bool) -> None:
            nonlocal said, told
            for line in merged.lines(final=final):
                if not quiet:
                    print(paint(line), flush=True)
            if counted is None or quiet or final or time.monotonic() - said < SAID_EVERY:
                return
            said, progress = time.monotonic(), counted()
            words = progress_line(progress, final=False) if progress else ""
            if words != told:
                print(f"gangrun: {words}", file=sys.stderr, flush=True)
                told = words

        yield plain
        return

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        drawn = 0.0

        def moving(*, final: bool) -> None:
            nonlocal drawn
            for line in merged.lines(final=final):
                console.print(Text.from_ansi(paint(line)))
            if (final and counted) or time.monotonic() - drawn > 0.5:
                drawn = time.monotonic()
                rows = _rows(run, run.facts(), console.width, merged.shows) if counted is None else _progress(counted())
                live.update(rows, refresh=True)

        yield moving


def _progress(progress: Progress | None) -> Text:
    from rich.text import Text

    return Text(progress_line(progress, final=False) if progress else "waiting for the first item", style="bold")


def _rows(run: RunDir, facts: AttemptFacts | None, width: int, shows: Callable[[str], bool]) -> Text:
    """One line for each replica that is asked for: name, state, time, last line."""
    from rich.text import Text

    replicas = [one for one in facts.of_roles.items() if shows(one[0])] if facts else []
    if facts is None or not replicas:
        return Text("waiting for the first replica", style="dim")
    rows: list[Any] = []
    for name, replica in replicas[:MOST_ROWS]:
        life = replica.lives[-1] if replica.lives else None
        spent = clock((life.ended or time.time()) - life.started) if life and life.started else ""
        last = (last_lines(run.attempt(facts.number).log(name), 1) or [""])[0]
        text = Text.from_ansi(f"{name:<16} {replica_state(replica):<8} {spent:>9}  {last}")
        text.truncate(width - 1, overflow="ellipsis")
        rows.append(text)
    if (more := len(replicas) - MOST_ROWS) > 0:
        rows.append(Text(f"and {more} more", style="dim"))
    return Text("\n").join(rows)
