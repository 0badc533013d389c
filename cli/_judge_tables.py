"""What judges said, as tables for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyllm.cli._console import stderr_is_terminal
from pyllm.cli._tables import Column, draw_table, readable

if TYPE_CHECKING:
    from pyllm.judge.grades import GradeSummary, MeanGrade
    from pyllm.judge.pairs import PairSummary, Strength, WinRate
    from pyllm.stats.intervals import Interval


def grades_text(summaries: Sequence["GradeSummary"]) -> str:
    """Mean grades by model, and by category and turn."""
    rows = []
    for summary in summaries:
        apart = summary.difference
        changed = "-" if apart is None else f"{apart.difference:+.2f} {_range(apart.interval, signed=True)}"
        unread = sum(summary.unparsed.values())
        rows.append([readable(summary.label), *_mean(summary.overall), changed, f"{unread:,}", f"{summary.failed:,}"])
    titles = ("grade", "95 % interval", "grades", "difference", "unparsed", "failed")
    text = draw_table(
        [Column("model", "word"), *(Column(title, "number") for title in titles)], rows, terminal=stderr_is_terminal()
    )
    parts = []
    for summary in summaries:
        named = [(f"turn {turn}", mean) for turn, mean in summary.by_turn.items()] if len(summary.by_turn) > 1 else []
        named += list(summary.by_category.items()) if len(summary.by_category) > 1 else []
        parts += [[readable(summary.label), readable(name), *_mean(mean)] for name, mean in named]
    if parts:
        columns = [Column("model", "word"), Column("part", "word")]
        columns += [Column(title, "number") for title in ("grade", "95 % interval", "grades")]
        text += "\n" + draw_table(columns, parts, terminal=stderr_is_terminal())
    return text


def pairs_text(summaries: Sequence["PairSummary"]) -> str:
    """Win rates of every two models, what place did, and the same by category and turn."""
    rows, parts = [], []
    for summary in summaries:
        place, length = summary.place, summary.length
        rows.append(
            [
                readable(summary.a),
                readable(summary.b),
                *_rate(summary.overall),
                "-" if length is None else f"{_percent(length.win_rate)} {_range(length.interval, percent=True)}",
                "-" if place.first_share is None else _percent(place.first_share),
                "-" if place.agreement is None else _percent(place.agreement),
                f"{sum(summary.unparsed.values()):,}",
                f"{summary.failed:,}",
            ]
        )
        named = [(f"turn {turn}", rate) for turn, rate in summary.by_turn.items()] if len(summary.by_turn) > 1 else []
        named += list(summary.by_category.items()) if len(summary.by_category) > 1 else []
        parts += [[readable(summary.a), readable(summary.b), readable(name), *_rate(rate)] for name, rate in named]
    titles = ["a wins", "95 % interval", "won/tied/lost", "at equal length", "first place", "orders agree", "unparsed",
              "failed"]  # fmt: skip
    columns = [Column("a", "word"), Column("b", "word"), *(Column(title, "number") for title in titles)]
    text = draw_table(columns, rows, terminal=stderr_is_terminal())
    if parts:
        columns = [Column(title, "word") for title in ("a", "b", "part")]
        columns += [Column(title, "number") for title in titles[:3]]
        text += "\n" + draw_table(columns, parts, terminal=stderr_is_terminal())
    return text


def strengths_text(found: Sequence["Strength"]) -> str:
    """Strengths of several models on one scale."""
    if not found:
        return "no strengths: some models have no pair that was judged whole\n"
    rows = [[readable(each.label), f"{each.strength:+.2f}", _range(each.interval, signed=True)] for each in found]
    columns = [Column("model", "word"), Column("strength (log-odds)", "number"), Column("95 % interval", "number")]
    return draw_table(columns, rows, terminal=stderr_is_terminal())


def check_text(report: Mapping[str, Any]) -> str:
    """What the probes found, a line each."""
    lines = []
    same = report["identical"]
    chosen = "" if same["first_share"] is None else f": of those, {_percent(same['first_share'])} the first"
    lines.append(
        [
            "identical",
            f"{same['ties']:,} ties, {same['first'] + same['second']:,} choices{chosen}",
            _bounds(same["interval"], percent=True),
            f"{same['unparsed']:,}",
        ]
    )
    if "padded" in report:
        longer = report["padded"]["overall"]
        rate = "-" if longer["rate"] is None else f"{_percent(longer['rate'])} for the padded answer"
        unread = sum(report["padded"]["unparsed"].values()) + report["padded"]["failed"]
        lines.append(["padded", rate, _bounds(longer["interval"], percent=True), f"{unread:,}"])
    if "repeated" in report:
        again = report["repeated"]
        text = (
            "-"
            if again["equal_share"] is None
            else f"{_percent(again['equal_share'])} of two grades are equal, {again['mean_distance']:.2f} apart"
        )
        lines.append(["repeated", text, _bounds(again["interval"], percent=True), "-"])
    if "labelled" in report:
        people = report["labelled"]
        kappa = "-" if people["kappa"] is None else f"kappa {people['kappa']:.2f}"
        agreed = "" if people["observed"] is None else f", {_percent(people['observed'])} of {people['items']:,} agree"
        lines.append(["labelled", kappa + agreed, _bounds(people["interval"]), "-"])
    columns = [Column("probe", "word"), Column("found", "word"), Column("95 % interval", "number")]
    return draw_table([*columns, Column("unparsed", "number")], lines, terminal=stderr_is_terminal())


def _mean(mean: "MeanGrade") -> list[str]:
    if mean.mean is None or mean.interval is None:
        return ["-", "-", "0"]
    return [f"{mean.mean:.2f}", _range(mean.interval), f"{mean.grades:,}"]


def _rate(rate: "WinRate") -> list[str]:
    counts = f"{rate.wins}/{rate.ties}/{rate.losses}"
    if rate.rate is None or rate.interval is None:
        return ["-", "-", counts]
    return [_percent(rate.rate), _range(rate.interval, percent=True), counts]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: "Interval", *, percent: bool = False, signed: bool = False) -> str:
    if percent:
        return f"{100 * interval.low:.1f}..{100 * interval.high:.1f}"
    sign = "+" if signed else ""
    return f"{interval.low:{sign}.2f}..{interval.high:{sign}.2f}"


def _bounds(bounds: Mapping[str, float] | None, *, percent: bool = False) -> str:
    if bounds is None:
        return "-"
    times, digits = (100, 1) if percent else (1, 2)
    return f"{times * bounds['low']:.{digits}f}..{times * bounds['high']:.{digits}f}"
