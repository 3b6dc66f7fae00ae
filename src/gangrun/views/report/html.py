"""The page and what it is drawn of: curves, bars over time, and tables.

No script, no font and no picture comes from elsewhere, and the page's own rule (`Content-Security-Policy`) forbids the
browser to fetch any: it can be mailed, and it can be opened from a cluster without internet. Everything is placed in
per cent of the page's width. Exact values are in the titles that a pointer brings up, and in the tables.
"""

from __future__ import annotations

import base64
import math
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from gangrun.record.usage import Curve, Span
from gangrun.views.figures import significant
from gangrun.views.report.section import Section

HUES = 8
"""Colours that curves go through."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1c1e21; --soft: #6a6f76; --line: #dcdfe3; --well: #f1f3f5;
  --good: #2b8a4b; --bad: #c92a2a; --warn: #b8720a; --idle: #e9ecef; --0: #1c6fd1; --1: #d9730d; --2: #26935d;
  --3: #a13dc2; --4: #0c8599; --5: #c2255c; --6: #7a6a1d; --7: #5f6bd8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e8ea; --soft: #9aa1a9; --line: #33383e;
  --well: #1f2327; --good: #51cf7a; --bad: #ff7b72; --warn: #e8a33d; --idle: #2b3036; --0: #5aa2f5; --1: #f59f4c;
  --2: #4fc98d; --3: #cf86e8; --4: #3bc9db; --5: #f783ac; --6: #c9b458; --7: #97a2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 2.25rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: .9rem; margin: 1.2rem 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } ul { margin: .3rem 0; padding-left: 1.2rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--well); border-radius: .4rem; padding: .5rem .8rem; min-width: 8rem; }
.tiles b { display: block; font-size: 1.25rem; font-weight: 600; }
.tiles span { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; font-size: .88rem; } .wide { overflow-x: auto; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 500; } tr + tr td { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; } summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
.chart { margin: .3rem 0 1rem 3.5rem; } .plot { position: relative; height: 9rem; border-left: 1px solid var(--line); }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot path, .plot line { vector-effect: non-scaling-stroke; fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.plot line { stroke: var(--line); stroke-width: 1; } .plot line.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.plot i { position: absolute; right: 100%; transform: translateY(-50%); padding-right: .4rem; font-style: normal;
  font-size: .75rem; color: var(--soft); white-space: nowrap; }
.tips { position: absolute; inset: 0; display: flex; } .tips b { flex: 1; } .tips b:hover { background: var(--ink);
  opacity: .08; }
.axis { position: relative; height: 1.2rem; font-size: .75rem; color: var(--soft); }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.key { margin-left: 3.5rem; font-size: .85rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
.key b { display: inline-block; width: .8rem; height: .25rem; margin-right: .4rem; vertical-align: middle;
  border-radius: 2px; }
.rows { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 2px .7rem; font-size: .82rem;
  align-items: center; } .rows > span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  max-width: 14rem; }
.bars { position: relative; height: .95rem; background: var(--well); border-radius: 2px; overflow: hidden; }
.bars b { position: absolute; top: 0; bottom: 0; min-width: 2px; border-radius: 2px; background: var(--0); }
.bars b.bad { background: var(--bad); } .bars b.good { background: var(--good); }
.bars b.warn { background: var(--warn); }
.bars b.soft { background: var(--soft); opacity: .55; }
.heat { display: block; width: 100%; image-rendering: pixelated; background: var(--well); border-radius: 2px; }
@media print { body { max-width: none; } details > * { display: revert; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """The whole document. `title`, `subtitle` and `footer` are plain text."""
    parts = "\n".join(f"<section>\n<h2>{escape(one.title)}</h2>\n{one.html}\n</section>" for one in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>
<main>
{parts}
</main>
<footer><p class="soft">{escape(footer)}</p></footer>
</body>
</html>
"""


def paragraphs(lines: Sequence[str]) -> str:
    """Plain text, one paragraph for each line."""
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def heading(text: str) -> str:
    """Over a part of a section."""
    return f"<h3>{escape(text)}</h3>"


def points(lines: Sequence[tuple[str, str]]) -> str:
    """A list of (class, plain text)."""
    return "<ul>" + "".join(f'<li class="{kind}">{escape(text)}</li>' for kind, text in lines) + "</ul>"


def tiles(pairs: Sequence[tuple[str, str]]) -> str:
    """Few large figures: (figure, what it is)."""
    found = "".join(f"<li><b>{escape(figure)}</b><span>{escape(what)}</span></li>" for figure, what in pairs)
    return f'<ul class="tiles">{found}</ul>'


def table(rows: Sequence[Sequence[str]], right: str = "", *, folded: str = "") -> str:
    """Rows of plain text under the first. Columns whose heads are among the words of `right` end together.

    `folded` is what stands for the table until it is opened.
    """
    ends = [' class="n"' if head in right.split() else "" for head in rows[0]]

    def row(cells: Sequence[str], kind: str) -> str:
        return (
            "<tr>"
            + "".join(f"<{kind}{end}>{escape(cell)}</{kind}>" for cell, end in zip(cells, ends, strict=True))
            + "</tr>"
        )

    body = "".join(row(cells, "td") for cells in rows[1:])
    text = f'<div class="wide"><table><thead>{row(rows[0], "th")}</thead><tbody>{body}</tbody></table></div>'
    return f"<details><summary>{escape(folded)}</summary>{text}</details>" if folded else text


