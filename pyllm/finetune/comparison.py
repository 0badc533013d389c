"""Models compared on the same held-out rows: losses, paired intervals, and what they say in plain words.

Every difference is a control's loss less the selection's: above 0 the selection is better. Losses are averaged over
seeds first, row by row; intervals are over rows, and whether the seeds agree is said beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int
from numpy import ndarray

from pyllm.finetune.arms import SELECTED
from pyllm.finetune.held_out import RowLosses
from pyllm.stats.bootstrap import DEFAULT_RESAMPLES, PairedDifference, paired_bootstrap

UNTRAINED = "before training"
NAMES = {"random": "random rows", "longest": "the longest rows", "all": "the whole pool", UNTRAINED: "no training"}
"""What sentences call what the selection is compared with."""

CONFIDENCE = 0.95
FEWEST_ROWS = 10
"""On fewer rows an interval means little, and none is given."""

_SOURCE_COLUMNS = ("source", "dataset", "category", "source_file")
_UNLIKE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """One trained model, or the untrained one, on the held-out rows.

    Args:
        arm: What it was trained on.
        seed: Of its run; None for the untrained model.
        rows: Rows that it was trained on.
        tokens: Tokens of its run.
        steps: Optimizer steps of its run.
        losses: Of each held-out row.
    """

    arm: str
    seed: int | None
    rows: int
    tokens: int
    steps: int
    losses: RowLosses


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """What models are compared on.

    Args:
        ids: The id of each row.
        sources: Where each comes from.
        answer_tokens: Trained tokens of each.
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    answer_tokens: Int[ndarray, " rows"]


def source_column(table: pl.DataFrame) -> str:
    """The column that says where rows come from: the first known one that tells some rows from others."""
    present = [name for name in _SOURCE_COLUMNS if name in table.columns]
    return next((name for name in present if table[name].n_unique() > 1), present[-1])


