"""Golden scores on a page: how they lie, what they have to do with length, which rows are best and worst."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from pyllm.errors import InputError
from pyllm.report import drawing
from pyllm.report.blocks import (
    Block,
    Cell,
    Column,
    Heading,
    Passages,
    Plot,
    Section,
    Table,
    Words,
    count,
    number,
    one_line,
    passage,
    words,
)
from pyllm.report.sources import Sources, TableRun
from pyllm.select.composition import Composition, composition, lengths_of
from pyllm.select.report import CUTS
from pyllm.select.rules import ranked_rows, scores_of

_SHOWN_ROWS = 10
_STRIPS = 5
_BINS = 20
_SOURCES_SHOWN = 12
_LENGTH_RATIO_FOR_LOG = 20


def scores_section(sources: Sources) -> Section | None:
    """The section about score tables; None where there are none."""
    tables = sources.of_kind("scores")
    if not tables:
        return None
    parents = {selected.name: parent for selected in tables if (parent := _parent(selected, tables)) is not None}
    blocks: list[Block] = []
    for run in tables:
        blocks += [Heading(run.name)] if len(tables) > 1 else []
        if run.name in parents:
            blocks += _selection_blocks(run, parents[run.name])
        else:
            blocks += _table_blocks(run, _anchors_of(run, sources.of_kind("anchors")))
    return Section("scores", "Golden scores", tuple(blocks))


def _parent(selected: TableRun, tables: Sequence[TableRun]) -> TableRun | None:
    """The table that rows were selected from: the smallest that holds all of them and more."""
    found = [
        each
        for each in tables
        if each.table.height > selected.table.height and _places(selected.table, each.table) is not None
    ]
    return min(found, key=lambda each: each.table.height, default=None)


def _places(selected: pl.DataFrame, whole: pl.DataFrame) -> Int[np.ndarray, " kept"] | None:
    """Where rows stand in the table they came from; None where one does not. Equal rows are taken in their order."""
    if "id" not in selected.columns or "id" not in whole.columns:
        return None

    def counted(table: pl.DataFrame) -> pl.DataFrame:
        ids = table.select(pl.col("id").cast(pl.String)).with_row_index("row")
        return ids.with_columns(pl.col("id").cum_count().over("id").alias("again"))

    joined = counted(selected).join(
        counted(whole), on=["id", "again"], how="left", maintain_order="left", suffix="_whole"
    )
    if joined["row_whole"].null_count():
        return None
    return joined["row_whole"].to_numpy().astype(np.int64)


def _anchors_of(run: TableRun, anchors: Sequence[TableRun]) -> TableRun | None:
    """The anchors that a table was scored against: of the same run, or as many as its lists are long."""
    if "one_shot_nats" not in run.table.columns:
        return None
    lengths = run.table["one_shot_nats"].list.len().drop_nulls().unique().to_list()
    fitting = [each for each in anchors if lengths == [each.table.height]]
    same = [each for each in fitting if _anchor_digests(each.steps) & _anchor_digests(run.steps)]
    return next(iter(same or fitting), None)


def _anchor_digests(steps: Sequence[dict[str, Any]]) -> set[str]:
    return {str(step["anchors_sha256"]) for step in steps if "anchors_sha256" in step}


def _table_blocks(run: TableRun, anchors: TableRun | None) -> list[Block]:
    table = run.table
    scores = scores_of(table, name=run.name)
    known = scores.drop_nulls().to_numpy()
    if not len(known):
        return [Words(f"none of the {table.height:,} rows has a score.", is_warning=True)]
    blocks: list[Block] = [Words(_in_words(table, known))]
    chosen = next((step for step in reversed(run.steps) if step.get("command") == "select"), None)
    if chosen is not None:
        rules = ", ".join(f"{name} {value}" for name, value in chosen.get("rules", {}).items())
        blocks.append(
            Words(
                f"These rows were selected from {chosen.get('rows_in', 0):,} by {rules or 'no rule'}. Give the table"
                " they came from too, and the page shows what the selection is made of before and after."
            )
        )
    above = {limit: int((known > limit).sum()) for limit in CUTS}
    low, high = min(0.0, float(known.min())), max(1.0, float(known.max()))
    counts, edges = np.histogram(known, bins=_BINS, range=(low, high))
    marks = [drawing.Mark(limit, f"> {limit:g}: {rows:,}") for limit, rows in above.items()]
    blocks.append(
        Plot(
            "How scores lie",
            drawing.histogram(counts, edges, across="golden score", marks=marks),
            "Dotted lines are the thresholds of the paper, with the rows above each.",
        )
    )
    blocks += _length_plot(table, scores)
    blocks += _strips(table, run.name, anchors)
    columns = (Column("threshold"), Column("rows above"), Column("share"))
    rows = tuple((number(limit, digits=2), count(rows), number(rows / len(known), percent=True))
                 for limit, rows in above.items())  # fmt: skip
    blocks.append(Table("Rows above the thresholds", columns, rows))
    ranking = ranked_rows(table, name=run.name)[: len(known)]
    best, worst = ranking[:_SHOWN_ROWS], ranking[::-1][: max(0, min(_SHOWN_ROWS, len(known) - _SHOWN_ROWS))]
    blocks.append(_rows_table("Best rows", table, best, first_rank=1, falling=True))
    if len(worst):
        blocks.append(_rows_table("Worst rows", table, worst, first_rank=len(known), falling=False))
    texts = [("best", row) for row in best[:_STRIPS].tolist()] + [("worst", row) for row in worst[:_STRIPS].tolist()]
    blocks.append(Passages("Some of them whole", tuple(_passage(table, which, row, anchors) for which, row in texts)))
    return blocks


def _in_words(table: pl.DataFrame, known: Float64[np.ndarray, " scored"]) -> str:
    parts = [f"{table.height:,} rows"]
    if table.height > len(known):
        parts.append(f"{table.height - len(known):,} of them without a score")
    tried = table["anchors_scored"].max() if "anchors_scored" in table.columns else None
    if isinstance(tried, int):
        parts.append(f"each tried on up to {tried:,} anchors")
    spread = f"median {np.median(known):.3f}, from {known.min():.3f} to {known.max():.3f}"
    return f"{', '.join(parts)}. Mean golden score {known.mean():.3f} ({spread})."


def _length_plot(table: pl.DataFrame, scores: pl.Series) -> list[Block]:
    unit, lengths = lengths_of(table)
    if unit is None:
        return []
    there = scores.is_not_null().to_numpy()
    sizes, values = np.array(lengths, np.float64)[there], scores.to_numpy()[there]
    if sizes.min() == sizes.max():
        return []
    log_x = bool(sizes.min() > 0 and sizes.max() / sizes.min() > _LENGTH_RATIO_FOR_LOG)
    borders = np.unique(np.quantile(sizes, np.linspace(0, 1, 11), method="inverted_cdf"))
    band = np.searchsorted(borders, sizes, side="left")
    parts = [band == each for each in np.unique(band)]
    middle = drawing.Curve(
        "median by length", [float(np.median(sizes[part])) for part in parts],
        [float(np.median(values[part])) for part in parts],
    )  # fmt: skip
    drawn = drawing.cloud(sizes, values, across=f"length in {unit}", up="golden score", middle=middle, log_x=log_x)
    return [Plot("Score against length", drawn, "A rising line means that long rows are favoured whatever they say.")]


def _strips(table: pl.DataFrame, name: str, anchors: TableRun | None) -> list[Block]:
    """What each anchor gained from the best and worst rows."""
    if anchors is None:
        return []
    ranking = ranked_rows(table, name=name)
    scored = ranking[: table.height - scores_of(table).null_count()]
    chosen = list(dict.fromkeys([*scored[:_STRIPS].tolist(), *scored[-_STRIPS:].tolist()]))
    rows = []
    for place, row in enumerate(chosen):
        gains = [gain for gain in _gains(table, row, anchors) if gain is not None and np.isfinite(gain)]
        asked, _ = _question_and_answer(table.row(row, named=True))
        which = "best" if place < min(_STRIPS, len(chosen)) else "worst"
        rows.append((f"{which}: {one_line(asked or '', 60)}", gains))
    return [
        Plot(
            "What each anchor gained",
            drawing.strips(rows, across="gain of an anchor's answer, nats", zero=0.0),
            "A point is an anchor: right of the line its answer grew likelier behind this row.",
        )
    ]


def _gains(table: pl.DataFrame, row: int, anchors: TableRun) -> list[float | None]:
    """One-shot less zero-shot sum of each anchor; None where the pair was not tried."""
    one_shot = table["one_shot_nats"][row]
    zero = anchors.table["zero_shot_nats"].cast(pl.Float64, strict=False).to_list()
    if one_shot is None or len(one_shot) != len(zero):
        return []
    return [
        None if one is None or base is None else float(one) - base
        for one, base in zip(one_shot.to_list(), zero, strict=True)
    ]


def _rows_table(
    title: str, table: pl.DataFrame, rows: Int[np.ndarray, " shown"], *, first_rank: int, falling: bool
) -> Table:
    optional = [("mean_gain_nats", "mean gain"), ("demo_tokens", "tokens")]
    present = [(name, said) for name, said in optional if name in table.columns]
    has_wins = "wins" in table.columns
    columns = [Column("rank"), Column("score"), *([Column("wins")] if has_wins else [])]
    columns += [*(Column(said) for _, said in present), Column("instruction", "text"), Column("answer", "text")]
    cells = []
    for place, row in enumerate(rows.tolist()):
        record = table.row(row, named=True)
        line = [count(first_rank + place if falling else first_rank - place), number(record["golden_score"])]
        if has_wins:
            anchors = record.get("anchors_scored")
            won = record["wins"]
            line.append(words(None) if won is None else Cell(f"{won:,}" + (f" of {anchors:,}" if anchors else ""), won))
        line += [number(record[name]) if name == "mean_gain_nats" else count(record[name]) for name, _ in present]
        cells.append((*line, *(words(text) for text in _question_and_answer(record))))
    return Table(title, tuple(columns), tuple(cells))


def _passage(
    table: pl.DataFrame, which: str, row: int, anchors: TableRun | None
) -> tuple[str, tuple[tuple[str, str], ...]]:
    record = table.row(row, named=True)
    asked, answered = _question_and_answer(record)
    parts = [("instruction", passage(asked)), ("answer", passage(answered))]
    if anchors is not None and (gains := _gains(table, row, anchors)):
        parts.append(("gain of each anchor", _gain_lines(gains, anchors.table)))
    return f"{which}, {record['golden_score']:.3f}: {one_line(asked or '-', 120)}", tuple(parts)


def _gain_lines(gains: Sequence[float | None], anchors: pl.DataFrame) -> str:
    """The anchors that gained and lost most, a line each."""
    tried = sorted(
        ((gain, place) for place, gain in enumerate(gains) if gain is not None), key=lambda each: (-each[0], each[1])
    )
    shown = tried if len(tried) <= 2 * _STRIPS else [*tried[:_STRIPS], *tried[-_STRIPS:]]
    lines = []
    for number_shown, (gain, place) in enumerate(shown):
        if number_shown == _STRIPS and len(tried) > len(shown):
            lines.append(f"... {len(tried) - len(shown):,} between ...")
        asked, answered = _question_and_answer(anchors.row(place, named=True))
        lines.append(f"{gain:+8.3f} nats  {one_line(asked or '-', 80)}  ->  {one_line(answered or '-', 60)}")
    return "\n".join(lines)


def _question_and_answer(record: dict[str, Any]) -> tuple[str | None, str | None]:
    """What a row asks and answers, in any of the shapes that tables have."""
    messages = record.get("messages")
    if isinstance(messages, list) and messages:
        said = [(each.get("role"), each.get("content")) for each in messages if isinstance(each, dict)]
        asked = "\n".join(str(text) for role, text in said if role == "user" and text)
        answers = [str(text) for role, text in said if role == "assistant" and text]
        return asked or None, answers[-1] if answers else None
    parts = [str(record[name]) for name in ("instruction", "input") if record.get(name)]
    if not parts and record.get("id") is not None:
        parts = [f"row {record['id']}"]  # aggregated from numbers alone
    output = record.get("output")
    return "\n".join(parts) or None, None if output is None else str(output)


def _selection_blocks(run: TableRun, parent: TableRun) -> list[Block]:
    rows = _places(run.table, parent.table)
    if rows is None:
        raise InputError(f"{run.name} holds rows that {parent.name} does not")
    mix = composition(parent.table, rows)
    whole, kept = parent.table.height, run.table.height
    chosen = next((step for step in reversed(run.steps) if step.get("command") == "select"), None)
    rules = "" if chosen is None else ", ".join(f"{name} {value}" for name, value in chosen.get("rules", {}).items())
    sentences = [f"{kept:,} of the {whole:,} rows of {parent.name} ({100 * kept / whole:.2f} %)"]
    sentences[0] += f", selected by {rules}." if rules else "."
    known = scores_of(run.table, name=run.name).drop_nulls()
    if known.len():
        low, mean = float(known.to_numpy().min()), float(known.to_numpy().mean())
        sentences.append(f"The lowest score among them is {low:.3f}, the mean {mean:.3f}.")
    if mix.median_before is not None and mix.median_after is not None:
        ratio = "" if mix.median_ratio is None else f" ({mix.median_ratio:.2f} times)"
        sentences.append(
            f"Median length {mix.median_before:,.0f} {mix.length_unit} before, {mix.median_after:,.0f} after{ratio}."
        )
    return [Words(" ".join(sentences)), *_composition_plots(mix, whole, kept)]


def _composition_plots(mix: Composition, whole: int, kept: int) -> list[Block]:
    """What the table and the selection are made of, side by side."""
    names = ("whole table", "selection")
    blocks: list[Block] = []
    if len(mix.bands) > 1:
        labels = [
            f"{band.shortest:,}" if band.shortest == band.longest else f"{band.shortest:,} to {band.longest:,}"
            for band in mix.bands
        ]
        shares = [(100 * band.rows_before / whole, 100 * band.rows_after / kept) for band in mix.bands]
        drawn = drawing.paired_bars(
            [f"{label} {mix.length_unit}" for label in labels], shares, names, across="% of rows"
        )
        blocks.append(Plot("Lengths before and after selection", drawn))
    if len(mix.sources) > 1:
        shown = mix.sources[:_SOURCES_SHOWN]
        shares = [(100 * each.rows_before / whole, 100 * each.rows_after / kept) for each in shown]
        drawn = drawing.paired_bars([each.source_file or "(none)" for each in shown], shares, names, across="% of rows")
        more = f"and {len(mix.sources) - len(shown):,} more sources" if len(mix.sources) > len(shown) else ""
        blocks.append(Plot("Sources before and after selection", drawn, more))
    return blocks
