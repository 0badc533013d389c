"""Kinds of plots, as pieces of SVG for a page. The frame they are drawn in is `pyllm.report.canvas`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from pyllm.report.blocks import Real
from pyllm.report.canvas import (
    COLOURS,
    DASHES,
    ROW,
    SERIES,
    SOFT,
    add_label,
    add_legend,
    colour_of,
    draw,
    legend_rows,
    name_axes,
    plain,
    plain_ticks,
    rows_axes,
    whole_numbers,
    widened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = 16


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, under its label.

    Args:
        label: What it belongs to.
        value: The value.
        low: Where its interval begins; None draws none.
        high: Where it ends.
    """

    label: str
    value: Real
    low: Real | None = None
    high: Real | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Values along an axis.

    Args:
        label: What it is.
        x: Places.
        y: Values.
        marked: Whether each point is marked.
    """

    label: str
    x: Sequence[Real]
    y: Sequence[Real]
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A value over a cost, with its interval.

    Args:
        label: What it belongs to.
        x: The cost.
        y: The value.
        low: Where its interval begins; None draws none.
        high: Where it ends.
    """

    label: str
    x: Real
    y: Real
    low: Real | None = None
    high: Real | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis that is named.

    Args:
        place: Where.
        label: What is said of it.
    """

    place: Real
    label: str


def histogram(
    counts: Int[np.ndarray, " bins"],
    edges: Float[np.ndarray, " borders"],
    *,
    across: str,
    marks: Sequence[Mark] = (),
    up: str = "rows",
) -> str:
    """Counts in bins, and named places on their axis.

    Args:
        counts: In each bin.
        edges: Borders of the bins, one more than there are bins.
        across: What the horizontal axis is.
        marks: Places to name.
        up: What is counted.
    """

    def paint(axes: "Axes") -> None:
        widths = np.diff(edges)
        axes.bar(edges[:-1], counts, width=widths * 0.94, align="edge", color=COLOURS[0], linewidth=0)
        axes.grid(visible=False, axis="x")
        tallest = max(1, int(counts.max(initial=0)))
        axes.set_ylim(0, tallest * (1.0 + 0.34 * bool(marks)))
        axes.set_xlim(float(edges[0]), float(edges[-1]))
        for each in marks:
            axes.axvline(each.place, color=COLOURS[1], linewidth=1, linestyle=DASHES[2])
            axes.text(
                each.place, tallest * 1.32, f" {plain(each.label)}", rotation=90, va="top", ha="right", fontsize=9.5,
                color=SOFT,
            )  # fmt: skip
        whole_numbers(axes, "y")
        name_axes(axes, across, up)

    return draw(250, f"histogram of {across}, {int(counts.sum()):,} {up}", paint)


def cloud(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    across: str,
    up: str,
    middle: Curve | None = None,
    log_x: bool = False,
    most_points: int = 600,
) -> str:
    """Pairs of values: points, the larger the more there are; of many pairs cells, the fuller the darker.

    Args:
        x: Horizontal values.
        y: Vertical values.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        middle: A curve drawn through them.
        log_x: Whether the horizontal axis is logarithmic.
        most_points: How many different ones are drawn one by one.
    """
    pairs, times = np.unique(np.column_stack([x, y]), axis=0, return_counts=True)

    def paint(axes: "Axes") -> None:
        if log_x:
            axes.set_xscale("log")
        if len(pairs) <= most_points:
            sizes = 12 + 90 * (times - 1) / max(1, len(x) - 1)
            axes.scatter(pairs[:, 0], pairs[:, 1], s=sizes, color=COLOURS[0], alpha=0.6, linewidth=0)
        else:
            _cells(axes, x, y, log_x=log_x)
        if middle is not None:
            axes.plot(middle.x, middle.y, color=COLOURS[1], marker="o", markersize=3.5, label=plain(middle.label))
            add_legend(axes, 1)
        plain_ticks(axes, log_x=log_x, whole_x=_are_whole(x))
        name_axes(axes, across, up)

    return draw(270, f"{up} against {across}, {len(x):,} rows", paint, top=30 if middle is not None else 12)


def _cells(axes: "Axes", x: np.ndarray, y: np.ndarray, *, log_x: bool) -> None:
    def borders(values: np.ndarray, parts: int, *, log: bool) -> np.ndarray:
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = (low / 1.5, high * 1.5) if log else (low - 0.5, high + 0.5)
        return np.geomspace(low, high, parts + 1) if log else np.linspace(low, high, parts + 1)

    across, up = borders(x, 40, log=log_x), borders(y, 24, log=False)
    counted, _, _ = np.histogram2d(x, y, bins=(across, up))
    _tiles(axes, (np.log1p(counted) / np.log1p(counted.max())).T, across, up, faintest=0.15)


def _tiles(
    axes: "Axes",
    shares: Float[np.ndarray, "rows columns"],
    x_edges: Float[np.ndarray, " x"],
    y_edges: Float[np.ndarray, " y"],
    *,
    faintest: float,
) -> None:
    """Cells with a share above 0, the larger the darker: one path for each of a few shades, which keeps pages small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    level_of = np.ceil(np.nan_to_num(shares) * _SHADES).astype(np.int64)
    for level in range(1, _SHADES + 1):
        corners = []
        for row, column in np.argwhere(level_of == level).tolist():
            (left, right), (low, high) = x_edges[column : column + 2], y_edges[row : row + 2]
            corners += [(left, low), (right, low), (right, high), (left, high), (left, low)]
        if corners:
            alpha = round(faintest + (1 - faintest) * level / _SHADES, 3)
            path = Path(corners, codes * (len(corners) // len(codes)))
            axes.add_patch(PathPatch(path, facecolor=COLOURS[0], alpha=alpha, linewidth=0))
    axes.set_xlim(float(x_edges[0]), float(x_edges[-1]))
    axes.set_ylim(float(y_edges[0]), float(y_edges[-1]))


def lines(
    curves: Sequence[Curve], *, across: str, up: str, from_zero: bool = False, steps: bool = False, height: int = 250
) -> str:
    """Curves over one axis.

    Args:
        curves: The curves.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        from_zero: Whether the vertical axis begins at 0.
        steps: Whether values hold until the next place.
        height: Of the axes and what is below.
    """

    def paint(axes: "Axes") -> None:
        for number, curve in enumerate(curves):
            axes.plot(
                curve.x, curve.y, color=colour_of(number), linestyle=DASHES[number // SERIES % len(DASHES)],
                marker="o" if curve.marked or len(curve.x) < 2 else None, markersize=3.5, label=plain(curve.label, 44),
                drawstyle="steps-post" if steps else "default",
            )  # fmt: skip
        if from_zero:
            axes.set_ylim(bottom=0)
        add_legend(axes, len(curves))
        plain_ticks(axes, whole_x=all(_are_whole(curve.x) for curve in curves))
        name_axes(axes, across, up)

    top = 12 + 17 * legend_rows([curve.label for curve in curves]) if len(curves) > 1 else 12
    return draw(
        height + top - 12, f"{up} against {across}: {', '.join(curve.label for curve in curves)}", paint, top=top
    )


def _are_whole(values: Sequence[Real] | Float[np.ndarray, " n"]) -> bool:
    return all(float(value).is_integer() for value in values)


def dots(
    rows: Sequence[Dot], *, across: str, zero: Real | None = None, ends: tuple[Real, Real] | None = None,
    decimals: int = 3,
) -> str:  # fmt: skip
    """Values with intervals, one below the other, each under its own label.

    Args:
        rows: The values.
        across: What the axis is.
        zero: A place that values are compared with.
        ends: Where the axis begins and ends; None goes by the values.
        decimals: Digits behind the point of the value beside each label.
    """

    def paint(axes: "Axes") -> None:
        for number, row in enumerate(rows):
            y = -number
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=COLOURS[0], linewidth=3, alpha=0.55, solid_capstyle="butt")
            axes.plot([row.value], [y], marker="o", markersize=6.5, color=COLOURS[0], linestyle="none")
            add_label(axes, y, row.label)
            axes.annotate(
                f"{row.value:,.{decimals}f}".replace("-", "\u2212"), (1, y), xycoords=("axes fraction", "data"),
                xytext=(0, 7), textcoords="offset points", fontsize=10.5, color=SOFT, ha="right",
            )  # fmt: skip
        if zero is not None:
            axes.axvline(zero, color=SOFT, linewidth=1, linestyle=DASHES[1])
        found = [end for row in rows for end in (row.value, row.low, row.high, zero) if end is not None]
        axes.set_xlim(*(ends or widened(min(found), max(found))))
        rows_axes(axes, len(rows), across)

    told = "; ".join(f"{row.label}: {row.value:.{decimals}f}" for row in rows[:20])
    return draw(ROW * len(rows) + 62, f"{across}: {told}", paint, left=14, top=6)


def strips(rows: Sequence[tuple[str, Sequence[Real]]], *, across: str, zero: Real) -> str:
    """Many values for each label, as points on a line under it.

    Args:
        rows: Labels and their values.
        across: What the axis is.
        zero: A place that values are compared with.
    """

    def paint(axes: "Axes") -> None:
        for number, (label, values) in enumerate(rows):
            above = [value for value in values if value > zero]
            rest = [value for value in values if value <= zero]
            for part, colour in ((above, COLOURS[0]), (rest, COLOURS[1])):
                axes.scatter(part, [-number] * len(part), s=20, color=colour, alpha=0.45, linewidth=0)
            add_label(axes, -number, label)
        axes.axvline(zero, color=SOFT, linewidth=1, linestyle=DASHES[1])
        found = [zero, *(value for _, values in rows for value in values)]
        axes.set_xlim(*widened(min(found), max(found)))
        rows_axes(axes, len(rows), across)

    return draw(ROW * len(rows) + 62, f"{across}, of {len(rows)} rows", paint, left=14, top=6)


def paired_bars(
    labels: Sequence[str], pairs: Sequence[tuple[Real, Real]], names: tuple[str, str], *, across: str
) -> str:
    """Two bars for each label, one below the other.

    Args:
        labels: What each pair belongs to.
        pairs: Their lengths.
        names: What the first and the second of each are.
        across: What the axis is.
    """

    def paint(axes: "Axes") -> None:
        for number, pair in enumerate(pairs):
            for place, value in enumerate(pair):
                axes.barh(
                    -number - 0.06 - 0.24 * place, value, height=0.22, color=COLOURS[place], linewidth=0,
                    label=plain(names[place]) if number == 0 else None,
                )  # fmt: skip
            add_label(axes, -number, labels[number])
        axes.set_ylim(-len(pairs) + 0.5, 0.5)
        axes.set_xlim(left=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=True, axis="x")
        add_legend(axes, 2)
        plain_ticks(axes)
        axes.set_xlabel(plain(across))

    told = "; ".join(f"{label}: {pair[0]:.3g}, {pair[1]:.3g}" for label, pair in zip(labels[:20], pairs, strict=False))
    return draw(1.5 * ROW * len(pairs) + 76, f"{across}, {names[0]} and {names[1]}: {told}", paint, left=14, top=30)


def stacked_bars(labels: Sequence[str], parts: Sequence[Sequence[Real]], names: Sequence[str], *, across: str) -> str:
    """For each label a bar that is divided into the same parts.

    Args:
        labels: What each bar belongs to.
        parts: The lengths of its parts.
        names: What the parts are.
        across: What the axis is.
    """

    def paint(axes: "Axes") -> None:
        for place, name in enumerate(names):
            for number, lengths in enumerate(parts):
                axes.barh(
                    -number - 0.12, lengths[place], left=sum(lengths[:place]), height=0.34, color=colour_of(place),
                    linewidth=0, label=plain(name) if number == 0 else None,
                )  # fmt: skip
        for number, label in enumerate(labels):
            add_label(axes, -number, label)
        rows_axes(axes, len(labels), across)
        axes.set_ylim(-len(labels) + 0.5, 0.6)
        axes.set_xlim(left=0)
        add_legend(axes, len(names))

    told = "; ".join(
        f"{label}: " + ", ".join(f"{name} {length:.3g}" for name, length in zip(names, lengths, strict=True))
        for label, lengths in zip(labels, parts, strict=True)
    )
    top = 12 + 17 * legend_rows(names)
    return draw(1.4 * ROW * len(labels) + 46 + top, f"{across}: {told}", paint, left=14, top=top)


def points(rows: Sequence[Point], *, across: str, up: str, ends: tuple[Real, Real] | None = None) -> str:
    """Values over costs, each with its interval and its label.

    Args:
        rows: The points.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        ends: Where the vertical axis begins and ends; None goes by the values.
    """

    def paint(axes: "Axes") -> None:
        for number, row in enumerate(rows):
            colour = colour_of(number)
            if row.low is not None and row.high is not None:
                axes.plot([row.x, row.x], [row.low, row.high], color=colour, linewidth=3, alpha=0.5)
            axes.plot(
                [row.x], [row.y], marker="o", markersize=7, color=colour, linestyle="none", label=plain(row.label)
            )
        if ends is not None:
            axes.set_ylim(*ends)
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        add_legend(axes, max(2, len(rows)))
        plain_ticks(axes)
        name_axes(axes, across, up)

    told = "; ".join(f"{row.label}: {row.y:.3g} at {row.x:,.4g}" for row in rows)
    top = 12 + 17 * legend_rows([row.label for row in rows])
    return draw(250 + top - 12, f"{up} against {across}: {told}", paint, top=top)


def shades(
    shares: Float[np.ndarray, "origins moments"],
    x_edges: Float[np.ndarray, " x"],
    y_edges: Float[np.ndarray, " y"],
    *,
    across: str,
    up: str,
) -> str:
    """Shares from 0 to 1 as cells, the larger the darker; NaN is left blank.

    Args:
        shares: By row and column.
        x_edges: Borders of the columns.
        y_edges: Borders of the rows.
        across: What the horizontal axis is.
        up: What the vertical axis is.
    """

    def paint(axes: "Axes") -> None:
        _tiles(axes, shares, x_edges, y_edges, faintest=0.05)
        axes.grid(visible=False)
        whole_numbers(axes, "x")
        whole_numbers(axes, "y")
        name_axes(axes, across, up)

    return draw(270, f"{up} by {across}: share that is held", paint)


def curve_of(label: str, pairs: Iterable[tuple[Real, Real]], *, marked: bool = False, most: int = 300) -> Curve:
    """A curve through places and values; where they are more than `most`, through means of neighbours."""
    points = np.array(list(pairs), np.float64).reshape(-1, 2)
    if len(points) > most:
        points = np.stack([part.mean(axis=0) for part in np.array_split(points, most)])
    return Curve(label, points[:, 0].tolist(), points[:, 1].tolist(), marked)
