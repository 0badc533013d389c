"""Plots as pieces of SVG that live inside the page: text stays text, and colours are those of the page's style.

matplotlib draws with fixed colours that stand for the style's variables (`--ink`, `--c0`, ...), and the drawing is then
rewritten: the stand-ins become `var(--...)`, so that one drawing is right on light, dark and paper; ids that nothing
points to are dropped and the others get a prefix from the drawing's own digest, so that drawings do not mix. Equal
numbers give equal bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from pyllm.errors import PrerequisiteError
from pyllm.provenance import sha256_hex
from pyllm.report.blocks import Real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS_AN_INCH = 72
_WIDTH = 400
ROW = 30
SERIES = 8

INK, SOFT, _LINE, _GROUND = "#000101", "#000102", "#000103", "#000104"
COLOURS = tuple(f"#0002{number:02x}" for number in range(SERIES))
_VARIABLES = {INK: "ink", SOFT: "soft", _LINE: "line", _GROUND: "ground"} | {
    colour: f"c{number}" for number, colour in enumerate(COLOURS)
}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pyllm",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": SOFT,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
}
_LABEL_CHARACTERS = 60
_SAID_CHARACTERS = 600
_LONG_NAME = 22


def ensure_plots() -> None:
    """Find out before the work whether plots can be drawn.

    Raises:
        PrerequisiteError: matplotlib is not installed.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise PrerequisiteError(
            f"plots need matplotlib, which is not installed: {error}",
            hint='install it with pip install "pyllm[report]"',
        ) from error


def draw(height: Real, said: str, paint: Callable[["Axes"], None], *, left: Real = 52, top: Real = 12) -> str:
    """Draw on axes of the usual width.

    Args:
        height: Of the whole drawing, in its units.
        said: What a reader who does not see it is told.
        paint: Draws.
        left: Room beside the axes.
        top: Room above them.
    """
    ensure_plots()
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(), warnings.catch_warnings():
        # What a user has set for other plots would change these.
        rcdefaults()
        rcParams.update(_STYLE)
        # The page's reader brings the fonts: what this machine's font lacks is nobody's matter.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(_WIDTH / _UNITS_AN_INCH, height / _UNITS_AN_INCH))
        FigureCanvasSVG(figure)
        right, bottom = _WIDTH - 14, 42
        axes = figure.add_axes(
            (left / _WIDTH, bottom / height, (right - left) / _WIDTH, (height - bottom - top) / height)
        )
        axes.tick_params(length=0, pad=5)
        paint(axes)
        data = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(data, format="svg", metadata=nothing)
    return _inlined(data.getvalue(), plain(said, _SAID_CHARACTERS))


def _inlined(data: bytes, said: str) -> str:
    """A drawing of matplotlib as a piece of a page."""
    root = ElementTree.fromstring(data)  # what this process wrote a line ago
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    used = {name for each in root.iter() for value in each.attrib.values() for name in re.findall(r"#([\w-]+)", value)}
    prefix = f"p{sha256_hex(data)[:10]}-"
    for each in root.iter():
        each.tag = _local(each.tag)
        attributes = {_local(name): value for name, value in each.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        each.attrib.clear()
        each.attrib.update({name: _rewritten(name, value, prefix, used) for name, value in attributes.items()})
        each.tail = None
        if each.tag not in ("text", "tspan"):
            each.text = None
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": said})
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rewritten(name: str, value: str, prefix: str, used: set[str]) -> str:
    if name == "id":
        return prefix + value
    if name == "style":
        # The page's style sets the typeface; sizes stay.
        value = re.sub(r"font: ([0-9.]+px)[^;]*", r"font-size: \1", value)
        return re.sub(r"#[0-9a-f]{6}", lambda found: _colour(found[0]), value.replace("url(#", f"url(#{prefix}"))
    if value.startswith("#") and value[1:] in used:
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")


def _colour(colour: str) -> str:
    variable = _VARIABLES.get(colour)
    return colour if variable is None else f"var(--{variable})"


def plain(text: object, most: int = _LABEL_CHARACTERS) -> str:
    """A label as one line without control characters and lone surrogates, cut where it is long."""
    line = " ".join(str(text).split())
    kept = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return kept if len(kept) <= most else f"{kept[: most - 1]}…"


def colour_of(number: int) -> str:
    """The stand-in of a series' colour."""
    return COLOURS[number % SERIES]


def legend_rows(labels: Sequence[str]) -> int:
    """How many lines the names above axes take."""
    return -(-len(labels) // _legend_columns(labels))


def _legend_columns(labels: Sequence[str]) -> int:
    return 1 if max(map(len, labels), default=0) > _LONG_NAME else 2


def add_legend(axes: "Axes", entries: int) -> None:
    """Names above the axes; one curve alone is named by its axis, unless it goes with something else."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles or (entries < 2 and len(axes.lines) == 1 and not axes.collections and not axes.patches):
        return
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=_legend_columns([*labels]),
        borderaxespad=0.1,
        handlelength=1.6,
        columnspacing=1.2,
        labelspacing=0.25,
    )


def add_label(axes: "Axes", y: Real, label: str) -> None:
    """A row's label above what is drawn in it."""
    axes.annotate(plain(label, 52), (0, y), xycoords=("axes fraction", "data"), xytext=(0, 6.5),
                  textcoords="offset points", fontsize=10.5, color=INK)  # fmt: skip


def rows_axes(axes: "Axes", rows: int, across: str) -> None:
    """Axes of rows that each have their label above them."""
    axes.set_ylim(-rows + 0.6, 0.85)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    plain_ticks(axes)
    axes.set_xlabel(plain(across))


def widened(low: Real, high: Real) -> tuple[Real, Real]:
    """Ends of an axis with room at its sides; differences that are but rounding do not spread over it."""
    room = max(0.06 * (high - low), 0.02 * max(abs(low), abs(high)), 1e-3)
    return low - room, high + room


def name_axes(axes: "Axes", across: str, up: str) -> None:
    """Say what the axes are."""
    axes.set_xlabel(plain(across))
    axes.set_ylabel(plain(up))


def whole_numbers(axes: "Axes", which: str) -> None:
    """Ticks at whole numbers only, of the axis `x` or `y`."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def plain_ticks(axes: "Axes", *, log_x: bool = False, whole_x: bool = False) -> None:
    """Few ticks, with numbers that people read; whole ones where the values are."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if log_x:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole_x))
    axes.xaxis.set_major_formatter(lambda value, _: _tick(value))
    if len(axes.get_yticks()):
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        _give_room(axes)


def _give_room(axes: "Axes") -> None:
    """Numbers beside the axis; a common power of ten goes into its name where they would be long."""
    largest = max(abs(end) for end in axes.get_ylim())
    power = int(np.floor(np.log10(largest))) if 0 < largest < 0.01 else 0
    axes.yaxis.set_major_formatter(lambda value, _: _tick(value / 10.0**power))
    if power:
        axes.annotate(f"× 1e{power}".replace("-", "\u2212"), (0, 1), xycoords="axes fraction", xytext=(-34, 3),
                      textcoords="offset points", fontsize=10, color=SOFT)  # fmt: skip


def _tick(value: Real) -> str:
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g} M"
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.6g}"
    return text.replace("-", "\u2212")
