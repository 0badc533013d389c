"""Verdicts on pairs of answers to win rates: both orders together, place and length set aside and reported.

A pair is judged twice, each answer shown first once. Where the two verdicts differ it is a tie. A pair of which a
verdict could not be read is counted apart and is part of no rate.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from pyllm.errors import SettingError
from pyllm.stats.bootstrap import DEFAULT_RESAMPLES
from pyllm.stats.intervals import Interval
from pyllm.stats.preference import LengthControlled, bradley_terry, length_controlled
from pyllm.stats.resampling import ratio_interval

POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}
_PAIR = ("a", "b", "prompt_id", "turn", "repeat")
_STRENGTH_RESAMPLES = 300
"""Strengths are fitted anew for each draw, which takes a while."""


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often the first side won, half the ties counted.

    Args:
        rate: From 0 to 1; None where no pair was judged whole.
        interval: Where it plausibly lies for other prompts of the same kind.
        wins: Pairs that the first side won in both orders.
        ties: Pairs with a tie in both orders, or other verdicts in each.
        losses: Pairs that the second side won in both orders.
    """

    rate: float | None
    interval: Interval | None
    wins: int
    ties: int
    losses: int

    @property
    def pairs(self) -> int:
        """Pairs that were judged whole."""
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, slots=True)
class PlaceBias:
    """What the place of an answer did.

    Args:
        first_share: Of the verdicts that chose an answer, the share that chose the one shown first; one half shows
            no bias. None where none chose.
        interval: Where it plausibly lies.
        agreement: Share of pairs with the same verdict in both orders.
    """

    first_share: float | None
    interval: Interval | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class PairSummary:
    """What came of one side against another.

    Args:
        a: The first side.
        b: The second side.
        overall: Its win rate.
        by_category: The same by category.
        by_turn: The same by turn.
        place: What the place of an answer did.
        length: The win rate at equal length; None where fewer than two prompts were judged whole.
        unparsed: Verdicts that could not be read, by kind.
        failed: Verdicts that were asked for and never came.
        mean_characters: Mean length of either side's answers.
    """

    a: str
    b: str
    overall: WinRate
    by_category: dict[str, WinRate]
    by_turn: dict[int, WinRate]
    place: PlaceBias
    length: LengthControlled | None
    unparsed: dict[str, int]
    failed: int
    mean_characters: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def summarize_pairs(table: pl.DataFrame, *, seed: int, resamples: int = DEFAULT_RESAMPLES) -> list[PairSummary]:
    """Sum up verdicts, each two sides apart, in the order in which they stand.

    Args:
        table: One row a verdict: `a`, `b`, `prompt_id`, `category`, `turn`, `repeat`, `order` (ab | ba), `verdict` (a |
            b | tie | null), `parse`, `a_characters`, `b_characters`.
        seed: Of the draws of prompts.
        resamples: How often prompts are drawn.
    """
    return [
        _summary(part, str(a), str(b), seed, resamples)
        for (a, b), part in table.group_by("a", "b", maintain_order=True)
    ]


def whole_pairs(table: pl.DataFrame) -> pl.DataFrame:
    """Pairs with a verdict in both orders, with `points` of the first side: 1, 0, or one half for a tie."""
    columns = [*_PAIR, "category", "a_characters", "b_characters"]
    ab, ba = (
        table.filter(pl.col("order") == order, pl.col("verdict").is_not_null()).select(
            *columns, pl.col("verdict").alias(order)
        )
        for order in ("ab", "ba")
    )
    both = ab.join(ba.select(*_PAIR, "ba"), on=_PAIR, how="inner", maintain_order="left")
    agreed = pl.col("ab") == pl.col("ba")
    points = pl.when(agreed).then(pl.col("ab").replace_strict(POINTS, return_dtype=pl.Float64)).otherwise(0.5)
    return both.with_columns(points.alias("points"), agreed.alias("agreed"))


def _summary(table: pl.DataFrame, a: str, b: str, seed: int, resamples: int) -> PairSummary:
    pairs = whole_pairs(table)
    unread = table.filter(pl.col("verdict").is_null())
    kinds = unread.filter(pl.col("parse").is_not_null()).group_by("parse").len().sort("parse")
    lengths = table.select(pl.col("a_characters").mean(), pl.col("b_characters").mean()).row(0)

    def rate(part: pl.DataFrame) -> WinRate:
        return _win_rate(part, seed, resamples)

    by_category = pairs.with_columns(pl.col("category").fill_null("(none)")).partition_by(
        "category", as_dict=True, maintain_order=True
    )
    by_turn = pairs.partition_by("turn", as_dict=True, maintain_order=True)
    return PairSummary(
        a=a,
        b=b,
        overall=rate(pairs),
        by_category={str(name): rate(part) for (name,), part in sorted(by_category.items())},
        by_turn={int(turn): rate(part) for (turn,), part in sorted(by_turn.items())},
        place=_place_bias(pairs, seed, resamples),
        length=_length_controlled(pairs),
        unparsed={str(kind): int(count) for kind, count in kinds.rows()},
        failed=int(unread["parse"].is_null().sum()),
        mean_characters=(float(lengths[0]), float(lengths[1])),
    )


