"""Log-perplexity of a long text under bounded caches, and that their memory stays flat.

The text is one dialogue without end. Under the protocol `turn` it is read in turns of so many tokens, and room is made
once for each; under `token` the tokens of a turn come one at a time, as in an answer, and room is made for each. Decay
goes by turns in both. The nats of a token are -log of what the model gave it before it was read, whatever the arm's
score; the very first token has none.

The cache's bytes are asserted to stay as they are from the second eviction on; a run in which they grow ends.
"""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex
from pyllm.stream.bench.arms import Arm, baseline_of
from pyllm.stream.bench.playing import hold_budget
from pyllm.stream.bench.report import Measure, arm_rows
from pyllm.stream.bench.units import Unit, do_units
from pyllm.stream.cache import BoundedCache
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import StreamModel

Protocol = Literal["turn", "token"]
"""Whether a turn's tokens come at once, or one at a time."""

BLOCK_TOKENS = 500
"""Tokens whose nats are summed up: what intervals draw from."""

ROW_COLUMNS: dict[str, Any] = {
    "protocol": pl.String, "arm": pl.String, "policy": pl.String, "cache": pl.Int64, "recent": pl.Int64,
    "span": pl.Int64, "decay": pl.String, "horizon_turns": pl.Int64, "score": pl.String, "tokens": pl.Int64,
    "nats": pl.Float64, "block_nats": pl.List(pl.Float64), "cache_tokens": pl.Int64, "evictions": pl.Int64,
    "cache_bytes": pl.Int64, "process_bytes_half": pl.Int64, "process_bytes": pl.Int64, "peak_bytes": pl.Int64,
    "ratio": pl.Float64, "beyond_horizon": pl.Float64,
}  # fmt: skip
"""Columns of the results, one row for each arm and protocol."""


@dataclass(frozen=True, slots=True)
class _Recorder(StreamModel):
    """A model that notes how unlikely every token was that it is given to read.

    Args:
        nats: What was noted, for all tokens but the first.
        after: What was predicted last.
    """

    nats: list[float]
    after: list[Tensor]

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, " new"], cache: BoundedCache) -> Float[Tensor, "new vocab"]:
        """Read on, and note."""
        logits = StreamModel.read(self, ids, cache)
        ids = ids.to(logits.device)
        predicted = torch.cat([*(each[None] for each in self.after), logits[:-1]])
        targets = ids[len(ids) - len(predicted) :]
        if len(targets):
            unlikely = predicted.logsumexp(-1) - predicted.gather(1, targets[:, None])[:, 0]
            self.nats.extend(unlikely.double().tolist())
        self.after[:] = [logits[-1].clone()]
        return logits


