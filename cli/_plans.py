"""What `toolkit finetune` shows before a run: examples with their mask, and the plan."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import Console, clock_time
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.finetune.job import Job, Request
    from pyllm.finetune.mask import ShownExample
    from pyllm.finetune.plan import Plan
    from pyllm.finetune.probe import Hours, Probe

PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Tell what the run would take (rows, tokens, steps, memory, hours), and do not run."),
]
ShowMaskOption = Annotated[
    int | None,
    typer.Option(
        "--show-mask",
        metavar="N",
        min=1,
        help="Write the first N examples to stdout, with marks around what is trained, and do not run.",
        show_default=False,
    ),
]

_MARKS = ("\u27e6", "\u27e7")
_PLAIN_MARKS = ("[[", "]]")
_GREEN, _DIM, _RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def looks_only(*, plan: bool, show_mask: int | None) -> bool:
    """Whether nothing is to be trained.

    Raises:
        SettingError: Both were asked for.
    """
    if plan and show_mask is not None:
        raise SettingError("`--plan` and `--show-mask` contradict each other", hint="ask for one after the other")
    return plan or show_mask is not None


def look(
    request: "Request",
    out: Path,
    *,
    show_mask: int | None,
    save_every: int | None,
    report: Path | None,
    console: Console,
) -> None:
    """Show examples with their mask, or the plan; nothing is written to the folder of the run.

    Raises:
        InputError: No row can be trained on.
        SettingError: Settings contradict each other, the rows or the model.
        PrerequisiteError: The model is not there, memory runs out, or something cannot be written.
    """
    from pyllm.finetune.job import prepare

    if show_mask is not None:
        write_mask(prepare(request, kept=out), show_mask, report)
        return

    from pyllm.finetune.processes import world

    tell_plan(prepare(request, kept=out, processes=world()[1]), save_every=save_every, report=report, console=console)


def write_mask(job: "Job", count: int, report: Path | None) -> None:
    """Write the first examples of a run to stdout, with marks around what is trained.

    Raises:
        InputError: No row can be trained on.
        PrerequisiteError: stdout or the report cannot be written.
    """
    from pyllm.finetune.mask import first_examples

    with tempfile.TemporaryDirectory() as folder:
        examples = first_examples(job, count, Path(folder))
    numbers = [
        {"cut": each.cut, "id": each.row_id, "tokens": each.tokens, "trained_tokens": each.trained_tokens}
        for each in examples
    ]
    _pipes.write_report(report, {"command": "finetune --show-mask", "examples": numbers})
    _pipes.write_stdout_text(masked_text(examples, marks=_marks(), coloured=_is_coloured()))


def masked_text(examples: Sequence["ShownExample"], *, marks: tuple[str, str], coloured: bool) -> str:
    """A header line for each example, its text with marks around each trained stretch, and an empty line.

    Args:
        examples: What to show.
        marks: In front of and behind each trained stretch.
        coloured: Whether to colour trained stretches green.
    """
    from pyllm.cli._tables import readable

    lines = []
    for place, example in enumerate(examples, start=1):
        facts = [f"{example.tokens:,} tokens", f"{example.trained_tokens:,} trained"]
        if example.cut is not None:
            facts.append("cut" if example.cut else "whole")
        header = f"# {place}: row {readable(example.row_id)}, {', '.join(facts)}"
        text = ""
        for part in example.parts:
            shown = _harmless(part.text)
            if part.trained:
                shown = marks[0] + shown + marks[1]
                # A pager forgets the colour at the end of a line.
                shown = "\n".join(_painted(line, _GREEN, coloured=coloured) for line in shown.split("\n"))
            text += shown
        lines.append(f"{_painted(header, _DIM, coloured=coloured)}\n{text}\n\n")
    return "".join(lines)


def _harmless(text: str) -> str:
    """Text without the control characters that could steer a terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t\u200c\u200d" else "\ufffd" for letter in text)


def _painted(text: str, colour: str, *, coloured: bool) -> str:
    return f"{colour}{text}{_RESET}" if coloured and text else text


def _is_coloured() -> bool:
    return _pipes.stdout_is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _marks() -> tuple[str, str]:
    """Marks that stdout can write."""
    try:
        "".join(_MARKS).encode((sys.stdout.encoding if sys.stdout is not None else None) or "utf-8")
    except UnicodeEncodeError:
        return _PLAIN_MARKS
    return _MARKS


