"""Who wins, length and place set aside: a logistic regression of verdicts, and strengths from many comparisons.

Verdicts are numbers from 0 to 1: 1 where the first side won, 0 where the second did, one half for a tie.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Float64, Int

from pyllm.errors import SettingError
from pyllm.stats.intervals import Interval

_PRIOR_DEVIATION = 5.0
"""Coefficients are held by a normal prior this wide: a judge that always takes the first answer has no finite one."""
_MOST_STEPS = 200


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """What is left of a preference when length and place are set aside. See `length_controlled`.

    Args:
        win_rate: Chance that the first side wins where both answers are equally long, the mean over both places.
        interval: Where it plausibly lies for other prompts of the same kind.
        preference: Log-odds of the first side, all else equal.
        length: Log-odds that a much longer answer gains.
        place: Log-odds that the answer shown first gains.
        place_interval: Where that plausibly lies.
        length_interval: Where the gain of length plausibly lies.
    """

    win_rate: float
    interval: Interval
    preference: float
    length: float
    place: float
    place_interval: Interval
    length_interval: Interval


def length_controlled(
    verdicts: Float[np.ndarray, " verdicts"],
    length_differences: Float[np.ndarray, " verdicts"],
    shown_first: Float[np.ndarray, " verdicts"],
    groups: Int[np.ndarray, " verdicts"],
    *,
    confidence: float = 0.95,
) -> LengthControlled:
    """Fit `P(first side wins) = logistic(preference + place * shown_first + length * tanh(difference / scale))`.

    The scale is the root mean square of the length differences. Coefficients have a wide normal prior (deviation 5),
    so that a judge of one mind has finite ones. Intervals are analytic: the sandwich covariance with prompts as
    clusters, carried to the win rate by the delta method on the log-odds scale.

    Args:
        verdicts: 1 where the first side won, 0 where the second did, one half for a tie.
        length_differences: Length of the first side's answer less the second's, in any unit.
        shown_first: 1 where the first side's answer was shown first, -1 where it was shown second.
        groups: Number of the prompt of each verdict: verdicts on one prompt are not independent.
        confidence: How often such an interval holds the truth, between 0 and 1.

    Raises:
        SettingError: There are fewer than two prompts, or a value is not finite or out of its range.

    Source: the regression of "Length-Controlled AlpacaEval" (arXiv 2404.04475, section 3) for two models, without its
        term for the difficulty of each instruction and with one for place; sandwich: Liang and Zeger, 1986.
    """
    if len(np.unique(groups)) < 2:
        raise SettingError("verdicts on fewer than two prompts say nothing about others")
    if not all(np.isfinite(column).all() for column in (verdicts, length_differences, shown_first)):
        raise SettingError("a value to fit is not finite")
    if (verdicts < 0).any() or (verdicts > 1).any():
        raise SettingError("a verdict is not from 0 to 1")
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    scale = float(np.sqrt(np.mean(np.square(length_differences, dtype=np.float64)))) or 1.0
    design = np.column_stack([np.ones(len(verdicts)), shown_first, np.tanh(length_differences / scale)])
    wanted = verdicts.astype(np.float64)
    fitted = _fit(design, wanted)
    covariance = _sandwich(design, wanted, fitted, groups)
    deviation = np.sqrt(np.diag(covariance))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def around(place: int) -> Interval:
        return Interval(float(fitted[place] - z * deviation[place]), float(fitted[place] + z * deviation[place]))

    rate, interval = _rate(fitted, covariance, z)
    return LengthControlled(rate, interval, float(fitted[0]), float(fitted[2]), float(fitted[1]), around(1), around(2))


def _logistic(numbers: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return 0.5 * (1 + np.tanh(0.5 * numbers))


def _fit(design: Float64[np.ndarray, "verdicts terms"], wanted: Float64[np.ndarray, " verdicts"]) -> np.ndarray:
    """Newton's method on a strictly concave function, halving steps that overshoot."""
    coefficients = np.zeros(design.shape[1])

    def objective(at: np.ndarray) -> float:
        odds = design @ at
        return float((wanted * odds - np.logaddexp(0, odds)).sum() - (at @ at) / (2 * _PRIOR_DEVIATION**2))

    value = objective(coefficients)
    for _ in range(_MOST_STEPS):
        chance = _logistic(design @ coefficients)
        gradient = design.T @ (wanted - chance) - coefficients / _PRIOR_DEVIATION**2
        step = np.linalg.solve(_information(design, chance), gradient)
        while (tried := objective(coefficients + step)) < value and np.abs(step).max() > 1e-12:
            step = step / 2
        coefficients, value = coefficients + step, max(value, tried)
        if np.abs(step).max() < 1e-10:
            break
    return coefficients


