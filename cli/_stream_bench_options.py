"""Options that the benches of `toolkit stream bench` share, and what is written of their results."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _pipes, _stream_options
from pyllm.cli._console import Console, stderr_is_terminal
from pyllm.errors import InputError, SettingError, reason_of

if TYPE_CHECKING:
    import polars as pl

    from pyllm.stream.bench.arms import Decay, Grid
    from pyllm.stream.bench.page import Plot
    from pyllm.stream.bench.report import Table
    from pyllm.stream.bench.tasks import Conversation, Task
    from pyllm.stream.bench.wording import Wording
    from pyllm.stream.model import StreamModel

POLICIES = "full,window,streaming,random,interval,sirllm"
# Lists, as Typer wants them of options that may be given again.
RECENT, SPANS, HORIZONS, SCORES = ["32"], ["0,8"], ["20"], ["surprisal"]


class History(StrEnum):
    """Which answers go into the cache."""

    SELF = "self"
    GOLD = "gold"


class BenchTemplate(StrEnum):
    """How turns are worded."""

    AUTO = "auto"
    CHAT = "chat"
    VICUNA = "vicuna"


OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the results; a run that was stopped goes on from it.")
]
DataArgument = Annotated[
    list[Path], typer.Argument(metavar="DATA...", help="Data files of the experiment.", show_default=False)
]
PoliciesOption = Annotated[
    str, typer.Option("--policies", metavar="NAME[+A],...", help="Policies, with +A for a span of A tokens.")
]
CacheOption = Annotated[
    list[str], typer.Option("--cache", metavar="C,...", help="Tokens kept; repeatable. Each size is a set of arms.")
]
RecentsOption = Annotated[
    list[str], typer.Option("--recent", metavar="R,...", help="Newest tokens kept, within the same cache; repeatable.")
]
SpansOption = Annotated[
    list[str],
    typer.Option("--spans", metavar="A,...", help="Spans of scored policies that are named without one; repeatable."),
]
DecaysOption = Annotated[
    list[str],
    typer.Option("--decay", metavar="D|auto,...", help="Factors on scores once a turn, or `auto`; repeatable."),
]
HorizonsOption = Annotated[
    list[str], typer.Option("--horizon-turns", metavar="H,...", help="Of a decay of `auto`, in turns; repeatable.")
]
ScoresOption = Annotated[
    list[str],
    typer.Option("--score", metavar="surprisal|as-published,...", help="What `sirllm` goes by; repeatable."),
]
SinksOption = Annotated[int, typer.Option("--sinks", metavar="S", min=0, help="First tokens, always kept.")]
TiesOption = Annotated[_stream_options.Ties, typer.Option("--ties", help="Which of equal tokens stays.")]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="NAME[+A]",
        help="What others are compared with: a policy, at the same cache size, or a whole arm. Default: streaming,"
        " else the first.",
        show_default=False,
    ),
]
HistoryOption = Annotated[
    History, typer.Option("--history", help="Which answers go into the cache: the model's own, or the right ones.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Only the first dialogues; results are marked.", show_default=False
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of policy `random`, and of intervals.")
]
TemplateOption = Annotated[
    BenchTemplate, typer.Option("--template", help="auto: the model's chat template if it has one, else vicuna.")
]


def words_of(values: Sequence[str], name: str) -> tuple[str, ...]:
    """The values of an option that may be given again and may hold several, each once, in order.

    Raises:
        SettingError: There are none.
    """
    words = tuple(dict.fromkeys(word.strip() for value in values for word in value.split(",") if word.strip()))
    if not words:
        raise SettingError(f"{name} is given without a value")
    return words


def numbers_of(values: Sequence[str], name: str) -> tuple[int, ...]:
    """The same for whole numbers.

    Raises:
        SettingError: One is no whole number.
    """
    words = words_of(values, name)
    for word in words:
        if not word.isdecimal():
            raise SettingError(f"{name}: `{word}` is no whole number")
    return tuple(dict.fromkeys(int(word) for word in words))


def choices_of(values: Sequence[str], name: str, known: Sequence[Any]) -> tuple[Any, ...]:
    """The same for words of a list.

    Raises:
        SettingError: One is not among them.
    """
    words = words_of(values, name)
    for word in words:
        if word not in [each.value for each in known]:
            raise SettingError(f"{name}: `{word}` is not among {', '.join(each.value for each in known)}")
    return words


def decays_of(values: Sequence[str]) -> "tuple[Decay, ...]":
    """Fixed factors, and `auto`.

    Raises:
        SettingError: One is neither.
    """
    made: list[Decay] = []
    for word in words_of(values, "--decay"):
        if word == "auto":
            made.append("auto")
            continue
        try:
            made.append(float(word))
        except ValueError:
            raise SettingError(f"--decay: `{word}` is neither a number nor `auto`") from None
    return tuple(dict.fromkeys(made))


def grid_of(
    *,
    policies: str,
    cache: Sequence[str],
    recent: Sequence[str],
    spans: Sequence[str],
    decay: Sequence[str],
    horizon_turns: Sequence[str],
    score: Sequence[str],
    sinks: int,
    first_token: _stream_options.FirstToken,
    ties: _stream_options.Ties,
    seed: int,
) -> "Grid":
    """The arms that options name.

    Raises:
        SettingError: A value is none.
    """
    from pyllm.stream.bench.arms import Grid

    grid = Grid(
        policies=words_of([policies], "--policies"),
        caches=numbers_of(cache, "--cache"),
        recents=numbers_of(recent, "--recent"),
        spans=numbers_of(spans, "--spans"),
        decays=decays_of(decay),
        horizons=numbers_of(horizon_turns, "--horizon-turns"),
        scores=choices_of(score, "--score", tuple(_stream_options.Score)),
        sinks=sinks,
        first_token=first_token.value,
        ties=ties.value,
        seed=seed,
    )
    for arm in grid.arms():
        _stream_options.check_policy(arm.settings)
    return grid


def data_facts(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and digest of each data file.

    Raises:
        InputError: One cannot be read.
    """
    from pyllm.provenance import sha256_hex

    facts = []
    for path in paths:
        try:
            facts.append({"name": path.name, "sha256": sha256_hex(path.read_bytes())})
        except OSError as error:
            raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    return facts


