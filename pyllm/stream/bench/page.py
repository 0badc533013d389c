"""One page of results: tables and plots in one file that asks the network for nothing, light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pyllm.stream.bench.report import Measure, Table

_WIDTH, _LEFT, _RIGHT = 760, 250, 70
_ROW = 20
_HEIGHT = 260

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667; --line: #d5d9e0; --ground: #fff; --mark: #2563a8;
  --c0: #2563a8; --c1: #b3541e; --c2: #2c7a4b; --c3: #8a3a8f; --c4: #8a6d00; --c5: #486a7a; --c6: #b02a4c;
  --c7: #5a5ad0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ee; --soft: #9aa3b2; --line: #3a4150; --ground: #14181f;
  --mark: #7db4ee; --c0: #7db4ee; --c1: #f0a070; --c2: #7fd09c; --c3: #d79be0; --c4: #e0c45c; --c5: #a5c3d0;
  --c6: #f08aa5; --c7: #b0b0ff; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--ground); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.partial { border-left: 4px solid var(--c1); padding-left: .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th.word, td.word { text-align: left; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); }
svg .mark { stroke: var(--mark); fill: var(--mark); }
"""


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, on a line of its own.

    Args:
        label: What it belongs to.
        value: The value.
        low: Where its interval begins; None draws none.
        high: Where it ends.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Values along an axis.

    Args:
        label: What it is.
        points: Pairs of place and value.
    """

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as a piece of SVG, under a title.

    Args:
        title: What it shows.
        svg: The drawing.
    """

    title: str
    svg: str


def page(
    title: str,
    facts: Mapping[str, Any],
    tables: Sequence[Table],
    plots: Sequence[Plot],
    *,
    partial: str | None = None,
) -> str:
    """The page.

    Args:
        title: Of the page.
        facts: What was measured and with what, by name.
        tables: What to show.
        plots: Under the tables.
        partial: What is said of results that are not the whole of an experiment.
    """
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    warning = "" if partial is None else f'<p class="partial">{escape(partial)}</p>'
    shown = "".join(f"<h2>{escape(table.title)}</h2>{_table(table)}" for table in tables)
    drawn = "".join(f"<h2>{escape(plot.title)}</h2>{plot.svg}" for plot in plots)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{warning}<dl>{listed}</dl>\n{shown}\n{drawn}\n</body></html>\n"
    )


def _table(table: Table) -> str:
    kinds = [f' class="{kind}"' for _, kind in table.columns]
    head = "".join(f"<th{kind}>{escape(title)}</th>" for kind, (title, _) in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def measure_plot(
    title: str, rows: Sequence[Mapping[str, Any]], context: Sequence[Mapping[str, Any]], measure: Measure
) -> Plot | None:
    """A measure of every arm as dots with intervals; None where fewer than two rows have it."""
    scale = 100.0 if measure.percent else 1.0
    dots = []
    for row in [*rows, *context]:
        value, interval = row.get(measure.name), row.get("intervals", {}).get(measure.name)
        if value is not None:
            low, high = (None, None) if interval is None else (scale * interval[0], scale * interval[1])
            dots.append(Dot(str(row["arm"]), scale * value, low, high))
    return Plot(title, dot_plot(dots)) if len(dots) > 1 else None


def dot_plot(dots: Sequence[Dot]) -> str:
    """Values with intervals, one below the other, on one axis."""
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    ticks = nice_ticks(min(ends), max(ends))
    height = _ROW * len(dots) + 40
    right = _WIDTH - _RIGHT

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = []
    for tick in ticks:
        x = f"{across(tick):.1f}"
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="4" y2="{height - 24}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for number, dot in enumerate(dots):
        y = 14 + _ROW * number
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(dot.label)}</text>')
        if dot.low is not None and dot.high is not None:
            ends_at = f'x1="{across(dot.low):.1f}" x2="{across(dot.high):.1f}"'
            parts.append(f'<line class="mark" {ends_at} y1="{y}" y2="{y}" stroke-width="2"/>')
        parts.append(f'<circle class="mark" cx="{across(dot.value):.1f}" cy="{y}" r="4"/>')
        parts.append(f'<text class="soft" x="{right + 10}" y="{y + 4}">{dot.value:.4g}</text>')
    return _svg(height, parts)


def line_plot(curves: Sequence[Curve], *, across: str, up: str) -> str:
    """Curves over one axis, with their names beside the drawing.

    Args:
        curves: The curves.
        across: What the horizontal axis is.
        up: What the vertical axis is.
    """
    xs = nice_ticks(*_ends([x for curve in curves for x, _ in curve.points]))
    ys = nice_ticks(*_ends([y for curve in curves for _, y in curve.points]))
    left, right, bottom, top = 60, _WIDTH - 250, _HEIGHT - 40, 20

    def at(x: float, y: float) -> str:
        px = left + (right - left) * (x - xs[0]) / (xs[-1] - xs[0])
        return f"{px:.1f},{bottom - (bottom - top) * (y - ys[0]) / (ys[-1] - ys[0]):.1f}"

    parts = [f'<text class="soft" x="{left}" y="12">{escape(up)}</text>']
    parts.append(f'<text class="soft" x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{escape(across)}</text>')
    for tick in ys:
        y = at(xs[0], tick).split(",")[1]
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in xs:
        x = at(tick, ys[0]).split(",")[0]
        parts.append(f'<text class="soft" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for number, curve in enumerate(curves):
        colour, dash = f"var(--c{number % 8})", ' stroke-dasharray="5 3"' if number >= 8 else ""
        points = " ".join(at(x, y) for x, y in curve.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        beside = top + 16 * number
        ends_at = f'x1="{right + 14}" x2="{right + 34}" y1="{beside}" y2="{beside}"'
        parts.append(f'<line {ends_at} stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{right + 40}" y="{beside + 4}">{escape(curve.label)}</text>')
    return _svg(max(_HEIGHT, top + 16 * len(curves)), parts)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">' + "".join(parts) + "</svg>"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, at least two, that reach from at most `low` to at least `high`."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * size else size or 1.0  # what differs by rounding is equal
    step = 10.0 ** int(f"{span / most:e}".split("e")[1])
    while span / step > most:
        step *= 2 if f"{step:e}"[0] != "2" else 2.5
    first, last = int(low // step), -int(-high // step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
