"""From results to what is reported: means, intervals over dialogues, and paired differences from a baseline arm.

Every measure is a sum over another sum, so that long dialogues count for more. Intervals are percentile bootstraps over
dialogues (of a game, over stretches of rounds; of a long text, over stretches of tokens), and differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pyllm.stats.bootstrap import paired_bootstrap

RESAMPLES = 2000

Samples = Mapping[str, np.ndarray]
"""Sums by name, one value for each of what is drawn from."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What is reported of an arm.

    Args:
        name: In the report.
        title: In tables.
        above: Name of the sums that are divided.
        below: Name of those that they are divided by.
        percent: Whether it is a share.
        compared: Whether tables show differences.
    """

    name: str
    title: str
    above: str
    below: str
    percent: bool = False
    compared: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people.

    Args:
        title: What it shows.
        columns: Title and kind of each.
        rows: Their cells.
    """

    title: str
    columns: tuple[tuple[str, Literal["word", "number"]], ...]
    rows: tuple[tuple[str, ...], ...]


def arm_rows(
    arms: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Samples],
    measures: Sequence[Measure],
    baselines: Mapping[str, str],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """What is reported of each arm.

    Args:
        arms: What tells the arms apart, with their labels under `arm`.
        samples: What was measured under each, by label, in one order for all.
        measures: What to report.
        baselines: For each arm the one that it is compared with, both by label.
        seed: Of the draws.
    """
    rows = []
    for arm in arms:
        label, base = arm["arm"], baselines[arm["arm"]]
        own, other = samples[label], samples[base]
        row: dict[str, Any] = {**arm, "compared_with": base, "intervals": {}, "differences": {}}
        for measure in measures:
            row[measure.name] = _ratio(own, measure)
            if row[measure.name] is None or len(own[measure.below]) < 2:
                continue
            sides = own[measure.above], own[measure.below]
            spread = paired_bootstrap(
                sides[0], np.zeros(len(sides[0])), sizes=sides[1], seed=seed, resamples=RESAMPLES
            ).interval
            row["intervals"][measure.name] = [spread.low, spread.high]
            if base != label and _ratio(other, measure) is not None:
                apart = paired_bootstrap(
                    sides[0], other[measure.above], sizes=sides[1], second_sizes=other[measure.below], seed=seed,
                    resamples=RESAMPLES,
                )  # fmt: skip
                row["differences"][measure.name] = {
                    "difference": apart.difference, "low": apart.interval.low, "high": apart.interval.high,
                    "is_shown": apart.is_shown,
                }  # fmt: skip
        rows.append(row)
    return rows


def _ratio(samples: Samples, measure: Measure) -> float | None:
    below = float(samples[measure.below].sum())
    return float(samples[measure.above].sum()) / below if below else None


def arm_table(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    context: Sequence[Mapping[str, Any]],
    measures: Sequence[Measure],
    *,
    brief: bool = False,
) -> Table:
    """The arms of a report, and what stands beside them for comparison.

    Args:
        title: What it shows.
        rows: From `arm_rows`.
        context: Rows of other origin: `arm`, and measures by name.
        measures: Which of them to show; one that no row has is left out.
        brief: As narrow as a terminal: only the first measure with its interval, and instead of differences a `+` or
            `-` where they are shown.
    """
    shown = [each for each in measures if any(row.get(each.name) is not None for row in [*rows, *context])]
    extra = [name for name in _EXTRA if any(row.get(name) is not None for row in rows)]
    columns: list[tuple[str, Literal["word", "number"]]] = [("arm", "word")]
    for measure in shown:
        columns.append((measure.title, "number"))
        if measure.compared and not brief:
            columns.append(("difference", "number"))
    columns += [(_EXTRA[name], "number") for name in extra]
    cells = []
    for row in [*rows, *context]:
        line = [str(row["arm"])]
        for measure in shown:
            apart = row.get("differences", {}).get(measure.name)
            interval = row.get("intervals", {}).get(measure.name)
            if brief:
                interval = interval if measure is shown[0] else None
                line.append(measured(row.get(measure.name), interval, measure.percent) + _sign(apart))
            else:
                line.append(measured(row.get(measure.name), interval, measure.percent))
                if measure.compared:
                    line.append(changed(apart, measure.percent))
        line += [_plain(row.get(name)) for name in extra]
        cells.append(tuple(line))
    return Table(title, tuple(columns), tuple(cells))


def _sign(apart: Mapping[str, Any] | None) -> str:
    if apart is None or not apart["is_shown"]:
        return "  "
    return " +" if apart["difference"] > 0 else " -"


_EXTRA = {"most_cache_tokens": "cache", "ratio": "ratio", "beyond_horizon": "beyond horizon"}


def _plain(value: int | float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def measured(value: float | None, interval: Sequence[float] | None, percent: bool = False) -> str:
    """A value, with its interval where there is one."""
    if value is None:
        return "-"
    scale, digits = (100.0, 1) if percent else (1.0, 3)
    text = f"{scale * value:.{digits}f}"
    return text if interval is None else f"{text} ({scale * interval[0]:.{digits}f}-{scale * interval[1]:.{digits}f})"


def changed(apart: Mapping[str, Any] | None, percent: bool = False) -> str:
    """A difference, with its interval."""
    if apart is None:
        return "-"
    scale, digits = (100.0, 1) if percent else (1.0, 3)
    difference, low, high = (scale * apart[name] for name in ("difference", "low", "high"))
    return f"{difference:+.{digits}f} ({low:+.{digits}f}..{high:+.{digits}f})"