def _information(design: np.ndarray, chance: np.ndarray) -> np.ndarray:
    weighted = design * (chance * (1 - chance))[:, None]
    return np.asarray(design.T @ weighted + np.eye(design.shape[1]) / _PRIOR_DEVIATION**2)


def _sandwich(design: np.ndarray, wanted: np.ndarray, fitted: np.ndarray, groups: np.ndarray) -> np.ndarray:
    chance = _logistic(design @ fitted)
    _, group = np.unique(groups, return_inverse=True)
    scores = design * (wanted - chance)[:, None]
    summed = np.zeros((int(group.max()) + 1, design.shape[1]))
    np.add.at(summed, group.reshape(-1), scores)
    clusters = len(summed)
    inverse = np.linalg.inv(_information(design, chance))
    return np.asarray(inverse @ (summed.T @ summed) @ inverse * clusters / (clusters - 1))


def _rate(fitted: np.ndarray, covariance: np.ndarray, z: float) -> tuple[float, Interval]:
    first, second = _logistic(np.array([fitted[0] + fitted[1], fitted[0] - fitted[1]]))
    rate = (first + second) / 2
    slopes = np.array([first * (1 - first), second * (1 - second)]) / 2
    gradient = np.array([slopes.sum(), slopes[0] - slopes[1], 0.0])
    odds = np.log(rate / (1 - rate))
    deviation = np.sqrt(gradient @ covariance @ gradient) / (rate * (1 - rate))
    low, high = _logistic(np.array([odds - z * deviation, odds + z * deviation]))
    return float(rate), Interval(min(float(low), float(rate)), max(float(high), float(rate)))


def bradley_terry(points: Float[np.ndarray, "sides sides"]) -> Float64[np.ndarray, " sides"]:
    """Strength of each side, from what each won against each other.

    A side of strength s beats one of strength t with chance `logistic(s - t)`. Each pair that met has half a win for
    either side added, so that a side that never lost has a finite strength. Strengths sum to 0.

    Args:
        points: What the row's side won against the column's: wins, and half the ties. The diagonal is ignored.

    Raises:
        SettingError: There are fewer than two sides, a number is negative, or some sides never met, not even through
            others.

    Source: R. A. Bradley and M. E. Terry, "Rank analysis of incomplete block designs", 1952; the iteration is that of
        D. R. Hunter, "MM algorithms for generalized Bradley-Terry models", 2004, section 2.

    Example:
        >>> strengths = bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))
        >>> round(float(strengths[0] - strengths[1]), 3)
        1.067
    """
    sides = len(points)
    if sides < 2 or points.shape != (sides, sides):
        raise SettingError(f"strengths need a square table of at least two sides, and this is {points.shape}")
    if not np.isfinite(points).all() or (points < 0).any():
        raise SettingError("what a side won is negative or not finite")
    wins = points.astype(np.float64) * (1 - np.eye(sides))
    met = (wins + wins.T) > 0
    if not _connected(met):
        raise SettingError("some sides never met, not even through others: they have no common scale")
    wins = wins + 0.5 * met
    games = wins + wins.T
    won = wins.sum(axis=1)
    strength = np.ones(sides)
    for _ in range(10_000):
        spread = games / (strength[:, None] + strength[None, :])
        changed = won / spread.sum(axis=1)
        changed /= np.exp(np.log(changed).mean())
        if np.abs(np.log(changed / strength)).max() < 1e-12:
            strength = changed
            break
        strength = changed
    return np.asarray(np.log(strength))


def _connected(met: np.ndarray) -> bool:
    reached, frontier = {0}, [0]
    while frontier:
        fresh = set(np.flatnonzero(met[frontier.pop()]).tolist()) - reached
        reached |= fresh
        frontier += fresh
    return len(reached) == len(met)