def strata(rows: HeldOutRows) -> list[tuple[str, str, Bool[ndarray, " rows"]]]:
    """Parts of the held-out rows: all, thirds by answer length, and each source where there are several.

    Returns:
        The kind of each part, its name, and which rows are in it. Rows of one length stay together, so that thirds
        may be uneven, or fewer.
    """
    lengths = rows.answer_tokens
    parts = [("all", "all", np.ones(len(lengths), dtype=bool))]
    borders = np.unique(np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf"))
    third = np.searchsorted(borders, lengths, side="left")
    if len(np.unique(third)) > 1:
        for number in np.unique(third):
            inside = third == number
            low, high = int(lengths[inside].min()), int(lengths[inside].max())
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            parts.append(("answer_tokens", f"{span} answer tokens", inside))
    sources = np.array(rows.sources, dtype=object)
    if len(names := sorted(set(rows.sources))) > 1:
        parts += [("source", name, sources == name) for name in names]
    return parts


def compare(measured: Sequence[Measured], rows: HeldOutRows, *, seed: int) -> dict[str, Any]:
    """The table: losses of each arm, and how each differs from the selection.

    Args:
        measured: Every model; those of the selection among them.
        rows: What they were measured on.
        seed: Of the bootstrap.

    Returns:
        Numbers and sentences, ready for JSON.
    """
    by_arm: dict[str, list[Measured]] = {}
    for each in measured:
        by_arm.setdefault(each.arm, []).append(each)
    tokens = measured[0].losses.tokens
    comparisons = [
        _comparison(by_arm[SELECTED], others, tokens, inside, stratum={"kind": kind, "name": name}, seed=seed)
        for kind, name, inside in strata(rows)
        for arm, others in by_arm.items()
        if arm != SELECTED
    ]
    return {
        "arms": [_arm(arm, runs) for arm, runs in by_arm.items()],
        "comparisons": comparisons,
        "confidence": CONFIDENCE,
        "held_out": {"rows": len(rows.ids), "tokens": int(tokens.sum())},
        "notes": _notes(by_arm),
        "resamples": DEFAULT_RESAMPLES,
        "verdicts": {each["control"]: each["verdict"] for each in comparisons if each["stratum"]["kind"] == "all"},
    }


def row_table(measured: Sequence[Measured], rows: HeldOutRows) -> pl.DataFrame:
    """The loss of every held-out row under every model."""
    return pl.concat(
        pl.DataFrame(
            {
                "id": rows.ids,
                "source": rows.sources,
                "answer_tokens": rows.answer_tokens,
                "arm": [each.arm] * len(rows.ids),
                "seed": [each.seed] * len(rows.ids),
                "nats": each.losses.nats,
                "tokens": each.losses.tokens,
            },
            schema_overrides={"answer_tokens": pl.UInt32, "tokens": pl.UInt32, "seed": pl.UInt32, "nats": pl.Float64},
        )
        for each in measured
    )


def _arm(arm: str, runs: Sequence[Measured]) -> dict[str, Any]:
    def mean(values: Sequence[int | float]) -> float:
        return float(np.mean(values))

    per_token = [run.losses.per_token for run in runs]
    return {
        "arm": arm,
        "loss_per_row": mean([run.losses.per_row for run in runs]),
        "loss_per_token": mean(per_token),
        "rows": mean([run.rows for run in runs]),
        "runs": [
            {
                "loss_per_row": run.losses.per_row,
                "loss_per_token": run.losses.per_token,
                "rows": run.rows,
                "seed": run.seed,
                "steps": run.steps,
                "tokens": run.tokens,
            }
            for run in runs
        ],
        "spread_per_token": float(np.std(per_token, ddof=1)) if len(per_token) > 1 else None,
        "steps": mean([run.steps for run in runs]),
        "tokens": mean([run.tokens for run in runs]),
    }


def _comparison(
    selected: Sequence[Measured],
    others: Sequence[Measured],
    tokens: Int[ndarray, " rows"],
    inside: Bool[ndarray, " rows"],
    *,
    stratum: dict[str, str],
    seed: int,
) -> dict[str, Any]:
    sizes = tokens[inside].astype(np.float64)
    ours, theirs = (_mean_nats(runs)[inside] for runs in (selected, others))
    control = others[0].arm
    facts: dict[str, Any] = {
        "control": control,
        "control_per_token": float(theirs.sum() / sizes.sum()),
        "rows": int(inside.sum()),
        "selected_per_token": float(ours.sum() / sizes.sum()),
        "stratum": stratum,
        "tokens": int(sizes.sum()),
    }
    if facts["rows"] < FEWEST_ROWS:
        few = f"{facts['rows']} held-out rows are too few to say"
        return {**facts, "per_row": None, "per_token": None, "seed_differences": [], "verdict": few}
    per_token = paired_bootstrap(theirs, ours, sizes=sizes, seed=seed, confidence=CONFIDENCE)
    per_row = paired_bootstrap(theirs / sizes, ours / sizes, seed=seed, confidence=CONFIDENCE)
    by_seed = [
        float((other.losses.nats[inside] - own.losses.nats[inside]).sum() / sizes.sum())
        for other in others
        for own in selected
        if other.seed in (own.seed, None)
    ]
    return {
        **facts,
        "per_row": _numbers(per_row),
        "per_token": _numbers(per_token),
        "seed_differences": by_seed,
        "verdict": _verdict(NAMES[control], per_token, per_row, by_seed),
    }


def _mean_nats(runs: Sequence[Measured]) -> Float64[ndarray, " rows"]:
    mean: ndarray = np.mean([run.losses.nats for run in runs], axis=0)
    return mean


def _numbers(found: PairedDifference) -> dict[str, float]:
    return {"difference": found.difference, "high": found.interval.high, "low": found.interval.low}


def _verdict(name: str, per_token: PairedDifference, per_row: PairedDifference, by_seed: Sequence[float]) -> str:
    size, low, high = per_token.difference, per_token.interval.low, per_token.interval.high
    if not per_token.is_shown:
        sentence = f"no difference between the selection and {name} is shown at 95 % ({low:+.4f} to {high:+.4f})"
    else:
        word, less = ("better", "less") if size > 0 else ("worse", "more")
        low, high = sorted((abs(low), abs(high)))
        sentence = f"the selection is {word} than {name}: {abs(size):.4f} nats a token {less} ({low:.4f} to {high:.4f})"
    if _side(per_row) != _side(per_token):
        words = {1: "it is better", 0: "no difference is shown", -1: "it is worse"}
        sentence += f"; with every row counted alike {words[_side(per_row)]}"
    if per_token.is_shown and any(np.sign(each) != np.sign(size) for each in by_seed):
        agreeing = sum(np.sign(each) == np.sign(size) for each in by_seed)
        sentence += f"; only {agreeing} of {len(by_seed)} seeds agree"
    return sentence


def _side(found: PairedDifference) -> int:
    return int(found.interval.low > 0) - int(found.interval.high < 0)


def _notes(by_arm: dict[str, list[Measured]]) -> list[str]:
    """Where arms were not alike."""
    lines = []
    own = by_arm[SELECTED]
    if len(own) == 1:
        lines.append("with one seed it is not known how much one run differs from the next")
    for arm, runs in by_arm.items():
        if arm in (SELECTED, UNTRAINED):
            continue
        for thing, advice in (("tokens", ""), ("steps", "; with --batch-tokens steps are alike too")):
            theirs = float(np.mean([getattr(run, thing) for run in runs]))
            ours = float(np.mean([getattr(run, thing) for run in own]))
            if abs(theirs - ours) > _UNLIKE_SHARE * ours:
                lines.append(f"`{arm}` took {theirs:,.0f} {thing} and the selection {ours:,.0f}{advice}")
    return lines
