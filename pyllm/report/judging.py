"""Judgements on a page: grades by category, win rates, and what place and length had to do with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pyllm.errors import InputError
from pyllm.judge.checking import summarize_probes
from pyllm.judge.grades import GradeSummary, MeanGrade, summarize_grades
from pyllm.judge.judging import GRADE_COLUMNS, PAIR_COLUMNS
from pyllm.judge.pairs import PairSummary, WinRate, strengths, summarize_pairs, whole_pairs
from pyllm.report import drawing
from pyllm.report.blocks import Block, Cell, Column, Heading, Plot, Section, Table, Words, count, number, words
from pyllm.report.sources import Sources, TableRun

_MOST_DOTS = 30
_LENGTH_PARTS = 6
_GRADES = (1.0, 10.0)


def judging_section(sources: Sources) -> Section | None:
    """The section about judgements; None where there are none."""
    blocks: list[Block] = []
    runs = [*sources.of_kind("grades"), *sources.of_kind("verdicts")]
    for run in runs:
        blocks += [Heading(run.name)] if len(runs) > 1 else []
        if "probe" in run.table.columns:
            blocks += _probe_blocks(run)
        elif run.kind == "grades":
            blocks += _grade_blocks(run)
        else:
            blocks += _pair_blocks(run)
    return Section("judge", "Judged answers", tuple(blocks)) if blocks else None


def _typed(run: TableRun, columns: Mapping[str, Any]) -> pl.DataFrame:
    """The table with its columns as they are written, where it went through CSV or JSON.

    Raises:
        InputError: A column holds something else.
    """
    there = {name: kind for name, kind in columns.items() if name in run.table.columns}
    missing = [name for name in columns if name not in there and name != "category"]
    if missing:
        raise InputError(f"column `{missing[0]}` is missing from {run.name}")
    try:
        table = run.table.with_columns(pl.col(name).cast(kind) for name, kind in there.items())
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise InputError(f"{run.name} is no table of `toolkit judge`: {str(error).splitlines()[0]}") from error
    return table if "category" in table.columns else table.with_columns(pl.lit(None, pl.String).alias("category"))


def _seed(run: TableRun) -> int:
    found = next((step["seed"] for step in reversed(run.steps) if isinstance(step.get("seed"), int)), 0)
    return int(found)


def _grade_blocks(run: TableRun) -> list[Block]:
    table = _typed(run, GRADE_COLUMNS)
    labels = table["model"].unique(maintain_order=True).to_list()
    found = summarize_grades(table, labels, seed=_seed(run))
    graded = table.filter(pl.col("grade").is_not_null())
    blocks: list[Block] = [
        Words(f"{table.height:,} answers of {len(labels):,} models, {graded.height:,} with a grade that could be read.")
    ]
    if table.height > graded.height:
        blocks.append(_unread(table.height - graded.height, table.height))
    if not graded.height:
        return [*blocks, _grade_table(found, "Grades by model")]
    overall = [(each.label, each.overall) for each in found]
    blocks += _grade_plot("Mean grade", overall)
    apart = [
        drawing.Dot(f"{each.label} less {labels[0]}", each.difference.difference, each.difference.interval.low,
                    each.difference.interval.high)
        for each in found
        if each.difference is not None
    ]  # fmt: skip
    if apart:
        drawn = drawing.dots(apart, across="difference in grade", zero=0.0, decimals=2)
        blocks.append(Plot("Differences on the same prompts", drawn, "Bars are 95 % intervals over prompts."))
    counts, edges = np.histogram(graded["grade"].to_numpy(), bins=np.arange(0.5, 11.0))
    blocks.append(Plot("How grades lie", drawing.histogram(counts, edges, across="grade", up="answers")))
    categories = list(dict.fromkeys(name for each in found for name in each.by_category))
    if len(categories) > 1:
        parts = [
            (f"{category}, {each.label}" if len(found) > 1 else category, each.by_category[category])
            for category in categories
            for each in found
            if category in each.by_category
        ]
        blocks += _grade_plot("Grade by category", parts)
    blocks.append(_grade_table(found, "Grades by model"))
    blocks.append(_part_table(found, "Grades by category and turn"))
    return blocks


def _unread(unread: int, whole: int) -> Words:
    return Words(
        f"{unread:,} of {whole:,} judgements could not be read or never came; they are counted and in no mean.",
        is_warning=2 * unread > whole,
    )


def _grade_plot(title: str, rows: Sequence[tuple[str, MeanGrade]]) -> list[Block]:
    shown = [
        drawing.Dot(label, mean.mean, *(() if mean.interval is None else (mean.interval.low, mean.interval.high)))
        for label, mean in rows
        if mean.mean is not None
    ][:_MOST_DOTS]
    if not shown:
        return []
    more = len(rows) - len(shown)
    note = "Bars are 95 % intervals over prompts." + (f" {more:,} more are in the table." if more else "")
    return [Plot(title, drawing.dots(shown, across="grade, 1 to 10", ends=(0.8, 10.2), decimals=2), note)]


def _mean_cell(mean: MeanGrade) -> Cell:
    interval = None if mean.interval is None else (mean.interval.low, mean.interval.high)
    return number(mean.mean, interval, digits=2)


def _grade_table(found: Sequence[GradeSummary], title: str) -> Table:
    columns = (Column("model", "word"), Column("grades"), Column("mean (95 % interval)"), Column("less the first"),
               Column("unparsed"), Column("failed"))  # fmt: skip
    rows = []
    for each in found:
        apart = each.difference
        difference = (
            Cell("–")
            if apart is None
            else number(apart.difference, (apart.interval.low, apart.interval.high), digits=2, signed=True)
        )
        rows.append((words(each.label), count(each.overall.grades), _mean_cell(each.overall), difference,
                     count(sum(each.unparsed.values())), count(each.failed)))  # fmt: skip
    return Table(title, columns, tuple(rows))


def _part_table(found: Sequence[GradeSummary], title: str) -> Table:
    columns = (Column("part", "word"), Column("model", "word"), Column("grades"), Column("mean (95 % interval)"))
    rows = []
    for each in found:
        parts = [*each.by_category.items(), *((f"turn {turn}", mean) for turn, mean in each.by_turn.items())]
        rows += [(words(name), words(each.label), count(mean.grades), _mean_cell(mean)) for name, mean in parts]
    return Table(title, columns, tuple(rows))


def _pair_blocks(run: TableRun) -> list[Block]:
    table = _typed(run, PAIR_COLUMNS)
    found = summarize_pairs(table, seed=_seed(run))
    unread = int(table["verdict"].null_count())
    pairs_of = "pair" if len(found) == 1 else "pairs"
    sentence = f"{table.height:,} verdicts on {len(found):,} {pairs_of} of models, each in both orders."
    blocks: list[Block] = [Words(sentence)]
    if unread:
        blocks.append(_unread(unread, table.height))
    rates: list[drawing.Dot] = []
    for each in found:
        sides = f"{each.a} over {each.b}"
        rates += _rate_dot(sides, each.overall)
        if each.length is not None:
            at_equal = each.length
            rates.append(drawing.Dot(f"{sides}, at equal length", 100 * at_equal.win_rate, 100 * at_equal.interval.low,
                                     100 * at_equal.interval.high))  # fmt: skip
    if rates:
        drawn = drawing.dots(
            rates[:_MOST_DOTS], across="wins, half the ties counted, %", zero=50.0, ends=(-2, 102), decimals=1
        )
        blocks.append(Plot("Win rates", drawn, "Bars are 95 % intervals over prompts."))
    places = [
        drawing.Dot(f"{each.a} and {each.b}", 100 * each.place.first_share, 100 * each.place.interval.low,
                    100 * each.place.interval.high)
        for each in found
        if each.place.first_share is not None and each.place.interval is not None
    ]  # fmt: skip
    if places:
        drawn = drawing.dots(
            places[:_MOST_DOTS], across="verdicts for the answer shown first, %", zero=50.0, ends=(-2, 102), decimals=1
        )
        blocks.append(Plot("Place", drawn, "A judge that does not look at the place stands at 50."))
    pairs = whole_pairs(table)
    if pairs.height >= 2 * _LENGTH_PARTS:
        blocks += _length_plot(pairs)
    by_category = [
        dot
        for each in found
        if len(each.by_category) > 1
        for category, rate in each.by_category.items()
        for dot in _rate_dot(f"{category}: {each.a} over {each.b}" if len(found) > 1 else category, rate)
    ]
    if by_category:
        drawn = drawing.dots(by_category[:_MOST_DOTS], across="wins, %", zero=50.0, ends=(-2, 102), decimals=1)
        blocks.append(Plot("Win rate by category", drawn))
    blocks.append(_pair_table(found, "Pairs"))
    labels = list(dict.fromkeys(label for each in found for label in (each.a, each.b)))
    if len(labels) > 2 and pairs.height:
        strong = [drawing.Dot(each.label, each.strength, each.interval.low, each.interval.high)
                  for each in strengths(table, labels, seed=_seed(run))]  # fmt: skip
        drawn = drawing.dots(strong[:_MOST_DOTS], across="strength, log-odds (Bradley and Terry)", zero=0.0, decimals=2)
        blocks.append(Plot("Strengths", drawn))
    return blocks


def _rate_dot(label: str, rate: WinRate) -> list[drawing.Dot]:
    if rate.rate is None:
        return []
    ends = () if rate.interval is None else (100 * rate.interval.low, 100 * rate.interval.high)
    return [drawing.Dot(label, 100 * rate.rate, *ends)]


def _length_plot(pairs: pl.DataFrame) -> list[Block]:
    """Who won, by how much longer the first side's answer is: seen from the longer answer where sides are many."""
    difference = pairs["a_characters"].cast(pl.Float64).to_numpy() - pairs["b_characters"].cast(pl.Float64).to_numpy()
    longer = np.where(difference < 0, 1 - pairs["points"].to_numpy(), pairs["points"].to_numpy())
    apart = np.abs(difference)
    borders = np.unique(np.quantile(apart, np.linspace(0, 1, _LENGTH_PARTS + 1), method="inverted_cdf"))[1:]
    band = np.searchsorted(borders, apart, side="left")
    parts = [band == each for each in np.unique(band)]
    if len(parts) < 2:
        return []
    curve = drawing.Curve("longer answer", [float(apart[part].mean()) for part in parts],
                          [100 * float(longer[part].mean()) for part in parts], marked=True)  # fmt: skip
    drawn = drawing.lines([curve], across="characters longer", up="wins of the longer answer, %")
    return [Plot("Length", drawn, "A judge that does not look at length need not stand at 50: longer may be better.")]


