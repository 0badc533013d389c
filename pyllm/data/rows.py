"""Bad rows: what is wrong with one, and where."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out.

    Args:
        source_file: Name of its file, without folder.
        row: Its 0-based place among the file's records.
        line: The 1-based line it begins on, in formats of lines.
        field: The field that is wrong, or None where it is the row as a whole.
        reason: What is wrong.
        raw: The row's text.
        wrong_kind: Whether it is sound, but no instruction data (a preference pair, a multimodal row).
    """

    source_file: str
    row: int
    line: int | None
    field: str | None
    reason: str
    raw: str
    wrong_kind: bool = False

    @property
    def place(self) -> str:
        """Where it is and what is wrong, for messages."""
        where = f"row {self.row}" + ("" if self.line is None else f" (line {self.line})")
        return f"{where}: {self.reason}" if self.field is None else f"{where}, field `{self.field}`: {self.reason}"


def counted(count: int, thing: str) -> str:
    """A number of things, for the log: `1 row`, `2,000 rows`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
