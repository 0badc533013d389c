"""Where a command's table comes from and where it goes: files, pipes, terminals.

stdout gets nothing but a finished table, so a failed command leaves its reader with empty input. Files appear under
their name only when they are whole.
"""

import contextlib
import io
import os
import select
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pyllm.errors import PrerequisiteError, SettingError, reason_of

if TYPE_CHECKING:
    import polars as pl

STANDARD_STREAM = "-"


class TableFormat(StrEnum):
    """How a table is written."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"
    TABLE = "table"


class Shape(StrEnum):
    """Shape of the input rows."""

    AUTO = "auto"
    ALPACA = "alpaca"
    NESTED = "nested"
    QA = "qa"
    PROMPT = "prompt"
    TEXT = "text"
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    TURNS = "turns"
    CHOICES = "choices"


class Compression(StrEnum):
    """How pages are compressed."""

    ZSTD_1 = "zstd:1"
    ZSTD_3 = "zstd:3"
    LZ4 = "lz4"
    SNAPPY = "snappy"
    NONE = "none"


InputArgument = Annotated[
    str | None,
    typer.Argument(metavar="INPUT", help="Table to read; `-` is stdin, the default in a pipe.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the table here; `-` is stdout, the default.", show_default=False),
]
FormatOption = Annotated[
    TableFormat | None,
    typer.Option(
        "--format", help="How to write the table. Default: by the ending of --out, else parquet.", show_default=False
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write the numbers of this run as JSON.", show_default=False),
]
ShapeOption = Annotated[Shape, typer.Option(help="Shape of the input rows.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse the input if any row is bad.")]
BadRowsOption = Annotated[
    Path | None,
    typer.Option("--bad-rows", metavar="FILE", help="Write bad rows and their reasons here.", show_default=False),
]

_FORMAT_OF_ENDING = {
    "": TableFormat.PARQUET,
    ".parquet": TableFormat.PARQUET,
    ".jsonl": TableFormat.JSONL,
    ".csv": TableFormat.CSV,
    ".txt": TableFormat.TABLE,
}


def input_argument(value: str | None) -> str:
    """The input that was named, or `-` when a table is piped in.

    Raises:
        SettingError: Nothing was named and stdin is a terminal, or stdin was named and is closed or a terminal.
    """
    if value is not None and value != STANDARD_STREAM:
        return value
    hint = "name a file, or pipe a table into this command"
    if sys.stdin is None:
        raise SettingError("no input: stdin is closed", hint=hint)
    if sys.stdin.isatty():
        raise SettingError("no input: stdin is a terminal", hint=hint)
    return STANDARD_STREAM


def input_name(source: str) -> str:
    """What messages call an input."""
    return "standard input" if source == STANDARD_STREAM else source


def output_format(out: Path | None, requested: str | None) -> TableFormat:
    """Decide how the output is written and refuse, before any work, what cannot be written.

    Call it at the start of a command, together with `ensure_writable`; `write_output` decides the same again.

    Args:
        out: The value of `--out`: None or `-` for stdout.
        requested: The value of `--format`, or None for the usual one.

    Raises:
        SettingError: Binary data would go to a terminal, or the ending of `out` names no format.
        PrerequisiteError: stdout is closed.
    """
    if out is not None and not is_stdout(out):
        if requested is not None:
            return TableFormat(requested)
        # A device, or the pipe of a shell's `>(command)`, has no ending that means anything.
        ending = "" if _is_special(_file(out)) else _file(out).suffix.lower()
        if ending not in _FORMAT_OF_ENDING:
            raise SettingError(
                f"the ending of `--out {out}` does not say how to write the table",
                hint="end it in .parquet, .jsonl or .csv, or add --format parquet|jsonl|csv|table",
            )
        return _FORMAT_OF_ENDING[ending]
    if sys.stdout is None:
        raise PrerequisiteError("standard output is closed", hint="add --out FILE")
    if requested is not None and TableFormat(requested) is not TableFormat.PARQUET:
        return TableFormat(requested)
    if sys.stdout.isatty():
        raise SettingError(
            "refusing to write binary Parquet to a terminal",
            hint="add --out FILE, pipe into another command, or ask for --format table",
        )
    return TableFormat.PARQUET


def is_stdout(out: Path | None) -> bool:
    """Whether the value of `--out` means stdout."""
    return out is None or str(out) == STANDARD_STREAM


def side_format(path: Path, option: str) -> TableFormat:
    """How a table beside the main one is written: by the ending of its file.

    Raises:
        SettingError: The ending names no format that holds data.
    """
    chosen = _FORMAT_OF_ENDING.get(_file(path).suffix.lower(), TableFormat.TABLE)
    if chosen is TableFormat.TABLE:
        raise SettingError(
            f"the ending of `{option} {path}` does not say how to write the table",
            hint="end it in .parquet, .jsonl or .csv",
        )
    return chosen


def ensure_distinct(outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse outputs that would overwrite each other, or what the command reads.

    `--out` may name an input: it is written when everything has been read.

    Args:
        outputs: Options and the files they name.
        inputs: What is read, by name.

    Raises:
        SettingError: Two of them are one file.
    """
    taken: dict[Path, str] = {}
    for name, path in inputs.items():
        if path is not None and str(path) != STANDARD_STREAM:
            taken[Path(path).resolve()] = name
    for option, path in outputs.items():
        if path is None or is_stdout(path) or _is_special(path):
            continue
        before = taken.get(path.resolve())
        if before is not None and not (option == "--out" and before in inputs):
            raise SettingError(f"`{option} {path}` would overwrite {before}", hint="give it a file of its own")
        taken[path.resolve()] = f"what `{option}` writes"