def warn_of_limits(model: "StreamModel", grid: "Grid", console: Console) -> None:
    """Say which caches are larger than what the model was made for."""
    from pyllm.stream.dialogue import limit_warning

    for warning in dict.fromkeys(limit_warning(model, arm.settings) for arm in grid.arms()):
        if warning is not None:
            console.say(f"warning: {warning}")


def write_results(
    out: Path,
    name: str,
    table: "pl.DataFrame",
    numbers: Mapping[str, Any],
    *,
    tables: "Sequence[Table]",
    brief: "Sequence[Table]",
    plots: "Sequence[Plot]",
    report: Path | None,
    console: Console,
) -> None:
    """Write a bench's table, report and page, and show its tables.

    Args:
        out: The folder.
        name: Of the bench.
        table: All results.
        numbers: The report; what it says of the run goes into the table's provenance and onto the page.
        tables: For the page.
        brief: For the terminal.
        plots: For the page.
        report: Where else the report goes.
        console: Shows the tables.
    """
    from pyllm.cli._tables import Column, draw_table, readable
    from pyllm.data.tables import write_bytes_atomically, write_json_atomically, write_table
    from pyllm.provenance import canonical_json, step
    from pyllm.stream.bench.page import page

    facts = {each: numbers[each] for each in ("model", "settings", "data", "partial") if each in numbers}
    write_table(table, out / f"{name}.parquet", format="parquet", steps=[step(f"stream bench {name}", **facts)])
    write_json_atomically(out / f"{name}.json", dict(numbers))
    shown = {each: value if isinstance(value, str) else canonical_json(value) for each, value in facts.items()}
    shown |= {each: numbers[each] for each in ("weights_sha256", "dtype", "device", "version") if each in numbers}
    shown.pop("partial", None)
    html = page(f"toolkit stream bench {name}", shown, tables, plots, partial=numbers.get("partial"))
    write_bytes_atomically(out / "page.html", html.encode())
    _pipes.write_report(report, dict(numbers))
    if numbers.get("partial"):
        console.say(f"partial results: {numbers['partial']}")
    for each in brief:
        console.say(f"{readable(each.title)}")
        columns = [Column(title, kind) for title, kind in each.columns]
        rows = [[readable(cell) for cell in row] for row in each.rows]
        console.say(draw_table(columns, rows, terminal=stderr_is_terminal()).rstrip("\n"))


def read_dialogues(
    task: "Task", paths: Sequence[Path], most: int | None, limit: int | None
) -> "tuple[list[Conversation], list[str]]":
    """Dialogues of a task, and what is said where they are not all of the experiment."""
    from pyllm.stream.bench.tasks import DAILYDIALOG_LINES, ROUNDS, read_task

    rounds = ROUNDS if task != "rps" or most is None else most
    lines = DAILYDIALOG_LINES if task == "dailydialog" and most is None else most
    conversations = read_task(task, paths, rounds=rounds, lines=lines)
    said = []
    if task == "rps" and rounds < ROUNDS:
        said.append(f"{task}: {rounds:,} rounds of each player, and {ROUNDS:,} are published")
    if task == "dailydialog" and lines is not None and lines < DAILYDIALOG_LINES:
        said.append(f"{task}: the first {lines:,} lines of each file, and {DAILYDIALOG_LINES:,} are published")
    if task == "grocery" and most is not None:
        said.append(f"{task}: the first {most:,} lines of each file")
    if limit is not None and limit < len(conversations):
        said.append(f"{task}: the first {limit:,} of {len(conversations):,} dialogues")
        conversations = conversations[:limit]
    return conversations, said


def wording_of(source: Any, loaded: "StreamModel", template: BenchTemplate) -> "Wording":
    from pyllm.stream.bench.wording import Wording

    vocabulary = int(loaded.model.config.get_text_config().vocab_size)
    return Wording(_stream_options.tokenizer_of(source), template.value, vocabulary)
