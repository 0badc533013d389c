"""Grades to tables: the mean of each model, by category and turn, and differences on the same prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from pyllm.stats.bootstrap import DEFAULT_RESAMPLES, PairedDifference, paired_bootstrap
from pyllm.stats.intervals import Interval
from pyllm.stats.resampling import ratio_interval


@dataclass(frozen=True, slots=True)
class MeanGrade:
    """A mean of grades.

    Args:
        mean: From 1 to 10; None where there is no grade.
        interval: Where it plausibly lies for other prompts of the same kind.
        grades: How many there are.
    """

    mean: float | None
    interval: Interval | None
    grades: int


@dataclass(frozen=True, slots=True)
class GradeSummary:
    """What came of one model's answers.

    Args:
        label: The model.
        overall: The mean of all grades.
        by_category: The same by category.
        by_turn: The same by turn.
        unparsed: Grades that could not be read, by kind.
        failed: Grades that were asked for and never came.
        difference: From the first model, on prompts that both have a grade for; None for the first itself, or where
            fewer than two prompts have both.
    """

    label: str
    overall: MeanGrade
    by_category: dict[str, MeanGrade]
    by_turn: dict[int, MeanGrade]
    unparsed: dict[str, int]
    failed: int
    difference: PairedDifference | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def summarize_grades(
    table: pl.DataFrame, labels: Sequence[str], *, seed: int, resamples: int = DEFAULT_RESAMPLES
) -> list[GradeSummary]:
    """Sum up grades, each model apart.

    Args:
        table: One row a grade: `model`, `prompt_id`, `category`, `turn`, `repeat`, `grade` (or null), `parse`.
        labels: The models, in the order to give them; others are compared with the first.
        seed: Of the draws of prompts.
        resamples: How often prompts are drawn.
    """
    parts = [table.filter(pl.col("model") == label) for label in labels]
    return [_summary(part, label, parts[0] if place else None, seed, resamples)
            for place, (label, part) in enumerate(zip(labels, parts, strict=True))]  # fmt: skip


def _summary(table: pl.DataFrame, label: str, first: pl.DataFrame | None, seed: int, resamples: int) -> GradeSummary:
    graded, missing = table.filter(pl.col("grade").is_not_null()), table.filter(pl.col("grade").is_null())
    kinds = missing.filter(pl.col("parse").is_not_null()).group_by("parse").len().sort("parse")

    def mean(part: pl.DataFrame) -> MeanGrade:
        return _mean(part, seed, resamples)

    by_category = graded.with_columns(pl.col("category").fill_null("(none)")).partition_by("category", as_dict=True)
    by_turn = graded.partition_by("turn", as_dict=True)
    return GradeSummary(
        label=label,
        overall=mean(graded),
        by_category={str(name): mean(part) for (name,), part in sorted(by_category.items())},
        by_turn={int(turn): mean(part) for (turn,), part in sorted(by_turn.items())},
        unparsed={str(kind): int(count) for kind, count in kinds.rows()},
        failed=int(missing["parse"].is_null().sum()),
        difference=None if first is None else _difference(graded, first, seed, resamples),
    )


def _mean(graded: pl.DataFrame, seed: int, resamples: int) -> MeanGrade:
    if not graded.height:
        return MeanGrade(None, None, 0)
    prompts = graded.group_by("prompt_id", maintain_order=True).agg(pl.col("grade").sum(), pl.len().alias("grades"))
    sums, sizes = prompts["grade"].to_numpy(), prompts["grades"].cast(pl.Float64).to_numpy()
    interval = ratio_interval(sums, sizes, seed=seed, resamples=resamples)
    return MeanGrade(float(sums.sum() / sizes.sum()), interval, graded.height)


def _difference(graded: pl.DataFrame, first: pl.DataFrame, seed: int, resamples: int) -> PairedDifference | None:
    """Grades are matched answer by answer, and prompts are drawn."""
    place = ["prompt_id", "turn", "repeat"]
    both = graded.select(*place, "grade").join(
        first.filter(pl.col("grade").is_not_null()).select(*place, pl.col("grade").alias("first")),
        on=place,
        how="inner",
        maintain_order="left",
    )
    prompts = both.group_by("prompt_id", maintain_order=True).agg(
        pl.col("grade").sum(), pl.col("first").sum(), pl.len().alias("grades")
    )
    if prompts.height < 2:
        return None
    return paired_bootstrap(
        prompts["grade"].to_numpy(),
        prompts["first"].to_numpy(),
        sizes=prompts["grades"].cast(pl.Float64).to_numpy(),
        seed=seed,
        resamples=resamples,
    )
