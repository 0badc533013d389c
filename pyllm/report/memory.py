"""Bounded caches on a page: what was kept and forgotten over turns, and what policies recall, by their intervals."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from pyllm.errors import InputError
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
from pyllm.report.sources import BenchRun, SessionRun, Sources, TableRun
from pyllm.stream.view.history import History, history_of_session, history_of_trace

_MOST_CELLS = 48
_MOST_DOTS = 32
_MOST_CURVES = 8
_QUARTERS = ("lowest", "low", "high", "highest")


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a measure of arms is shown.

    Args:
        title: In words.
        percent: Whether it is a share.
        plotted: Whether it is drawn, and not only in the table.
    """

    title: str
    percent: bool = False
    plotted: bool = False


_MEASURES = {
    "accuracy": _Measure("right", percent=True, plotted=True),
    "accuracy_by_text": _Measure("right by text", percent=True),
    "gold_nats": _Measure("nats of the right choice"),
    "recall": _Measure("recall", percent=True, plotted=True),
    "recall_nats": _Measure("nats of the item"),
    "choice": _Measure("right among the told", percent=True, plotted=True),
    "retention": _Measure("share of the item's tokens kept", percent=True, plotted=True),
    "whole": _Measure("items kept whole", percent=True),
    "win": _Measure("won", percent=True, plotted=True),
    "tie": _Measure("tied", percent=True),
    "lose": _Measure("lost", percent=True),
    "nats": _Measure("nats a token", plotted=True),
    "answer_nats": _Measure("nats of the answer"),
}
"""Measures of `toolkit stream bench`, in the order of the tables."""


def memory_section(sources: Sources) -> Section | None:
    """The section about caches; None where there is nothing about them."""
    blocks: list[Block] = []
    for bench in sources.benches:
        blocks += _bench_blocks(bench)
    for trace in sources.of_kind("trace"):
        blocks += _trace_blocks(trace)
    for session in sources.sessions:
        blocks += _session_blocks(session)
    for answers in sources.of_kind("answers"):
        blocks += _answer_blocks(answers)
    return Section("stream", "Streaming memory", tuple(blocks)) if blocks else None


def _bench_blocks(run: BenchRun) -> list[Block]:
    numbers = run.numbers
    command = str(numbers["command"]).removeprefix("stream ")
    blocks: list[Block] = []
    try:
        if numbers.get("partial"):
            blocks.append(Words(f"{run.name}: partial results: {numbers['partial']}.", is_warning=True))
        if "tasks" in numbers:
            for task in numbers["tasks"]:
                blocks += [Heading(f"{run.name}: {command}, {task.get('task', '')}")]
                size = f"{task['dialogues']:,} dialogues, {task['turns']:,} turns, {task['tokens']:,} tokens"
                blocks += _arms_blocks(size, task)
        elif "protocols" in numbers:
            for protocol in numbers["protocols"]:
                blocks += [Heading(f"{run.name}: {command}, by {protocol['protocol']}")]
                blocks += _arms_blocks(f"{protocol['tokens']:,} tokens, read by {protocol['protocol']}", protocol)
        elif "layers" in numbers:
            blocks += [Heading(f"{run.name}: {command}"), *_attention_blocks(numbers)]
        else:
            size = f"{numbers['dialogues']:,} dialogues of about {numbers['tokens']:,.0f} tokens"
            settings = numbers.get("settings", {})
            if settings.get("cache") and settings.get("facts"):
                size += f", {settings['facts']:,} facts each, cache of {settings['cache']:,}"
            blocks += [Heading(f"{run.name}: {command}"), *_arms_blocks(size, numbers)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.name}: its JSON report is not one of `toolkit {numbers['command']}`: {error!r}"
        ) from error
    return blocks


def _arms_blocks(size: str, found: Mapping[str, Any]) -> list[Block]:
    """A comparison of arms: plots with intervals, curves where there are some, and the table."""
    arms, context = list(found["arms"]), list(found.get("context", []))
    against = dict.fromkeys(row["compared_with"] for row in arms if row.get("compared_with"))
    compared = (
        f" Differences are paired with {', '.join(f'`{each}`' for each in against)}." if len(against) == 1 else ""
    )
    blocks: list[Block] = [Words(f"{size[:1].upper()}{size[1:]}.{compared}")]
    for name, measure in _MEASURES.items():
        rows = [row for row in [*arms, *context] if row.get(name) is not None]
        if not measure.plotted or len(rows) < 2:
            continue
        scale = 100.0 if measure.percent else 1.0
        shown = [
            drawing.Dot(
                str(row["arm"]), scale * row[name],
                *(scale * end for end in row.get("intervals", {}).get(name, ())),
            )
            for row in rows[:_MOST_DOTS]
        ]  # fmt: skip
        unit = f"{measure.title}, %" if measure.percent else measure.title
        note = "Bars are 95 % intervals." if any(dot.low is not None for dot in shown) else ""
        if len(rows) > len(shown):
            note = f"{note} {len(rows) - len(shown):,} more are in the table.".strip()
        ends = (-2.0, 102.0) if measure.percent else None
        drawn = drawing.dots(shown, across=unit, decimals=1 if measure.percent else 3, ends=ends)
        blocks.append(Plot(measure.title.capitalize(), drawn, note))
    curves = [drawing.curve_of(str(row["arm"]), row["curve"]) for row in _best_of_kind(arms) if row.get("curve")]
    if curves:
        drawn = drawing.lines(curves[:_MOST_CURVES], across="tokens read", up="nats a token")
        blocks.append(Plot("Along the text", drawn, "Of each policy and span the best arm."))
    blocks.append(_arms_table(arms, context))
    return blocks