def read_through(
    model: StreamModel, ids: Sequence[int], arm: Arm, protocol: Protocol, *, turn_tokens: int
) -> dict[str, Any]:
    """Read a text to its end.

    Args:
        model: The model.
        ids: The text.
        arm: What is kept.
        protocol: How turns are read.
        turn_tokens: Tokens of a turn.

    Raises:
        RuntimeError: The cache was larger than its budget, or its memory grew.
    """
    recorder = _Recorder(model.name, model.model, model.plan, model.context_tokens, model.forward_tokens, [], [])
    dialogue = Dialogue(recorder, arm.settings)
    flat: int | None = None
    size = half = most = 0
    ratios, beyond = [], []
    for start in range(0, len(ids), turn_tokens):
        turn = ids[start : start + turn_tokens]
        dialogue.begin_turn()
        for part in [turn] if protocol == "turn" else [[token] for token in turn]:
            dialogue.feed(part)
        most = max(most, dialogue.cache.tokens)
        hold_budget(arm, dialogue.cache.tokens)
        size = max(size, dialogue.cache.bytes_held())
        if dialogue.memory.evicts and dialogue.memory.evictions > 1:
            flat = size if flat is None else flat
            if size > flat:
                message = f"a cache grew from {flat:,} to {size:,} bytes under `{arm.label}`"
                raise RuntimeError(message)
        if arm.horizon_turns is not None and dialogue.memory.evictions:
            ratios.append(dialogue.memory.ratio)
            beyond.append(dialogue.memory.share_beyond(arm.horizon_turns))
        if start <= len(ids) // 2:
            half = process_bytes()
    nats, now = recorder.nats, process_bytes()
    return {
        "tokens": len(nats),
        "nats": float(np.sum(nats)),
        "block_nats": [float(np.sum(nats[at : at + BLOCK_TOKENS])) for at in range(0, len(nats), BLOCK_TOKENS)],
        "cache_tokens": most,
        "evictions": dialogue.memory.evictions,
        "cache_bytes": size,
        "process_bytes_half": half,
        "process_bytes": now,
        "peak_bytes": max(now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        "ratio": float(np.mean(ratios)) if ratios else None,
        "beyond_horizon": float(np.mean(beyond)) if beyond else None,
    }


def process_bytes() -> int:
    """Memory of the process now; its most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def segment_measures(tokens: int, segments: int) -> tuple[Measure, ...]:
    """The mean of all tokens, and of each part of the text."""
    edges = [round(tokens * place / segments) for place in range(segments + 1)]
    parts = tuple(
        Measure(f"nats_{place + 1}", f"tokens {edges[place]:,}-{edges[place + 1]:,}", f"nats_{place + 1}",
                f"tokens_{place + 1}", compared=False)
        for place in range(segments)
    )  # fmt: skip
    return (Measure("nats", "nats/token", "nats", "tokens"), *(parts if segments > 1 else ()))


def measure_perplexity(
    model: StreamModel,
    ids: Sequence[int],
    arms: Sequence[Arm],
    protocols: Sequence[Protocol],
    path: Path,
    *,
    key: Mapping[str, Any],
    turn_tokens: int,
    segments: int = 2,
    baseline: str | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Read a text under all arms.

    Args:
        model: The model.
        ids: The text.
        arms: What to compare; `full` is the same under all protocols and read in turns.
        protocols: How turns are read.
        path: Results, a line each, as they come.
        key: What decides all results alike.
        turn_tokens: Tokens of a turn.
        segments: Parts of the text that have a mean of their own.
        baseline: The arm, or its policy, that others are compared with.
        seed: Of the intervals.
        progress: Listens; the unit is runs.

    Returns:
        One row for each arm and protocol (see `ROW_COLUMNS`), and for each protocol what is reported.

    Raises:
        SettingError: The baseline is not among the arms, or `path` belongs to other work.
    """
    baselines = baseline_of(arms, baseline)
    digest = sha256_hex(canonical_json(list(ids)))[:16]

    def unit(arm: Arm, protocol: Protocol) -> Unit:
        read: Protocol = "turn" if arm.policy == "full" else protocol
        return Unit(
            f"{read}/{turn_tokens}/{digest}/{arm.label}",
            {"protocol": protocol, **arm.facts()},
            lambda _: read_through(model, ids, arm, read, turn_tokens=turn_tokens),
            len(ids),
        )

    units = [unit(arm, protocol) for protocol in protocols for arm in arms]
    rows = do_units(path, key, units, stage="reading", progress=progress)
    table = pl.DataFrame(rows, schema=ROW_COLUMNS)
    measures = segment_measures(len(ids) - 1, segments)
    reports = []
    for protocol in protocols:
        part = {row["arm"]: row for row in table.filter(protocol=protocol).to_dicts()}
        samples = {label: _samples(row, segments) for label, row in part.items()}
        made = arm_rows([arm.facts() for arm in arms], samples, measures, baselines, seed=seed)
        for row in made:
            found = part[row["arm"]]
            row["most_cache_tokens"] = found["cache_tokens"]
            row |= {
                name: found[name]
                for name in ("evictions", "cache_bytes", "process_bytes_half", "process_bytes", "peak_bytes", "ratio",
                             "beyond_horizon")
            }  # fmt: skip
            row["curve"] = _curve(found)
        reports.append({
            "protocol": protocol, "turn_tokens": turn_tokens, "tokens": len(ids), "budget_held": True,
            "memory_flat": True, "arms": made, "context": [],
        })  # fmt: skip
    return table, reports


def best_arms(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each policy and span, the arm with the fewest nats."""
    best: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        kind = row["policy"], row["span"]
        if kind not in best or row["nats"] < best[kind]["nats"]:
            best[kind] = row
    return list(best.values())


def _blocks(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    nats = np.array(row["block_nats"])
    sizes = np.full(len(nats), float(BLOCK_TOKENS))
    sizes[-1] = row["tokens"] - BLOCK_TOKENS * (len(nats) - 1)
    return nats, sizes


def _samples(row: Mapping[str, Any], segments: int) -> dict[str, np.ndarray]:
    nats, sizes = _blocks(row)
    samples = {"nats": nats, "tokens": sizes}
    edges = [round(len(nats) * place / segments) for place in range(segments + 1)]
    for number in range(segments):
        inside = (np.arange(len(nats)) >= edges[number]) & (np.arange(len(nats)) < edges[number + 1])
        samples |= {f"nats_{number + 1}": nats * inside, f"tokens_{number + 1}": sizes * inside}
    return samples


def _curve(row: Mapping[str, Any], points: int = 20) -> list[list[float]]:
    """Means along the text: pairs of how many tokens were read and nats a token."""
    nats, sizes = _blocks(row)
    parts = np.array_split(np.arange(len(nats)), min(points, len(nats)))
    ends = np.cumsum(sizes)
    return [[float(ends[part[-1]]), float(nats[part].sum() / sizes[part].sum())] for part in parts]
