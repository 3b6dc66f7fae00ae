"""The report of a run: gathered once, cut into sections, told as one HTML page and as text."""

from __future__ import annotations

import time
from typing import Any

import gangrun
from gangrun.views.report import html
from gangrun.views.report.gather import Report, mean, total
from gangrun.views.report.section import Section
from gangrun.views.report.sections import SECTIONS, subtitle, title
from gangrun.views.report.verdict import verdict


def sections_of(report: Report) -> list[Section]:
    """Those that have something to say."""
    return [one for section in SECTIONS if (one := section(report)) is not None]


def text(report: Report) -> list[str]:
    """The lines for a terminal."""
    lines = [title(report), subtitle(report)]
    for section in sections_of(report):
        lines += ["", section.title.upper(), *section.lines]
    return lines


def page(report: Report) -> str:
    """The HTML document."""
    when = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(report.made))
    footer = f"gangrun {gangrun.__version__}, {when}; all times in that zone; {report.run.dir}"
    return html.page(title(report), subtitle(report), sections_of(report), footer)


def as_data(report: Report) -> dict[str, Any]:
    """For `--json`: GPU-hours, seconds since the epoch, per cent, MiB."""
    return {
        "run": report.run.run_id,
        "state": report.state.state,
        "gpu_hours": {
            "held": report.held,
            "computing": report.computed,
            "idle": report.idle,
            "in_vain": report.in_vain,
            "wasted": report.wasted,
            "unwatched": report.unwatched,
        },
        "verdict": [sentence for _, sentence in verdict(report)],
        "attempts": [
            {
                "item": life.item,
                "attempt": life.number,
                "state": life.state,
                "began": life.began,
                "ended": life.ended,
                "gpus": life.gpus,
                "gpu_hours": life.held,
            }
            for life in report.lives
        ],
        "gpu_busy": {role: mean(gpu.busy.curve for gpu in found) for role, found in report.gpus_by_role().items()},
        "cpus_busy": {
            role: total(replica.cpu.curve for replica in found) for role, found in report.replicas_by_role().items()
        },
        "memory": {
            "peak": max((node.memory.peak for node in report.nodes), default=None),
            "limit": min((node.limit for node in report.nodes if node.limit), default=None),
        },
    }