def _best_of_kind(arms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    best: dict[tuple[Any, Any], Mapping[str, Any]] = {}
    for row in arms:
        kind = row.get("policy", row["arm"]), row.get("span")
        if kind not in best or (row.get("nats") or 0.0) < (best[kind].get("nats") or 0.0):
            best[kind] = row
    return list(best.values())


def _arms_table(arms: Sequence[Mapping[str, Any]], context: Sequence[Mapping[str, Any]]) -> Table:
    rows = [*arms, *context]
    shown = {name: measure for name, measure in _MEASURES.items() if any(row.get(name) is not None for row in rows)}
    differing = {name for name in shown if any(name in row.get("differences", {}) for row in rows)}
    parts = sorted({name for row in rows for name in row if name.startswith("nats_")})
    columns = [Column("arm", "word")]
    for name, measure in shown.items():
        columns += [Column(measure.title), *([Column("difference")] if name in differing else [])]
    columns += [Column(f"nats, part {name.removeprefix('nats_')}") for name in parts]
    sizes = [("most_cache_tokens", "cache tokens"), ("cache_tokens", "cache tokens"), ("cache_bytes", "cache bytes"),
             ("process_bytes", "process bytes")]  # fmt: skip
    sizes = [(name, said) for name, said in sizes if any(row.get(name) is not None for row in rows)]
    columns += [Column(said) for _, said in sizes]
    cells = []
    for row in rows:
        line = [words(row["arm"])]
        for name, measure in shown.items():
            line.append(number(row.get(name), row.get("intervals", {}).get(name), percent=measure.percent))
            if name in differing:
                apart = row.get("differences", {}).get(name)
                line.append(
                    Cell("–")
                    if apart is None
                    else number(
                        apart["difference"], (apart["low"], apart["high"]), percent=measure.percent, signed=True
                    )
                )
        line += [number(row.get(name)) for name in parts]
        line += [count(row.get(name)) for name, _ in sizes]
        cells.append(tuple(line))
    return Table("All arms", tuple(columns), tuple(cells), "In brackets 95 % intervals.")


def _attention_blocks(numbers: Mapping[str, Any]) -> list[Block]:
    """How much tokens are looked at, by how surprising they are."""
    layers = numbers["layers"]
    curves = [
        drawing.Curve(f"layer {row['layer']}" if row["layer"] != "all" else "all layers", [1.0, 2.0, 3.0, 4.0],
                      row["share"], marked=True)
        for row in layers[-_MOST_CURVES:]
    ]  # fmt: skip
    drawn = drawing.lines(
        curves, across="quarter of tokens by surprisal, from lowest to highest", up="attention, of even"
    )
    columns = [Column("layer", "word"), *(Column(name) for name in _QUARTERS), Column("highest less lowest")]
    rows = []
    for row in layers:
        apart = row.get("weight_difference")
        cells = [number(value, digits=4) for value in row["weight"]]
        difference = (
            Cell("–")
            if apart is None
            else number(apart["difference"], (apart["low"], apart["high"]), digits=4, signed=True)
        )
        rows.append((words(row["layer"]), *cells, difference))
    return [
        Words(f"{numbers['sentences']:,} sentences."),
        Plot("Who is looked at", drawn, "1 is what each token would get if all were looked at alike."),
        Table("Mean weight by quarter of surprisal", tuple(columns), tuple(rows)),
    ]


def _trace_blocks(run: TableRun) -> list[Block]:
    settings = next(
        (step.get("settings") for step in reversed(run.steps) if step.get("command") == "stream replay"), None
    )
    dialogues = run.table.partition_by("dialogue_id", maintain_order=True)
    longest = max(dialogues, key=lambda part: part["entropy_nats"].list.len().sum())
    name = f"{run.name}, dialogue {one_line(str(longest['dialogue_id'][0]), 40)}"
    try:
        history = history_of_trace(longest, name, settings=settings)
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.name} is no trace of `toolkit stream replay`: {error!r}") from error
    tokens = int(run.table["entropy_nats"].list.len().sum())
    several = f"{len(dialogues):,} dialogues, {run.table.height:,} turns, {tokens:,} tokens; the longest is drawn. "
    return _history_blocks(history, several if len(dialogues) > 1 else "")


