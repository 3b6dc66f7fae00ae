"""One part of a report, told twice: to a terminal and on a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A title with what stands under it."""

    title: str
    lines: tuple[str, ...]
    """For a terminal, without the title."""
    html: str
    """For the page, without the title: made of `gangrun.views.report.html`, so that whatever a user wrote is text."""