def ensure_writable(path: Path | None, option: str = "--out") -> None:
    """Find out before long work whether a file can be written where the user wants it.

    Args:
        path: The file; None passes, and so does `--out -`.
        option: The option it came from, for the message.

    Raises:
        SettingError: Another option than `--out` names stdout, which is for the table.
        PrerequisiteError: The folder is missing or not writable, or the path is a folder.
    """
    if path is None or (option == "--out" and is_stdout(path)):
        return
    if is_stdout(path):
        raise SettingError(f"`{option} -` would mix with the table on stdout", hint="name a file")
    file = _file(path)
    named = f"`{option} {path}`"
    if file.is_dir():
        raise PrerequisiteError(f"cannot write {named}: it is a folder", hint="name a file inside it")
    if _is_special(file):
        if not os.access(file, os.W_OK):
            raise PrerequisiteError(f"cannot write {named}: permission denied")
        return
    if not file.parent.is_dir():
        raise PrerequisiteError(
            f"cannot write {named}: the folder `{file.parent}` does not exist", hint=f"mkdir -p {file.parent}"
        )
    try:
        # Asking for permission bits is not enough: a read-only file system or a full disk shows only when tried.
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise PrerequisiteError(f"cannot write {named}: {reason_of(error)}") from error


def write_output(
    table: "pl.DataFrame", out: Path | None, requested: str | None, steps: Sequence[dict[str, Any]]
) -> None:
    """Write a finished table to stdout or, as a whole or not at all, to a file.

    Args:
        table: The table.
        out: The value of `--out`: None or `-` for stdout.
        requested: The value of `--format`, or None for the usual one.
        steps: Provenance, kept by Parquet only.

    Raises:
        SettingError: See `output_format`.
        PrerequisiteError: The file or stdout cannot be written.
        BrokenPipeError: The reader of stdout has gone.
    """
    from pyllm.data.tables import write_table

    chosen = output_format(out, requested)
    buffer = io.BytesIO()
    if chosen == TableFormat.TABLE:
        from pyllm.cli._tables import draw_frame

        text = draw_frame(table, terminal=is_stdout(out) and stdout_is_terminal())
        buffer.write(text.encode(_stdout_encoding() if is_stdout(out) else "utf-8", "replace"))
    else:
        write_table(table, buffer, format=_data_format(chosen), steps=steps)
    write_data(buffer.getbuffer(), out)


def write_data(data: bytes | memoryview, out: Path | None) -> None:
    """Write what is finished to stdout or, as a whole or not at all, to a file.

    Args:
        data: What to write.
        out: The value of `--out`: None or `-` for stdout.

    Raises:
        PrerequisiteError: The file or stdout cannot be written.
        BrokenPipeError: The reader of stdout has gone.
    """
    from pyllm.data.tables import write_bytes_atomically

    if out is None or is_stdout(out):
        write_stdout(data)
        return
    file = _file(out)
    with _naming(f"`--out {out}`"):
        if _is_special(file):
            file.write_bytes(data)
        else:
            write_bytes_atomically(file, bytes(data))


def _data_format(chosen: TableFormat) -> Literal["parquet", "jsonl", "csv"]:
    return "jsonl" if chosen is TableFormat.JSONL else "csv" if chosen is TableFormat.CSV else "parquet"


def write_stdout(data: bytes | memoryview) -> None:
    """Write bytes to stdout at once, past Python's buffer: after a failure nothing is left to be tried again at exit.

    Raises:
        BrokenPipeError: The reader has gone.
        PrerequisiteError: Any other failure, such as a full disk.
    """
    if sys.stdout is None:
        raise PrerequisiteError("standard output is closed", hint="add --out FILE")
    sys.stdout.flush()
    rest = memoryview(data)
    with _naming("standard output"):
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]


def write_stdout_text(text: str) -> None:
    """Write text for people to stdout, with a stand-in for characters that its encoding lacks."""
    write_stdout(text.encode(_stdout_encoding(), "replace"))


def write_report(path: Path | None, numbers: dict[str, Any]) -> None:
    """Write the numbers of a run as JSON, if the user asked for it.

    Raises:
        PrerequisiteError: The file cannot be written.
    """
    if path is None:
        return
    import json

    from pyllm.data.tables import write_bytes_atomically

    data = (json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with _naming(f"`--report {path}`"):
        if _is_special(_file(path)):
            _file(path).write_bytes(data)
        else:
            write_bytes_atomically(_file(path), data)


def reader_gone() -> bool:
    """Whether stdout is a pipe whose reader has closed it. Costs one system call: ask after each unit of work."""
    try:
        mode = os.fstat(1).st_mode
    except OSError:
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    poller = select.poll()
    poller.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


def stop_without_reader() -> None:
    """End early when the reader of stdout has gone; ask it after each unit of work.

    Raises:
        BrokenPipeError: It has gone.
    """
    if reader_gone():
        raise BrokenPipeError


def stdout_is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def _file(path: Path) -> Path:
    """The file behind a path: renaming over a link would replace the link instead."""
    return path if _is_special(path) else path.resolve()


def _is_special(path: Path) -> bool:
    """Whether a path names a device or a pipe, which is written to and never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _stdout_encoding() -> str:
    return (sys.stdout.encoding if sys.stdout is not None else None) or "utf-8"


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PrerequisiteError(f"cannot write {what}: {reason_of(error)}") from error
