"""Numbers for a person: with units, in columns, and as small pictures of letters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""A slice of time of which nothing is known."""


def spark(curve: Sequence[float | None], top: float) -> str:
    """A curve from 0 to `top` as one letter for each slice."""
    highest = len(_BLOCKS) - 1
    return "".join(
        GAP if value is None else _BLOCKS[min(max(round(value / top * highest), 0), highest)] if top else _BLOCKS[0]
        for value in curve
    )


def coarse(curve: Sequence[float | None], slices: int) -> list[float | None]:
    """The curve in fewer slices."""
    found: list[float | None] = []
    for number in range(slices):
        part = curve[number * len(curve) // slices : max((number + 1) * len(curve) // slices, 1)]
        known = [value for value in part if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found


def size(mib: float | None) -> str:
    """`41 G`, `8.6 G`, `193 M`; nothing for None."""
    if mib is None:
        return ""
    if mib < 1000:
        return f"{mib:.0f} M"
    return f"{mib / 1024:.1f} G" if mib < 10 * 1024 else f"{mib / 1024:,.0f} G"


def share(value: float | None) -> str:
    """`38 %` of a number between 0 and 1; nothing for None."""
    return "" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, unit: str = "") -> str:
    """Two digits at least, with its unit; nothing for None."""
    if value is None:
        return ""
    text = f"{value:.1f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def duration(seconds: float) -> str:
    """`17.3 s`, `8.52 min`, `31 h`."""
    for length, unit, top in ((1, "s", 300), (60, "min", 180), (3600, "h", math.inf)):
        if seconds / length < top:
            return f"{significant(seconds / length)} {unit}"
    raise AssertionError(seconds)


def significant(value: float) -> str:
    """Three digits, or as many as stand before the point: `17.3`, `1,204`, `0`."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def aligned(rows: Sequence[Sequence[str]], right: str = "") -> Iterator[str]:
    """Lines of equal columns. The columns whose heads are among the words of `right` end together."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ends = [head in right.split() for head in rows[0]]
    for row in rows:
        cells = (
            cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, ends, strict=True)
        )
        yield "  ".join(cells).rstrip()


def cut(lines: Iterable[str], width: int) -> list[str]:
    """The lines, none of them longer than `width` letters."""
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