# ---- over time


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time, in seconds since the epoch."""

    begin: float
    end: float
    title: str
    kind: str = ""
    """`good`, `bad`, `warn`, `soft`, or nothing."""


Row: TypeAlias = tuple[str, Sequence[Bar]]
"""A name, and what went on under it."""


def timeline(rows: Sequence[Row], span: Span) -> str:
    """One line of bars for each row, above the hours."""
    long = max(span.end - span.begin, 1e-9)
    found = []
    for name, bars in rows:
        drawn = []
        for bar in bars:
            left = 100 * (bar.begin - span.begin) / long
            width = 100 * (bar.end - bar.begin) / long
            kind = f' class="{bar.kind}"' if bar.kind else ""
            drawn.append(f'<b{kind} style="left:{left:.3f}%;width:{width:.3f}%" title="{escape(bar.title)}"></b>')
        found.append(f'<span title="{escape(name)}">{escape(name)}</span><div class="bars">{"".join(drawn)}</div>')
    return f'<div class="rows">{"".join(found)}<span></span>{_axis(span)}</div>'


def chart(
    curves: Mapping[str, Curve], span: Span, unit: str, top: float, hues: Mapping[str, int], limit: float | None = None
) -> str:
    """A curve for each name over the time of the run, from 0 to `top`, and a line at `limit`.

    `hues` gives each name a colour, the same in all charts of a page.
    """
    top = _round(max(top, limit or 0.0, 1e-9))
    lines = [f'<line x1="0" x2="1000" y1="{1000 * part}" y2="{1000 * part}"/>' for part in (0, 0.5, 1)]
    if limit is not None:
        at = 1000 - 1000 * limit / top
        lines.append(f'<line class="limit" x1="0" x2="1000" y1="{at:.0f}" y2="{at:.0f}"/>')
    lines += [
        f'<path style="stroke:var(--{hues[name] % HUES})" d="{_path(curve, top)}"/>' for name, curve in curves.items()
    ]
    labels = "".join(
        f'<i style="top:{100 - 100 * part:.0f}%">{significant(top * part)} {escape(unit)}</i>' for part in (0, 0.5, 1)
    )
    tips = "".join(f'<b title="{escape(tip)}"></b>' for tip in _tips(curves, span, unit))
    svg = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(lines)}</svg>'
    plot = f'<div class="plot">{labels}{svg}<div class="tips">{tips}</div></div>'
    return f'{_key(curves, hues)}<div class="chart">{plot}{_axis(span)}</div>'


def heat(names: Sequence[str], curves: Sequence[Curve], span: Span, top: float) -> str:
    """One thin row for each name, the darker the higher its curve."""
    tall = max(min(16, 480 // max(len(curves), 1)), 2)
    picture = base64.b64encode(_png([[_shade(value, top) for value in curve] for curve in curves])).decode()
    height = tall * len(curves)
    told = f"{names[0]} (above) to {names[-1]}" if len(names) > 1 else names[0]
    return (
        f'<div class="chart"><p class="soft">{escape(told)}</p>'
        f'<img class="heat" style="height:{height}px" alt="{escape(told)}" src="data:image/png;base64,{picture}">'
        f"{_axis(span)}</div>"
    )


def _key(names: Mapping[str, Curve], hues: Mapping[str, int]) -> str:
    found = (f'<span><b style="background:var(--{hues[name] % HUES})"></b>{escape(name)}</span>' for name in names)
    return f'<div class="key">{"".join(found)}</div>'


def _path(curve: Curve, top: float) -> str:
    """Steps, one for each slice; a gap where nothing is known."""
    words, pen, wide = [], False, 1000 / max(len(curve), 1)
    for at, value in enumerate(curve):
        if value is None:
            pen = False
            continue
        y = 1000 - 1000 * min(value / top, 1.0)
        words.append(f"{'L' if pen else 'M'}{at * wide:.1f} {y:.0f}H{(at + 1) * wide:.1f}")
        pen = True
    return "".join(words)


def _tips(curves: Mapping[str, Curve], span: Span, unit: str) -> Iterator[str]:
    for at in range(span.slices):
        known = [
            f"{name} {significant(curve[at] or 0)} {unit}" for name, curve in curves.items() if curve[at] is not None
        ]
        yield ", ".join([_clock(span.begin + (at + 0.5) * (span.end - span.begin) / span.slices, span), *known])


def _axis(span: Span) -> str:
    marks = "".join(
        f'<span style="left:{100 * (when - span.begin) / (span.end - span.begin):.2f}%">{_clock(when, span)}</span>'
        for when in _hours(span)
    )
    return f'<div class="axis">{marks}</div>'


def _hours(span: Span) -> Iterator[float]:
    """Round moments, four to eight of them, not too near to the ends."""
    long = span.end - span.begin
    if long <= 0:
        return
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
    step = next((step for step in steps if long / step <= 8), 86400 * math.ceil(long / 86400 / 8))
    shift = time.localtime(span.begin).tm_gmtoff
    when = math.ceil((span.begin + shift) / step) * step - shift
    while when < span.end:
        if 0.03 < (when - span.begin) / long < 0.97:
            yield when
        when += step


def _clock(when: float, span: Span) -> str:
    long = span.end - span.begin
    form = "%H:%M:%S" if long < 600 else "%H:%M" if long < 86400 else "%d %b %H:%M"
    return time.strftime(form, time.localtime(when))


def _round(value: float) -> float:
    """The next number that is 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def _shade(value: float | None, top: float) -> int:
    """The opacity of a pixel."""
    return 0 if value is None else 24 + round(231 * min(value / top, 1.0)) if top else 24


def _png(rows: Sequence[Sequence[int]]) -> bytes:
    """A picture of one pixel for each value, in one blue of that opacity."""
    wide, tall = len(rows[0]), len(rows)
    raw = b"".join(b"\0" + b"".join(struct.pack("4B", 28, 111, 209, shade) for shade in row) for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", wide, tall, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