def _pair_table(found: Sequence[PairSummary], title: str) -> Table:
    titles = ("a wins (95 % interval)", "won", "tied", "lost", "at equal length", "first place", "orders agree",
              "characters of a", "of b", "unparsed", "failed")  # fmt: skip
    columns = (Column("a", "word"), Column("b", "word"), *(Column(each) for each in titles))
    rows = []
    for each in found:
        rate, length, place = each.overall, each.length, each.place
        interval = None if rate.interval is None else (rate.interval.low, rate.interval.high)
        rows.append(
            (
                words(each.a),
                words(each.b),
                number(rate.rate, interval, percent=True),
                *(count(each_count) for each_count in (rate.wins, rate.ties, rate.losses)),
                Cell("–")
                if length is None
                else number(length.win_rate, (length.interval.low, length.interval.high), percent=True),
                number(place.first_share, percent=True),
                number(place.agreement, percent=True),
                *(count(characters) for characters in each.mean_characters),
                count(sum(each.unparsed.values())),
                count(each.failed),
            )
        )
    return Table(title, columns, tuple(rows))


def _probe_blocks(run: TableRun) -> list[Block]:
    """What probes say of a judge; labels of people do not stand in the table."""
    is_grade = (
        pl.col("verdict").is_null() & pl.col("model").is_not_null()
        if "model" in run.table.columns
        else pl.lit(value=False)
    )
    found = summarize_probes(run.table.filter(~is_grade), run.table.filter(is_grade), None, seed=_seed(run))
    same = found["identical"]
    rows = [
        _probe_row(
            "an answer against itself: first place chosen",
            same["first_share"],
            same["interval"],
            f"{same['ties']:,} ties, {same['first']:,} first, {same['second']:,} second, {same['unparsed']:,} unparsed",
        )
    ]
    if "padded" in found:
        longer = found["padded"]["overall"]
        counts = f"{longer['wins']:,} won, {longer['ties']:,} tied, {longer['losses']:,} lost"
        rows.append(_probe_row("a padded copy: padded answer wins", longer["rate"], longer["interval"], counts))
    if "repeated" in found:
        again = found["repeated"]
        apart = "–" if again["mean_distance"] is None else f"{again['mean_distance']:.2f} apart"
        counts = f"{again['answers']:,} answers, {apart}"
        rows.append(_probe_row("graded again: equal grades", again["equal_share"], again["interval"], counts))
    columns = (Column("probe", "text"), Column("found (95 % interval)"), Column("counts", "word"))
    return [Words("A judge that was checked."), Table("Probes of the judge", columns, tuple(rows))]


def _probe_row(
    probe: str, share: float | None, interval: Mapping[str, float] | None, counts: str
) -> tuple[Cell, Cell, Cell]:
    ends = None if interval is None else (interval["low"], interval["high"])
    return words(probe), number(share, ends, percent=True), words(counts)