def _win_rate(pairs: pl.DataFrame, seed: int, resamples: int) -> WinRate:
    points = pairs["points"]
    wins, ties, losses = (int((points == value).sum()) for value in (1.0, 0.5, 0.0))
    if not len(points):
        return WinRate(None, None, 0, 0, 0)
    prompts = pairs.group_by("prompt_id", maintain_order=True).agg(pl.col("points").sum(), pl.len().alias("pairs"))
    interval = ratio_interval(
        prompts["points"].to_numpy(), prompts["pairs"].cast(pl.Float64).to_numpy(), seed=seed, resamples=resamples
    )
    return WinRate(float(points.mean()), interval, wins, ties, losses)  # type: ignore[arg-type]  # a mean of floats


def _place_bias(pairs: pl.DataFrame, seed: int, resamples: int) -> PlaceBias:
    agreement = None if not pairs.height else float(pairs["agreed"].sum()) / pairs.height
    decided = pairs.select(
        "prompt_id",
        first=(pl.col("ab") == "a").cast(pl.Float64) + (pl.col("ba") == "b"),
        chosen=(pl.col("ab") != "tie").cast(pl.Float64) + (pl.col("ba") != "tie"),
    )
    prompts = decided.group_by("prompt_id", maintain_order=True).sum().filter(pl.col("chosen") > 0)
    if not prompts.height:
        return PlaceBias(None, None, agreement)
    first, chosen = prompts["first"].to_numpy(), prompts["chosen"].to_numpy()
    interval = ratio_interval(first, chosen, seed=seed, resamples=resamples)
    return PlaceBias(float(first.sum() / chosen.sum()), interval, agreement)


def _length_controlled(pairs: pl.DataFrame) -> LengthControlled | None:
    groups = np.unique(pairs["prompt_id"].to_numpy(), return_inverse=True)[1].reshape(-1)
    if not pairs.height or groups.max() < 1:
        return None
    verdicts = [pairs[order].replace_strict(POINTS, return_dtype=pl.Float64).to_numpy() for order in ("ab", "ba")]
    difference = (pairs["a_characters"].cast(pl.Float64) - pairs["b_characters"].cast(pl.Float64)).to_numpy()
    return length_controlled(
        np.concatenate(verdicts),
        np.concatenate([difference, difference]),
        np.repeat([1.0, -1.0], pairs.height),
        np.concatenate([groups, groups]),
    )


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a side is among several, in log-odds: the mean of all is 0.

    Args:
        label: The side.
        strength: Of Bradley and Terry.
        interval: Where it plausibly lies for other prompts of the same kind.
    """

    label: str
    strength: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def strengths(table: pl.DataFrame, labels: Sequence[str], *, seed: int) -> list[Strength]:
    """Strengths of several sides, from the pairs that were judged whole, strongest first.

    None where the judge left some sides without a whole pair that ties them to the others.

    Args:
        table: As `summarize_pairs` takes it.
        labels: The sides.
        seed: Of the draws of prompts.
    """
    pairs = whole_pairs(table)
    number = {label: place for place, label in enumerate(labels)}
    prompts, prompt = np.unique(pairs["prompt_id"].to_numpy(), return_inverse=True)
    won: Float[np.ndarray, "prompts sides sides"] = np.zeros((len(prompts), len(labels), len(labels)))
    a, b = (pairs[side].replace_strict(number, return_dtype=pl.Int64).to_numpy() for side in ("a", "b"))
    points = pairs["points"].to_numpy()
    np.add.at(won, (prompt.reshape(-1), a, b), points)
    np.add.at(won, (prompt.reshape(-1), b, a), 1 - points)
    try:
        fitted = bradley_terry(won.sum(axis=0))
    except SettingError:
        return []
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_STRENGTH_RESAMPLES):
        weights = np.bincount(generator.integers(0, len(prompts), len(prompts)), minlength=len(prompts))
        # A draw may leave two sides without a meeting: a trace of the whole keeps them on one scale.
        drawn.append(bradley_terry(np.tensordot(weights, won, axes=1) + 1e-3 * won.sum(axis=0)))
    low, high = np.quantile(np.stack(drawn), [0.025, 0.975], axis=0)
    made = [
        Strength(label, float(fitted[place]), Interval(float(low[place]), float(high[place])))
        for label, place in number.items()
    ]
    return sorted(made, key=lambda each: (-each.strength, each.label))


def pairings(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Each two of several sides, as their places."""
    return list(combinations(range(len(labels)), 2))
