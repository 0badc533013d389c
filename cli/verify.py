"""`toolkit verify`: a run's digests computed again, from the rows it came from to its final weights."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _console, _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.errors import InputError

if TYPE_CHECKING:
    from pyllm.finetune.verify import Verification

EXAMPLES = """\b
Examples:
  toolkit verify runs/a
  toolkit verify runs/a --require-sources
  toolkit verify runs/a --report verified.json && rsync -a runs/a archive:
"""

_logger = logging.getLogger("pyllm.verify")

_GOOD = ("holds", "unchanged")
_BAD = ("differs", "changed")
_WORDS = {"unproven": "there, no digest known", "stream": "came through a pipe"}
_SHOWN_DIGITS = 12
_SHOWN_FOREIGN = 10


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    *,
    require_sources: Annotated[
        bool, typer.Option("--require-sources", help="Fail too where a file that the run came from is gone.")
    ] = False,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compute every hash of a run again.

    Ends with 0 when all of them hold and with 3, naming each file, when one does not. A run keeps its rows, so it
    verifies alone; the files that it came from are compared where they are still there, and listed where they are not.
    An unfinished run is verified as far as it is.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")

    from pyllm.finetune.verify import verify_run

    with console.progress() as progress:
        found = verify_run(run, progress=progress)
    _pipes.write_report(report, found.as_dict())
    _show(found, console)
    for fault in found.faults:
        _logger.warning("%s", _printable(fault))
    gone = [_printable(each.name) for each in found.sources_in("gone")]
    if found.faults:
        count = len(found.faults)
        named = "1 file is" if count == 1 else f"{count:,} files are"
        raise InputError(f"{run} does not verify: {named} not what the run says")
    if gone and require_sources:
        raise InputError(f"{run} holds, but what it came from is gone: {', '.join(gone)}")
    state = "holds" if found.finished else "is not finished, and holds as far as it is"
    console.say(f"{run} {state}: {found.files:,} files")


def _show(found: "Verification", console: Console) -> None:
    """The chain, a line a link; then what is not of the run."""
    given = {"rows": "rows given", "held-out rows": "held-out rows given", "model": "model"}
    rows = [
        (each.what, _pipes.input_name(each.name), each.sha256, _WORDS.get(each.state, each.state))
        for each in found.sources
    ]
    before = [(f"read by {row[0]}", *row[1:]) for row in rows if row[0] not in given]
    middle = [(given[row[0]], *row[1:]) for row in rows if row[0] in given]
    links = [(each.stage, each.name, each.sha256, each.state) for each in found.chain]
    steps = next((place for place, link in enumerate(links) if "rows kept" in link[0] or "packs" in link[0]), 0)
    lines = [*before, *links[:steps], *middle, *links[steps:]]
    width = max(len(stage) for stage, *_ in lines)
    name_width = max(len(_printable(name)) for _, name, *_ in lines)
    for stage, name, digest, state in lines:
        shown = (digest or "")[:_SHOWN_DIGITS]
        console.say(
            f"  {stage:<{width}}  {_printable(name):<{name_width}}  {shown:<{_SHOWN_DIGITS}}  {_painted(state)}"
        )
    for name in found.foreign[:_SHOWN_FOREIGN]:
        console.say(f"  not of this run: {_printable(name)}")
    if len(found.foreign) > _SHOWN_FOREIGN:
        console.say(f"  ... and {len(found.foreign) - _SHOWN_FOREIGN:,} more that are not of this run")
    for each in found.baselines:
        console.say(f"{each.run}{'' if each.finished else ', not finished'}:")
        _show(each, console)


def _painted(state: str) -> str:
    if state in _GOOD:
        return _console.painted_good(state)
    return _console.painted_bad(state) if state in _BAD else state


def _printable(text: str) -> str:
    """Text of a file's name, which may hold what a terminal obeys."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
