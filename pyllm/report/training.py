"""Training runs on a page: losses, throughput, and how the selection did against its baselines."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pyllm.report import drawing
from pyllm.report.blocks import (
    Block,
    Cell,
    Column,
    Heading,
    Plot,
    Section,
    Table,
    Words,
    count,
    number,
    one_line,
    words,
)
from pyllm.report.sources import FinetuneRun, Sources

_MOST_MARKED = 60
_SHOWN_PARTS = 60


def training_section(sources: Sources) -> Section | None:
    """The section about training runs; None where there are none."""
    if not sources.finetunes:
        return None
    blocks: list[Block] = []
    for run in sources.finetunes:
        blocks += [Heading(run.name)] if len(sources.finetunes) > 1 else []
        blocks += _run_blocks(run)
    return Section("training", "Training", tuple(blocks))


def _run_blocks(run: FinetuneRun) -> list[Block]:
    result = run.result
    steps = [event for event in run.events if event["event"] == "step"]
    evaluations = [event for event in run.events if event["event"] == "evaluation" and _known(event["held_out_loss"])]
    sentence = f"{_key(run, 'model', 'name') or 'a model'} trained for {result['step']:,} of {result['steps']:,}"
    sentence += f" steps on {result['examples']:,} rows: {result['tokens']:,} tokens, of which"
    sentence += f" {result['trained_tokens']:,} were learned, in {result['seconds']:,.1f} seconds."
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        best = min(evaluations, key=lambda event: float(event["held_out_loss"]))
        sentence += (
            f" Held-out loss {first['held_out_loss']:.4f} at step {first['step']:,}, {last['held_out_loss']:.4f} at the"
            f" end, {best['held_out_loss']:.4f} at best (step {best['step']:,})."
        )
    blocks: list[Block] = [Words(sentence)]
    if steps:
        blocks.append(Plot("Loss", _loss(steps, evaluations)))
        if speeds := _speeds(run.events):
            curve = drawing.curve_of("tokens a second", speeds)
            drawn = drawing.lines([curve], across="step", up="tokens a second", from_zero=True)
            blocks.append(Plot("Throughput", drawn, "Time of the steps alone: evaluations and checkpoints left out."))
        rates = [(event["step"], event["learning_rate"]) for event in steps if _known(event.get("learning_rate"))]
        norms = [(event["step"], event["gradient_norm"]) for event in steps if _known(event.get("gradient_norm"))]
        for name, pairs in (("Learning rate", rates), ("Gradient norm", norms)):
            if len(pairs) > 1:
                curve = drawing.curve_of(name, pairs)
                drawn = drawing.lines([curve], across="step", up=name.lower(), from_zero=True)
                blocks.append(Plot(f"{name}", drawn))
    if run.comparison is not None:
        blocks += _comparison_blocks(run.comparison)
    return blocks


def _known(value: object) -> bool:
    return isinstance(value, int | float)


def _key(run: FinetuneRun, *path: str) -> Any:
    value: Any = run.record.get("key", {})
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _loss(steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> str:
    curves = [drawing.curve_of("training", ((event["step"], event["loss"]) for event in steps))]
    if evaluations:
        held_out = [(event["step"], event["held_out_loss"]) for event in evaluations]
        curves.append(drawing.curve_of("held out", held_out, marked=len(held_out) <= _MOST_MARKED))
    return drawing.lines(curves, across="step", up="loss, nats a token")


def _speeds(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Tokens a second of each step, by the time since the event before it."""
    speeds = []
    for before, event in itertools.pairwise(events):
        seconds = event["seconds"] - before["seconds"]
        if event["event"] == "step" and seconds > 0 and before["event"] not in ("start", "resume"):
            speeds.append((float(event["step"]), event["tokens"] / seconds))
    return speeds


def _comparison_blocks(found: Mapping[str, Any]) -> list[Block]:
    """The baseline table, and how much each control differs from the selection."""
    held_out, arms = found["held_out"], found["arms"]
    runs = max(len(arm["runs"]) for arm in arms)
    seeds = "one seed" if runs == 1 else f"mean of {runs} seeds"
    blocks: list[Block] = [
        Words(f"Baselines: {held_out['rows']:,} held-out rows with {held_out['tokens']:,} trained tokens, {seeds}.")
    ]
    blocks += [Words(f"{sentence[:1].upper()}{sentence[1:]}.") for sentence in found["verdicts"].values()]
    whole = [each for each in found["comparisons"] if each["stratum"]["kind"] == "all" and each["per_token"]]
    if whole:
        rows = [
            drawing.Dot(each["control"], *(each["per_token"][name] for name in ("difference", "low", "high")))
            for each in whole
        ]
        drawn = drawing.dots(rows, across="loss less that of the selection, nats a token", zero=0.0, decimals=4)
        blocks.append(
            Plot(
                "Selection against baselines",
                drawn,
                f"Right of 0 the selection is better. Bars are {100 * found['confidence']:.0f} % intervals over"
                " held-out rows.",
            )
        )
    per_run = [
        drawing.Dot(arm["arm"], arm["loss_per_token"], min(losses), max(losses))
        for arm in arms
        if (losses := [run["loss_per_token"] for run in arm["runs"]])
    ]
    drawn = drawing.dots(per_run, across="held-out loss, nats a token", decimals=4)
    blocks.append(Plot("Held-out loss by what was trained on", drawn, "Bars reach from the best seed to the worst."))
    blocks.append(_arm_table(arms, "Baseline table"))
    blocks.append(_difference_table(found["comparisons"], "Differences from the selection"))
    blocks += [Words(f"Note: {note}.") for note in found["notes"]]
    return blocks


def _arm_table(arms: Sequence[Mapping[str, Any]], title: str) -> Table:
    columns = (Column("trained on", "word"), Column("rows"), Column("tokens"), Column("steps"), Column("per token"),
               Column("± seeds"), Column("per row"))  # fmt: skip
    rows = []
    for arm in arms:
        trained = bool(arm["tokens"])
        counts = [count(arm[name]) if trained else Cell("–") for name in ("rows", "tokens", "steps")]
        losses = [number(arm[name], digits=4) for name in ("loss_per_token", "spread_per_token", "loss_per_row")]
        rows.append((words(arm["arm"]), *counts, *losses))
    return Table(title, columns, tuple(rows), "Losses in nats; ± seeds is the standard deviation of losses per token.")


def _difference_table(comparisons: Sequence[Mapping[str, Any]], title: str) -> Table:
    columns = (Column("held-out rows", "text"), Column("rows"), Column("against", "word"),
               Column("per token (95 % interval)"), Column("per row (95 % interval)"))  # fmt: skip
    rows = []
    for each in comparisons[:_SHOWN_PARTS]:
        cells = []
        for kind in ("per_token", "per_row"):
            apart = each[kind]
            cells.append(
                Cell("too few rows")
                if apart is None
                else number(apart["difference"], (apart["low"], apart["high"]), digits=4, signed=True)
            )
        name = Cell(one_line(each["stratum"]["name"], 80))
        rows.append((name, count(each["rows"]), words(each["control"]), *cells))
    more = len(comparisons) - len(rows)
    note = "Loss of each less that of the selection: above 0 the selection is better."
    return Table(
        title, columns, tuple(rows), f"{note} {more:,} more parts are in the run's own table." if more else note
    )
