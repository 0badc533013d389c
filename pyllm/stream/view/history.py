"""What happened to every token of a dialogue, from the log of a session or from the trace of a replay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from numpy import ndarray

from pyllm.errors import InputError, SettingError
from pyllm.stream.log import SessionLog

Texts = Callable[[Sequence[int]], list[str]]
"""Token ids to the text that each adds."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What decided who stays.

    Args:
        policy: Its name.
        tokens: Most tokens in the cache.
        sinks: First tokens, which always stay.
        said: All of it as people read it.
    """

    policy: str
    tokens: int
    sinks: int
    said: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Tokens that went together.

    Args:
        turn: In which turn, counted from 0.
        rule: Number of the rule in force.
        coming: Tokens that room was made for, where that is known.
        cut: The lowest score that stayed for its score, where one did.
        in_nats: Whether scores are decayed nats, and not a policy's own measure.
        forgotten: Whether someone had them forgotten.
    """

    turn: int
    rule: int
    coming: int | None = None
    cut: float | None = None
    in_nats: bool = False
    forgotten: bool = False


@dataclass
class History:
    """A dialogue from its first token to its last.

    Args:
        name: What it is called.
        nats: Score of each token as it was read.
        texts: Text of each token, where it is known.
        ends: Position behind each turn.
        labels: What each turn is called.
        answers: First token of each turn's answer and the one behind it, where that is known.
        went: For each token the number of its `gone`; -1 while it is held.
        worth: Its score when it went; NaN where that is not known.
        gone: Who went together, in order.
        rules: What decided it.
        rule_of: Number of the rule in force at the end of each turn.
        pins: Turn, whether to pin (or to let all go), and the first position and the one behind the last of each run.
        notes: Turn, and what happened behind it.
    """

    name: str
    nats: Float[ndarray, " tokens"]
    texts: list[str] | None
    ends: list[int]
    labels: list[int]
    answers: list[tuple[int, int] | None]
    went: Int[ndarray, " tokens"]
    worth: Float[ndarray, " tokens"]
    gone: list[Gone] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    rule_of: list[int] = field(default_factory=list)
    pins: list[tuple[int, bool, list[tuple[int, int]]]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def take_out(self, positions: Sequence[int], gone: Gone, scores: Sequence[float | None] | None = None) -> None:
        """Say that tokens went.

        Raises:
            InputError: One of them was never read, or had gone.
        """
        places = np.asarray(positions, np.int64)
        if not len(places):
            return
        if places.min() < 0 or places.max() >= len(self.went) or (self.went[places] >= 0).any():
            raise InputError(f"{self.name}: in turn {self.labels[gone.turn]} tokens go that are not there")
        self.went[places] = len(self.gone)
        self.gone.append(gone)
        if scores is not None:
            self.worth[places] = [np.nan if score is None else score for score in scores]


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """The rule that settings name, as `StreamSettings.as_dict` has them."""
    budget, policy = settings["budget"], str(settings["policy"])
    tokens = sum(budget[part] for part in ("sinks", "entropy", "recent"))
    parts = [f"policy {policy}"]
    if policy != "full":
        shares = f"{budget['sinks']:,} sinks, {budget['entropy']:,} for their score, {budget['recent']:,} recent"
        parts.append(f"cache of {tokens:,} tokens ({shares})")
    if policy == "sirllm":
        horizon = settings.get("horizon_turns")
        decay = f"decay {settings['decay']}" if horizon is None else f"decay for a horizon of {horizon:,} turns"
        parts += [f"score {settings['score']}", decay]
    spans = settings["span_after"], settings["span_before"]
    if any(spans):
        parts.append(f"spans of {spans[0]} after and {spans[1]} before")
    return Rule(policy, tokens, int(budget["sinks"]), ", ".join(parts))


def history_of_session(log: SessionLog, name: str, texts_of: Texts | None = None) -> History:
    """The history in a session's log.

    Args:
        log: The log.
        name: What to call it.
        texts_of: Gives texts where the log has none; what is in the log counts first.

    Raises:
        InputError: The log does not fit itself.
        SettingError: The log has no texts, as those of older versions, and nothing else gives them.
    """
    try:
        return _session(log, name, texts_of)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{name}: its log is not one of `toolkit stream chat`: {error!r}") from error


def _session(log: SessionLog, name: str, texts_of: Texts | None) -> History:
    records = log.records()
    said = [record for record in records if record["kind"] == "turn"]
    if not said:
        raise InputError(f"{name}: nothing was said yet")
    ends = np.cumsum([len(record["token_ids"]) for record in said]).tolist()
    answers: list[tuple[int, int] | None] = []
    for start, record in zip([0, *ends], said, strict=False):
        first, last = record["answer_tokens"]
        answers.append((start + first, start + last))
    made = History(
        name=name,
        nats=np.concatenate([np.asarray(record["nats"], np.float64) for record in said]),
        texts=[text for record in said for text in _texts(record, name, texts_of)],
        ends=ends,
        labels=list(range(1, len(said) + 1)),
        answers=answers,
        went=np.full(ends[-1], -1, np.int64),
        worth=np.full(ends[-1], np.nan),
        rules=[rule_of(log.metadata["facts"]["settings"])],
    )
    turn = -1
    for record in records:
        _take_in(made, record, turn := turn + (record["kind"] == "turn"))
    return made


def _take_in(made: History, record: Mapping[str, Any], turn: int) -> None:
    """What a line of the log did, behind or in a turn."""
    kind, rule, behind = record["kind"], len(made.rules) - 1, max(turn, 0)
    if kind == "turn":
        made.rule_of.append(rule)
        if record.get("pinned"):
            made.pins.append((turn, True, _runs(record["pinned"])))
    elif kind == "pin":
        made.pins.append((behind, True, _runs(record["positions"])))
        made.notes.append((behind, f"{len(record['positions']):,} tokens were pinned"))
    elif kind == "unpin":
        made.pins.append((behind, False, []))
        made.notes.append((behind, "everything was unpinned"))
    elif kind == "forget":
        made.notes.append((behind, f"{len(record['gone']):,} tokens were forgotten"))
    elif kind == "policy":
        made.rules.append(rule_of(record["settings"]))
        made.notes.append((behind, f"from here on: {made.rules[-1].said}"))
        if turn >= 0:
            made.rule_of[turn] = rule + 1
    forgotten = kind == "forget"
    if "evictions" not in record:  # a log of an older version
        made.take_out(record.get("gone", []), Gone(behind, rule, forgotten=forgotten))
        return
    for each in record["evictions"]:
        gone = Gone(behind, rule, each["coming"] or None, each["cut"], each["in_nats"], forgotten)
        made.take_out(each["gone"], gone, each["scores"])


def _texts(record: Mapping[str, Any], name: str, texts_of: Texts | None) -> list[str]:
    found = record.get("texts")
    if found is None:
        if texts_of is None:
            raise SettingError(f"{name}: its log holds no texts of tokens", hint="give its --model")
        found = texts_of(record["token_ids"])
    if len(found) != len(record["token_ids"]) or len(record["nats"]) != len(found):
        raise InputError(f"{name}: a turn has not as many texts, scores and tokens")
    return [str(text) for text in found]


def history_of_trace(
    trace: pl.DataFrame,
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    token_ids: Mapping[int, Sequence[int]] | None = None,
    texts_of: Texts | None = None,
) -> History:
    """The history of one dialogue in a trace of `toolkit stream replay`.

    A trace names who stayed behind a turn's last eviction and not what they were worth then. With `sirllm`, without
    spans and with a fixed decay, that follows from the scores and the turns.

    Args:
        trace: The rows of the dialogue.
        name: What to call it.
        settings: What the replay was made with, where that is known.
        token_ids: Tokens of each turn, by its number.
        texts_of: Gives their texts.

    Raises:
        InputError: The rows do not fit each other, or the tokens do not fit them.
    """
    rows = trace.sort("turn").to_dicts()
    sizes = [len(row["entropy_nats"]) for row in rows]
    ends = np.cumsum(sizes).tolist()
    texts = None
    if token_ids is not None and texts_of is not None:
        texts = []
        for row, size in zip(rows, sizes, strict=True):
            ids = token_ids.get(row["turn"], ())
            if len(ids) != size:
                raise InputError(
                    f"{name}: turn {row['turn']} has {size:,} tokens in the trace and {len(ids):,} among the turns",
                    hint="give the turns, model and template that it was made with",
                )
            texts += texts_of(ids)
    made = History(
        name=name,
        nats=np.concatenate([np.asarray(row["entropy_nats"], np.float64) for row in rows]),
        texts=texts,
        ends=ends,
        labels=[row["turn"] for row in rows],
        answers=[None] * len(rows),
        went=np.full(ends[-1], -1, np.int64),
        worth=np.full(ends[-1], np.nan),
        rules=[_UNKNOWN if settings is None else rule_of(settings)],
        rule_of=[0] * len(rows),
    )
    decay = settings["decay"] if settings is not None and _plain_sirllm(settings) else None
    held = np.empty(0, np.int64)
    for turn, (row, end, size) in enumerate(zip(rows, ends, sizes, strict=True)):
        there = np.concatenate([held, np.arange(end - size, end)])
        held = there
        if row["kept"] is not None:
            kept = np.asarray(row["kept"], np.int64)
            # What was read behind the last eviction is all there.
            held = np.concatenate([kept, np.arange(end - max(0, row["cache_tokens_after"] - len(kept)), end)])
        if len(held) != row["cache_tokens_after"] or len(np.setdiff1d(held, there)):
            raise InputError(f"{name}: turn {row['turn']} keeps tokens that were not there, or not as many as it says")
        gone = np.setdiff1d(there, held)
        scores = None
        # In one piece: all that went did so before the turn's decay.
        if decay is not None and row["kept"] is not None and row["cache_tokens_after"] - len(row["kept"]) == size:
            ages = turn - 1 - np.searchsorted(ends, gone, side="right")
            scores = (made.nats[gone] * float(decay) ** ages).tolist()
        made.take_out(gone.tolist(), Gone(turn, 0, size if scores is not None else None, None, True), scores)
    return made


_UNKNOWN = Rule("unknown", 0, 0, "policy unknown")


def _plain_sirllm(settings: Mapping[str, Any]) -> bool:
    fixed = settings.get("horizon_turns") is None
    return settings["policy"] == "sirllm" and fixed and not settings["span_after"] + settings["span_before"]


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbours: the first position of each, and the one behind its last."""
    places = np.unique(np.asarray(positions, np.int64))
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
