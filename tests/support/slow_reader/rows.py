"""A field that is wrong, and the text of one that is not."""

from typing import Any

from pyllm.data.columns import json_text
from tests.support.slow_reader.records import described


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
