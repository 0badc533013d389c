"""From one-shot sums to score columns.

golden score of a row = anchors won / anchors tried; an anchor is won when its one-shot sum is strictly above its
zero-shot sum. Source: NUGGETS (arXiv 2312.10302), section 3.2; the published code compares sums, and so do we.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int

from pyllm import _core
from pyllm.score.aggregate import MatrixWriter
from pyllm.score.candidates import Candidates

_MATRIX_ROWS = 4096  # rows that are gathered at once


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of the distinct prompts of a run.

    Args:
        scored: Whether each prompt was scored at all.
        wins: Anchors won.
        anchors_scored: Anchors tried.
        mean_gain_nats: Mean of one-shot minus zero-shot sums over the anchors tried.
        one_shot_nats: One-shot sums, NaN where not tried; None unless kept.
        left_out: Pairs that were not tried; None unless kept.
        nan_pairs: Pairs whose one-shot sum is not a number (counted as lost).
    """

    scored: Bool[np.ndarray, " prompts"]
    wins: np.ndarray
    anchors_scored: np.ndarray
    mean_gain_nats: Float64[np.ndarray, " prompts"]
    one_shot_nats: Float64[np.ndarray, "prompts anchors"] | None
    left_out: Bool[np.ndarray, "prompts anchors"] | None
    nan_pairs: int


class Aggregator:
    """Adds up work units as they come, so that the whole matrix need not be in memory.

    Args:
        prompts: Number of distinct prompts.
        zero_shot_nats: Zero-shot sums.
        keep_pairs: Keep every pair for the per-anchor columns.
    """

    def __init__(self, prompts: int, zero_shot_nats: Float64[np.ndarray, " anchors"], *, keep_pairs: bool) -> None:
        self._zero = zero_shot_nats
        self._scored = np.zeros(prompts, dtype=bool)
        self._wins = np.zeros(prompts, dtype=np.uint32)
        self._tried = np.zeros(prompts, dtype=np.uint32)
        self._gain = np.full(prompts, np.nan)
        shape = (prompts, len(zero_shot_nats))
        self._pairs = np.full(shape, np.nan) if keep_pairs else None
        self._left_out = np.ones(shape, dtype=bool) if keep_pairs else None
        self._nan_pairs = 0

    def add(
        self,
        prompts: Int[np.ndarray, " unit"],
        one_shot_nats: Float64[np.ndarray, "unit anchors"],
        left_out: Bool[np.ndarray, "unit anchors"],
    ) -> None:
        """Add the sums of some prompts."""
        unit = _core.golden_scores(one_shot_nats, self._zero, left_out)
        self._scored[prompts] = True
        self._wins[prompts] = unit.wins
        self._tried[prompts] = unit.anchors_scored
        self._gain[prompts] = unit.mean_gain_nats
        self._nan_pairs += int(unit.nan_pairs)
        if self._pairs is not None and self._left_out is not None:
            self._pairs[prompts] = one_shot_nats
            self._left_out[prompts] = left_out

    def scores(self) -> Scores:
        """What has been added."""
        return Scores(self._scored, self._wins, self._tried, self._gain, self._pairs, self._left_out, self._nan_pairs)


def score_columns(
    scores: Scores,
    candidates: Candidates,
    zero_shot_nats: Float64[np.ndarray, " anchors"],
    *,
    per_anchor: bool = True,
) -> list[pl.Series]:
    """The score columns, one value for each row of the input; those of each anchor only if the pairs were kept."""
    rows = candidates.prompt_of_row
    tried = scores.anchors_scored[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        golden = pl.Series("golden_score", scores.wins[rows] / tried.astype(np.float64)).fill_nan(None)
    columns = [
        golden,
        pl.Series("wins", scores.wins[rows], dtype=pl.UInt32),
        pl.Series("anchors_scored", tried, dtype=pl.UInt32),
        pl.Series("mean_gain_nats", scores.mean_gain_nats[rows]).fill_nan(None),
        pl.Series("demo_tokens", candidates.demo_tokens[rows], dtype=pl.UInt32),
        pl.Series("answer_tokens", candidates.answer_tokens[rows], dtype=pl.UInt32),
    ]
    if per_anchor and scores.one_shot_nats is not None and scores.left_out is not None:
        sums, left_out = scores.one_shot_nats[rows], scores.left_out[rows]
        columns.append(_lists("anchor_wins", sums > zero_shot_nats, left_out))
        columns.append(_lists("one_shot_nats", sums, left_out))
    return columns


def write_score_matrix(
    path: Path,
    scores: Scores,
    candidates: Candidates,
    *,
    ids: Sequence[str],
    anchors: Sequence[object],
    steps: Sequence[dict[str, Any]],
) -> None:
    """Write the kept pairs as a matrix file, a row for each row of the input.

    Raises:
        PrerequisiteError: The file cannot be written.
    """
    if scores.one_shot_nats is None or scores.left_out is None:
        return
    writer = MatrixWriter(path, anchors, dtype="float64", steps=steps)
    for first in range(0, len(ids), _MATRIX_ROWS):
        rows = candidates.prompt_of_row[first : first + _MATRIX_ROWS]
        writer.write(ids[first : first + _MATRIX_ROWS], scores.one_shot_nats[rows], scores.left_out[rows])
    writer.finish()


def _lists(name: str, values: np.ndarray, left_out: Bool[np.ndarray, "rows anchors"]) -> pl.Series:
    """One list for each row, null where `left_out`."""
    frame = pl.DataFrame({"value": values.reshape(-1), "out": left_out.reshape(-1)})
    kept = frame.select(pl.when(~pl.col("out")).then(pl.col("value"))).to_series()
    return kept.reshape(values.shape).arr.to_list().rename(name)
