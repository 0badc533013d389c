"""The shapes of instruction rows by name; `rust/pyllm-examples` reads them.

A row is recognised by its own keys (whatever their case; a null counts as absent), so one file may hold several
shapes. Text is passed on exactly as it stands.
"""

from pyllm.errors import SettingError

SHAPES = ("auto", "alpaca", "nested", "qa", "prompt", "text", "messages", "sharegpt", "turns", "choices")
"""Shapes that can be asked for; `auto` recognises each row."""


def check_shape(shape: str) -> None:
    """Refuse a shape that does not exist.

    Raises:
        SettingError: It is not one of `SHAPES`.
    """
    if shape not in SHAPES:
        message = f"`{shape}` is no known shape"
        raise SettingError(message, hint=f"the shapes are {', '.join(SHAPES)}")