def _session_blocks(run: SessionRun) -> list[Block]:
    # Nothing of the texts is shown, so older logs need none.
    return _history_blocks(history_of_session(run.log, run.name, lambda ids: [""] * len(ids)), "")


def _history_blocks(history: History, before: str) -> list[Block]:
    """What a dialogue held and forgot, turn by turn."""
    went = np.array([len(history.ends), *(gone.turn for gone in history.gone)])[history.went + 1]
    turns = len(history.ends)
    starts = np.array([0, *history.ends[:-1]])
    born = np.repeat(np.arange(turns), np.diff([0, *history.ends]))
    read = np.array(history.ends)
    gone = np.cumsum(np.bincount(went[went < turns], minlength=turns))
    held = history.went < 0
    sentence = f"{before}{turns:,} turns, {int(read[-1]):,} tokens, {int(held.sum()):,} held at the end;"
    sentence += f" {history.rules[-1].said}."
    finite = np.isfinite(history.nats)
    if held.any() and (~held).any():
        sentence += (
            f" Mean surprisal of what is held {history.nats[held & finite].mean():.3f} nats, of what went"
            f" {history.nats[~held & finite].mean():.3f}."
        )
    labels = [float(label) for label in history.labels]
    curves = [drawing.curve_of(said, zip(labels, values.tolist(), strict=True))
              for said, values in (("read", read), ("held", read - gone), ("forgotten", gone))]  # fmt: skip
    blocks: list[Block] = [
        Heading(history.name),
        Words(sentence),
        Plot(
            "Kept and forgotten over turns",
            drawing.lines(curves, across="turn", up="tokens", from_zero=True),
        ),
    ]
    if turns > 1:
        shares, edges = held_shares(born, went, turns)
        follow = history.labels == list(range(history.labels[0], history.labels[0] + turns))
        edges = edges + (history.labels[0] if follow else 1) - 0.5
        drawn = drawing.shades(shares, edges, edges, across="after turn", up="tokens of turn")
        blocks.append(
            Plot(
                "Which turns are remembered",
                drawn,
                "Each row is what was read in a turn; the darker, the more of it is still held after the turn below.",
            )
        )
    means = [float(np.nanmean(np.where(finite, history.nats, np.nan)[start:end]))
             for start, end in zip(starts, history.ends, strict=True) if finite[start:end].any()]  # fmt: skip
    if len(means) == turns and turns > 1:
        drawn = drawing.lines(
            [drawing.curve_of("surprisal", zip(labels, means, strict=True))], across="turn", up="mean nats a token"
        )
        blocks.append(Plot("Surprisal", drawn))
    return blocks


def held_shares(
    born: Int[np.ndarray, " tokens"], went: Int[np.ndarray, " tokens"], turns: int
) -> tuple[Float[np.ndarray, "origins moments"], Float[np.ndarray, " borders"]]:
    """How much of what was read in a turn is still held after a later one.

    Args:
        born: In which turn each token was read, from 0.
        went: In which turn it went; the number of turns where it is held.
        turns: How many there are; neighbours are put together where they are many.

    Returns:
        Shares by turn of origin and turn of looking, NaN before the origin, and the borders of both.
    """
    edges = np.unique(np.linspace(0, turns, min(turns, _MOST_CELLS) + 1).round().astype(np.int64))
    shares = np.full((len(edges) - 1, len(edges) - 1), np.nan)
    for row, (first, end) in enumerate(itertools.pairwise(edges)):
        mine = went[(born >= first) & (born < end)]
        for column in range(row, len(edges) - 1) if len(mine) else ():
            shares[row, column] = float((mine > edges[column + 1] - 1).mean())
    return shares, edges.astype(np.float64)


def _answer_blocks(run: TableRun) -> list[Block]:
    """A table of `toolkit stream run`: means over conversations, turn by turn."""
    known = [name for name in ("cache_tokens", "evicted", "answer_tokens", "surprisal_mean_nats", "tokens_per_second")
             if name in run.table.columns]  # fmt: skip
    by_turn = run.table.group_by("turn").agg(pl.col(known).cast(pl.Float64, strict=False).mean()).sort("turn")
    conversations = run.table["dialogue_id"].n_unique()
    turns = [float(turn) for turn in by_turn["turn"].to_list()]
    blocks: list[Block] = [
        Heading(run.name),
        Words(f"{conversations:,} conversations, {run.table.height:,} answers; means over conversations."),
    ]
    titles = {
        "cache_tokens": "tokens in the cache", "evicted": "tokens that went", "answer_tokens": "tokens of the answer",
        "surprisal_mean_nats": "mean nats a token", "tokens_per_second": "tokens a second",
    }  # fmt: skip
    for name in known:
        part = [(turn, value) for turn, value in zip(turns, by_turn[name].to_list(), strict=True) if value is not None]
        if not part:
            continue
        drawn = drawing.lines([drawing.curve_of(titles[name], part)], across="turn", up=titles[name], from_zero=True)
        blocks.append(Plot(titles[name].capitalize(), drawn))
    return blocks
