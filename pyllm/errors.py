"""Every exception that pyllm raises on purpose.

Anything else that escapes is a bug and is shown with its traceback. The command line turns each class into the
exit code that stands beside it.
"""


class PyllmError(Exception):
    """Base of all errors that pyllm raises on purpose.

    Args:
        message: What is wrong: the thing, its value, the limit and the place; lower case, no full stop.
        hint: What to try next, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingError(PyllmError):
    """Settings contradict each other, the data, or an earlier run (exit code 2)."""

    exit_code = 2


class InputError(PyllmError):
    """The data is wrong: a file, a row or a field (exit code 3)."""

    exit_code = 3


class PrerequisiteError(PyllmError):
    """A model, device, package, lock or memory is not there (exit code 4)."""

    exit_code = 4


def reason_of(error: Exception) -> str:
    """What the system says of a failure, as the end of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
