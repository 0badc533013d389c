"""`toolkit finetune --baseline`: the options, and the comparison as people read it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from pyllm.cli._console import Console, stderr_is_terminal
from pyllm.cli._pipes import STANDARD_STREAM
from pyllm.cli._tables import Column, draw_table, readable
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.finetune.baselines import BaselineSettings
    from pyllm.finetune.job import Job
    from pyllm.finetune.run import FinetuneResult
    from pyllm.progress import Progress

DEFAULT_SEEDS = 3

_SHOWN_DIFFERENCES = 40
_NAME_CHARACTERS = 30

BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="random,longest,all",
        help="Train these controls too, on as many tokens from --pool, and compare losses on --eval-data.",
        show_default=False,
    ),
]
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="SCORES", help="With --baseline: the table that TABLE was selected from.", show_default=False
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds", metavar="N", min=1, help="With --baseline: runs of each, S and up. Default: 3.", show_default=False
    ),
]


@dataclass(frozen=True, slots=True)
class Baselines:
    """What was asked for.

    Args:
        settings: Which controls, and how often.
        pool: Where the selection came from.
        eval_data: What is held out.
    """

    settings: "BaselineSettings"
    pool: str
    eval_data: str


def asked_for(
    baseline: str | None,
    pool: str | None,
    seeds: int | None,
    *,
    eval_data: str | None,
    early_stop: int | None,
    words: Sequence[str],
) -> Baselines | None:
    """Check the options against each other; None when no baseline is asked for.

    Args:
        baseline: `--baseline`.
        pool: `--pool`.
        seeds: `--seeds`.
        eval_data: `--eval-data`.
        early_stop: `--early-stop`.
        words: The command line, kept for the record.

    Raises:
        SettingError: One is missing, unknown, or contradicts another.
    """
    if baseline is None:
        for option, value in {"--pool": pool, "--seeds": seeds}.items():
            if value is not None:
                raise SettingError(f"`{option}` means nothing without `--baseline`", hint="add --baseline random")
        return None
    if pool is None:
        raise SettingError("`--baseline` needs the table that was selected from", hint="add --pool SCORES")
    if pool == STANDARD_STREAM:
        raise SettingError("`--pool` cannot be standard input", hint="name a file")
    if eval_data is None:
        raise SettingError("`--baseline` needs rows of their own to compare on", hint="add --eval-data FILE")
    if early_stop is not None:
        raise SettingError(
            "`--early-stop` and `--baseline` contradict each other: all arms are trained on equally many tokens"
        )
    from pyllm.finetune.arms import controls_of
    from pyllm.finetune.baselines import BaselineSettings

    settings = BaselineSettings(
        controls_of(baseline), DEFAULT_SEEDS if seeds is None else seeds, arguments=tuple(words)
    )
    return Baselines(settings, pool, eval_data)


class Compare(Protocol):
    """Trains the controls of a finished run and adds the comparison to its report."""

    def __call__(
        self, result: "FinetuneResult", out: Path, *, save_every: int | None, should_stop: Callable[[], bool]
    ) -> "FinetuneResult":
        """Compare."""


def prepare(wanted: Baselines, job: "Job", progress: "Progress", *, kept: bool) -> Compare:
    """Find out before the selection is trained whether it can be compared; what compares it.

    Args:
        wanted: What was asked for.
        job: The selection's run.
        progress: Listener.
        kept: Its rows are those that its folder keeps, whatever the command line names.

    Raises:
        InputError: The pool cannot be read or trained on.
        SettingError: The run holds other rows out.
        PrerequisiteError: The model cannot be read in packs.
    """
    from pyllm.finetune.baselines import check_held_out, prepare_pool, run_baselines

    if kept:
        check_held_out(job, wanted.eval_data)
    pool = prepare_pool(wanted.pool, job, wanted.settings, progress=progress)

    def compare(
        result: "FinetuneResult", out: Path, *, save_every: int | None, should_stop: Callable[[], bool]
    ) -> "FinetuneResult":
        settings = replace(wanted.settings, save_every=save_every)
        compared = run_baselines(job, out, pool, settings, progress=progress, should_stop=should_stop)
        if compared.table is None:
            return replace(result, stopped=True)
        return replace(result, report={**result.report, "baselines": compared.table})

    return compare


def tell(table: dict[str, Any], out: Path, console: Console) -> None:
    """Show the comparison on stderr."""
    held_out, terminal = table["held_out"], stderr_is_terminal()
    runs = max(len(arm["runs"]) for arm in table["arms"])
    console.say(
        f"held-out loss in nats, {held_out['rows']:,} rows with {held_out['tokens']:,} trained tokens,"
        f" mean of {runs} {'seed' if runs == 1 else 'seeds'}"
    )
    console.say(draw_table(_ARM_COLUMNS, [_arm_row(arm) for arm in table["arms"]], terminal=terminal).rstrip())
    console.say("loss per token of each less that of the selection, with the 95 % interval over held-out rows")
    # The untrained model is of interest as a whole; its parts stand in the table.
    trained = {arm["arm"] for arm in table["arms"] if arm["tokens"]}
    parts = [
        _difference_row(each)
        for each in table["comparisons"]
        if each["control"] in trained or each["stratum"]["kind"] == "all"
    ]
    shown = parts[:_SHOWN_DIFFERENCES]
    console.say(draw_table(_DIFFERENCE_COLUMNS, shown, terminal=terminal).rstrip())
    if len(parts) > len(shown):
        console.say(f"... and {len(parts) - len(shown):,} more in the table")
    for note in table["notes"]:
        console.say(f"note: {note}")
    for verdict in table["verdicts"].values():
        console.say(f"- {verdict}")
    console.say(f"  table          {out / 'baselines' / 'table.json'}")


_ARM_COLUMNS = (
    Column("trained on", "word"),
    Column("rows", "number"),
    Column("tokens", "number"),
    Column("steps", "number"),
    Column("per token", "number"),
    Column("± seeds", "number"),
    Column("per row", "number"),
)
_DIFFERENCE_COLUMNS = (
    Column("held-out rows", "word"),
    Column("rows", "number"),
    Column("against", "word"),
    Column("difference", "number"),
    Column("low", "number"),
    Column("high", "number"),
)


def _arm_row(arm: dict[str, Any]) -> list[str]:
    counts = [f"{arm[name]:,.0f}" if arm["tokens"] else "-" for name in ("rows", "tokens", "steps")]
    spread = "-" if arm["spread_per_token"] is None else f"{arm['spread_per_token']:.4f}"
    return [arm["arm"], *counts, f"{arm['loss_per_token']:.4f}", spread, f"{arm['loss_per_row']:.4f}"]


def _difference_row(comparison: dict[str, Any]) -> list[str]:
    found = comparison["per_token"]
    numbers = (
        ["too few", "-", "-"] if found is None else [f"{found[name]:+.4f}" for name in ("difference", "low", "high")]
    )
    name = readable(comparison["stratum"]["name"])
    return [name[:_NAME_CHARACTERS], f"{comparison['rows']:,}", comparison["control"], *numbers]
