"""Tables for people: on a terminal as wide as it is, elsewhere as plain text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl

_PLAIN_WIDTH = 120
_CELL_CHARACTERS = 300
_FRAME_ROWS = 50


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table for people.

    Args:
        title: What stands above it.
        kind: Numbers are set to the right and words to the left, both whole; text is cut to the width that is left.
        share: How much of that width this column gets, against the other columns of text.
    """

    title: str
    kind: Literal["number", "word", "text"] = "text"
    share: int = 1


def draw_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, terminal: bool) -> str:
    """Lay a table out as text that ends in a newline.

    Args:
        columns: The columns.
        rows: Their cells, already safe to show (see `readable`).
        terminal: Whether a terminal will show it; only then does it get colour and lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(force_terminal=terminal, width=None if terminal else _plain_width(), highlight=False)
    table = Table(
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        padding=(0, 1 if terminal else 2, 0, 0),
        header_style="bold",
        expand=any(column.kind == "text" for column in columns),
    )
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.kind == "number" else "left",
            no_wrap=True,
            overflow="ellipsis" if column.kind == "text" else "fold",
            ratio=column.share if column.kind == "text" else None,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    with console.capture() as capture:
        console.print(table)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines() if line.strip())


def _plain_width() -> int:
    import shutil

    return shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns


def draw_frame(table: "pl.DataFrame", *, terminal: bool) -> str:
    """Lay any table out for people: its first rows, and how many more there are."""
    shown = table.head(_FRAME_ROWS)
    columns = [Column(name, "number" if kind.is_numeric() else "text") for name, kind in table.schema.items()]
    rows = [[readable(value) for value in row] for row in shown.iter_rows()]
    return draw_table(columns, rows, terminal=terminal) + more_line(table.height - shown.height)


def more_line(hidden_rows: int) -> str:
    """The closing line of a table that was cut, or nothing."""
    return f"... and {hidden_rows:,} more\n" if hidden_rows > 0 else ""


def readable(value: object, *, decimals: int = 3) -> str:
    """One cell as one line: no line breaks, and none of the control characters that could steer a terminal."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.{decimals}f}" if math.isfinite(value) else str(value)
    text = str(value)[:_CELL_CHARACTERS]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