def tell_plan(job: "Job", *, save_every: int | None, report: Path | None, console: Console) -> None:
    """Tell on stderr what a run would take, and write it to the report.

    Raises:
        InputError: No row can be trained on.
        PrerequisiteError: Memory runs out, or the report cannot be written.
    """
    from pyllm.finetune.plan import make_plan
    from pyllm.finetune.probe import hours_of, run_probe
    from pyllm.finetune.processes import world

    rank, processes = world()
    with tempfile.TemporaryDirectory() as name, console.progress() as progress:
        folder = Path(name)
        plan = make_plan(job, folder, processes=processes, save_every=save_every, progress=progress)
        progress.finish()
        if rank == 0:
            console.say("\n".join(_counted(plan, job)))
        probe = run_probe(job, plan, folder)
    if rank != 0:
        return
    hours = hours_of(plan, probe)
    console.say("\n".join(_timed(plan, probe, hours)))
    _pipes.write_report(
        report,
        {
            "command": "finetune --plan",
            **plan.numbers(),
            "hours": {"evaluation": hours.evaluation, "total": hours.total, "training": hours.training},
            "probe": {
                "device": probe.device,
                "optimizer_seconds": probe.optimizer_seconds,
                "pass_seconds": list(probe.pass_seconds),
                "pass_tokens": list(probe.pass_tokens),
                "peak_bytes": probe.peak_bytes,
                "tokens_per_second": probe.tokens_per_second,
            },
        },
    )


def _counted(plan: "Plan", job: "Job") -> list[str]:
    from pyllm.finetune.probe import gib

    numbers, settings = plan.numbers(), job.settings
    steps, passes, memory = numbers["step_tokens"], numbers["passes"], plan.memory
    unit = "examples" if settings.batch_examples is not None else f"packs of {settings.max_length:,} tokens"
    items = settings.batch_examples or max(1, round((settings.batch_tokens or 0) / settings.max_length))
    padding = f", {100 * passes['padding']:.1f} % of what they compute is padding" if settings.padded else ""
    parts = {
        "weights": memory.weights, "gradients": memory.gradients, "Adam's moments": memory.moments,
        "copies": memory.copies, "activations": memory.activations, "head": memory.head,
    }  # fmt: skip
    each = "" if plan.processes == 1 else f" on each of {plan.processes} devices"
    return [
        f"  rows     {_rows_line(plan, settings.max_length)}",
        f"  tokens   {numbers['tokens']:,} in {settings.epochs:g} epochs,"
        f" {100 * numbers['trained_tokens'] / numbers['tokens']:.1f} % of them trained",
        f"  steps    {plan.schedule.steps:,} of {items:,} {unit}; {steps['median']:,} tokens a step (median),"
        f" {steps['largest']:,} (largest)",
        f"  passes   {passes['per_step']:,} a step, {100 * plan.fill:.1f} % full of {plan.pass_limit:,} tokens;"
        f" the largest computes {passes['largest_tokens']:,}{padding}",
        f"  weights  {numbers['parameters']['all']:,}, of which {plan.shape.trained:,} are trained",
        f"  memory   about {gib(memory.total)}{each}: "
        + ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size),
    ]


def _rows_line(plan: "Plan", length: int) -> str:
    phrases = {
        "truncated": f"cut at {length:,} tokens",
        "fully_masked": "with nothing to train",
        "without_answer": "without an answer",
        "too_long": "too long",
        "refused": "refused by the chat template",
    }
    rows = plan.rows
    first = f"{rows['trained']:,} trained" + ("" if rows["in"] is None else f" of {rows['in']:,}")
    return ", ".join([first, *(f"{rows[kind]:,} {phrase}" for kind, phrase in phrases.items() if rows[kind])])


def _timed(plan: "Plan", probe: "Probe", hours: "Hours") -> list[str]:
    from pyllm.finetune.probe import gib

    peak = "" if probe.peak_bytes is None else f"; the probe took {gib(probe.peak_bytes)}"
    held_out = "" if not plan.evaluated_tokens else f", {_span(hours.evaluation)} of it for held-out rows"
    rate = probe.tokens_per_second * plan.processes
    return [f"  time     about {_span(hours.total)}{held_out}, at {rate:,.0f} tokens/s on {probe.device}{peak}"]


def _span(hours: float) -> str:
    return clock_time(3600 * hours) if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
