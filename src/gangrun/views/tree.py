"""The experiment tree with the newest run of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gangrun.record.state import RunState
from gangrun.spec.tree import Step
from gangrun.views.runs import ago, remark


def as_data(step: Step, state: RunState | None) -> dict[str, Any]:
    """One step for `--json`; `run` and `state` are null before its first run."""
    return {
        "experiment": step.experiment,
        "step": step.step,
        "name": step.name,
        "seed": step.seed,
        "file": str(step.file),
        "run": state.run if state else None,
        "state": state.state if state else None,
        "exit_code": state.exit_code if state else None,
        "dir": state.dir if state else None,
    }


def lines(rows: Sequence[tuple[Step, RunState | None]], project: Path) -> Iterator[str]:
    """Each experiment with its steps below it, a line for each seed."""
    if not rows:
        yield f"no step in {project}: experiments/<exp id>_<exp name>/<step id>_<step name>_<seed>.toml"
        return
    names = max(len(step.name) for step, _ in rows)
    seeds = max(len(_seed(step)) for step, _ in rows)
    words = max(len(_word(state)) for _, state in rows)
    before: Step | None = None
    for step, state in rows:
        if before is None or step.experiment != before.experiment:
            yield from ([""] if before else [])
            yield step.experiment
        again = before is not None and (before.experiment, before.name) == (step.experiment, step.name)
        head = f"  {'' if again else step.name:<{names}}  {_seed(step):<{seeds}}  {_word(state):<{words}}"
        told = f"  {ago(state.created):<8}  {remark(state)}" if state else ""
        yield f"{head}{told}".rstrip()
        before = step


def _seed(step: Step) -> str:
    return "" if step.seed is None else f"seed {step.seed}"


def _word(state: RunState | None) -> str:
    return state.state + ("?" if state.stale else "") if state else "-"
