"""Statistics that several methods share: intervals and ranking quality. Pure functions of numbers."""

from pyllm.stats.auc import area_under_roc
from pyllm.stats.intervals import Interval, binomial_standard_error, wilson_interval

__all__ = ["Interval", "area_under_roc", "binomial_standard_error", "wilson_interval"]
