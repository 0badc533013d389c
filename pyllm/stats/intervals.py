"""How far a share may lie from the truth when it was counted on a sample: a golden score is such a share."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from pyllm.errors import SettingError


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of plausible values, both ends included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise SettingError(f"an interval from {self.low:g} to {self.high:g} is upside down")


def binomial_standard_error(share: float, trials: int) -> float:
    """Standard error of a share of successes: `sqrt(share * (1 - share) / trials)`.

    It is 0 at a share of 0 or 1, which says too much on few trials; `wilson_interval` does not have that fault.

    Args:
        share: Successes over trials, between 0 and 1.
        trials: At least 1.

    Raises:
        SettingError: An argument is out of range.

    Example:
        >>> round(binomial_standard_error(0.8, 100), 3)
        0.04
    """
    if not 0 <= share <= 1:
        raise SettingError(f"a share of {share:g} is not between 0 and 1")
    if trials < 1:
        raise SettingError(f"{trials} trials are below 1")
    return sqrt(share * (1 - share) / trials)


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Range of the true share, given the successes counted.

    Args:
        successes: Between 0 and `trials`.
        trials: At least 1.
        confidence: How often such a range holds the truth, between 0 and 1.

    Raises:
        SettingError: An argument is out of range.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Example:
        >>> wilson_interval(0, 10).low
        0.0
    """
    if trials < 1:
        raise SettingError(f"{trials} trials are below 1")
    if not 0 <= successes <= trials:
        raise SettingError(f"{successes} successes in {trials} trials cannot be")
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / shrink
    # At the ends the exact answer is 0 or 1; rounding error would leave 1e-17.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == trials else min(centre + half, 1.0)
    return Interval(low, high)
