"""Bad rows: what is wrong with one, and where."""

from dataclasses import dataclass
from typing import Any

from pyllm.data.columns import json_text
from pyllm.data.records import described


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


class BadFieldError(Exception):
    """A row cannot become an example; caught where rows are read, never shown as it is.

    Args:
        field: The field that is wrong, or None.
        reason: What is wrong with it.
        wrong_kind: Whether the row is another kind of data rather than a damaged one.
    """

    def __init__(self, field: str | None, reason: str, *, wrong_kind: bool = False) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason
        self.wrong_kind = wrong_kind


def text_of(value: Any, field: str, *, encode_lists: bool = False) -> str:
    """The text of a field, unchanged.

    Args:
        value: What stands there.
        field: Its name, for the error.
        encode_lists: Take lists and objects as their JSON.

    Raises:
        BadFieldError: It is not text.
    """
    if isinstance(value, str):
        return value
    if encode_lists and isinstance(value, list | dict):
        return json_text(value)
    raise BadFieldError(field, f"is {described(value)}, not text")
