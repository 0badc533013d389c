"""Feeding given dialogues to a bounded cache, and what it would have remembered of them. Nothing is generated."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pyllm.progress import Progress, no_progress
from pyllm.stream.dialogue import Dialogue, TurnTrace, limit_warning
from pyllm.stream.model import StreamModel
from pyllm.stream.settings import StreamSettings
from pyllm.stream.turns import Turn

_log = logging.getLogger(__name__)

TRACE_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "turn": pl.Int64,
    "cache_tokens_before": pl.UInt32,
    "kept": pl.List(pl.UInt32),
    "entropy_nats": pl.List(pl.Float64),
    "cache_tokens_after": pl.UInt32,
}
"""Columns of a trace behind `dialogue_id`, and their types."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it.

    Args:
        table: One row a turn, in the order of the turns given.
        report: Its numbers.
    """

    table: pl.DataFrame
    report: dict[str, Any]


def replay(
    model: StreamModel,
    turns: Sequence[Turn],
    settings: StreamSettings,
    *,
    progress: Progress = no_progress,
    check: Callable[[], None] | None = None,
) -> Replay:
    """Feed dialogues turn by turn, evicting as a live dialogue would.

    Args:
        model: The model.
        turns: Turns of any number of dialogues, in any order; each dialogue is fed by ascending turn number.
        settings: What decides who stays.
        progress: Listens; the unit is turns.
        check: Called after every turn; whatever it raises ends the work.

    Raises:
        SettingError: The settings do not fit the model.
        PrerequisiteError: The model gives no number for a token, or its attention cannot be watched.
    """
    started = time.perf_counter()
    warning = limit_warning(model, settings)
    if warning is not None:
        _log.warning("%s", warning)
    dialogues: dict[str | int, list[int]] = {}
    for place, turn in enumerate(turns):
        dialogues.setdefault(turn.dialogue_id, []).append(place)
    traces: list[TurnTrace | None] = [None] * len(turns)
    evictions, longest = 0, 0
    ratios: list[float] = []
    beyond: list[float] = []
    progress.start("replaying", len(turns), unit="turns")
    for places in dialogues.values():
        dialogue = Dialogue(model, settings)
        for place in sorted(places, key=lambda place: turns[place].number):
            traces[place] = dialogue.read_turn(turns[place].token_ids)
            progress.advance(1, tokens=len(turns[place].token_ids))
            if settings.horizon_turns is not None and dialogue.memory.evictions:
                ratios.append(dialogue.memory.ratio)
                beyond.append(dialogue.memory.share_beyond(settings.horizon_turns))
            if check is not None:
                check()
        evictions += dialogue.memory.evictions
        longest = max(longest, dialogue.memory.seen)
    progress.finish()
    if not dialogue_fits(model, settings, longest):
        _log.warning("a dialogue of %s tokens went past the %s positions of the model", longest, model.context_tokens)
    tokens = sum(len(turn.token_ids) for turn in turns)
    seconds = time.perf_counter() - started
    _log.info("replayed %d turns of %d dialogues, %d tokens, %.1f s", len(turns), len(dialogues), tokens, seconds)
    done = [trace for trace in traces if trace is not None]
    report: dict[str, Any] = {
        "dialogues": len(dialogues),
        "turns": len(turns),
        "tokens": tokens,
        "evictions": evictions,
        "most_cache_tokens": max((trace.cache_tokens_after for trace in done), default=0),
    }
    if ratios:
        # Over the turns behind a first eviction: how fast scores faded, and the share of the cache beyond the horizon.
        report |= {"mean_decay_ratio": sum(ratios) / len(ratios), "share_beyond_horizon": sum(beyond) / len(beyond)}
    return Replay(_table(turns, done), report)


def dialogue_fits(model: StreamModel, settings: StreamSettings, tokens: int) -> bool:
    """Whether a dialogue that nothing is evicted from stays within the model's positions."""
    return settings.policy != "full" or model.context_tokens is None or tokens <= model.context_tokens


def _table(turns: Sequence[Turn], traces: Sequence[TurnTrace]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "turn": [turn.number for turn in turns],
        "cache_tokens_before": [trace.cache_tokens_before for trace in traces],
        "kept": [None if trace.kept is None else trace.kept.tolist() for trace in traces],
        "entropy_nats": [trace.nats.tolist() for trace in traces],
        "cache_tokens_after": [trace.cache_tokens_after for trace in traces],
    }
    named = pl.Series("dialogue_id", [turn.dialogue_id for turn in turns])
    typed = [pl.Series(name, columns[name], dtype=dtype) for name, dtype in TRACE_COLUMNS.items()]
    return pl.DataFrame([named, *typed])
