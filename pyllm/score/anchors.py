"""Anchors: the tasks on which every candidate is tried.

They come from a file, or are rows of the input: drawn at random by seed, or the rows nearest to the centres of a
K-Means clustering of embeddings.

Source: NUGGETS (arXiv 2312.10302), section 3.3, "predefined task set"; where we differ from the published code is in
`docs/methods/nuggets.md`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int

from pyllm import _core
from pyllm.data import anchors
from pyllm.data.examples import Example, examples_from_table
from pyllm.data.framing import Framing, Refused
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.errors import InputError, SettingError
from pyllm.lm.answers import AnswerSpan
from pyllm.score.candidates import Candidates

_log = logging.getLogger(__name__)

ANCHOR_COLUMNS = ("zero_shot_nats", "kept_tokens", "scored_tokens", "truncated", "winnable")


@dataclass(frozen=True, slots=True)
class Anchors:
    """Anchors, tokenized and cut.

    Args:
        table: Their rows.
        prompts: Their prompts.
        spans: Their kept tokens and which of them are scored.
        whole_tokens: Their tokens before cutting.
    """

    table: pl.DataFrame
    prompts: tuple[Prompt, ...]
    spans: tuple[AnswerSpan, ...]
    whole_tokens: tuple[int, ...]

    def scored_tokens(self) -> list[int]:
        """Answer tokens that are scored, for each anchor."""
        return [max(0, span.end - span.start) for span in self.spans]

    def longest(self) -> int:
        """Tokens of the longest anchor."""
        return max(len(span.ids) for span in self.spans)

    def table_with(self, zero_shot_nats: Float64[np.ndarray, " anchors"], winnable: np.ndarray) -> pl.DataFrame:
        """The anchor table that `--anchors-out` writes."""
        kept = [len(span.ids) for span in self.spans]
        truncated = [whole > tokens for whole, tokens in zip(self.whole_tokens, kept, strict=True)]
        rows = self.table.drop(name for name in ANCHOR_COLUMNS if name in self.table.columns)
        return rows.with_columns(
            pl.Series("zero_shot_nats", zero_shot_nats, dtype=pl.Float64),
            pl.Series("kept_tokens", kept, dtype=pl.UInt32),
            pl.Series("scored_tokens", self.scored_tokens(), dtype=pl.UInt32),
            pl.Series("truncated", truncated, dtype=pl.Boolean),
            pl.Series("winnable", winnable, dtype=pl.Boolean),
        )


def span_of(ids: Sequence[int], answer_start: int, max_tokens: int) -> AnswerSpan:
    """Cut an anchor on the right, the answer span with it; a first token is never scored."""
    kept = tuple(ids[:max_tokens])
    return AnswerSpan(kept, max(1, min(answer_start, len(kept))), len(kept))


def read_anchors(table: pl.DataFrame, framing: Framing, *, max_tokens: int, reference: bool) -> Anchors:
    """Render and tokenize the anchors of a table, in its order.

    Raises:
        InputError: The chat template does not take one of them.
    """
    examples = examples_from_table(table)
    prompts = tuple(render_nuggets(example, blank_no_input=not reference) for example in examples)
    encoded = []
    for example, anchor in zip(examples, framing.anchors(prompts), strict=True):
        if isinstance(anchor, Refused):
            raise InputError(
                f"`{example.source_file}` row {example.source_row} cannot be an anchor: {anchor.reason}",
                hint="leave it out, or use --template nuggets",
            )
        encoded.append(anchor)
    return Anchors(
        table=table,
        prompts=prompts,
        spans=tuple(span_of(anchor.ids, anchor.answer_start, max_tokens) for anchor in encoded),
        whole_tokens=tuple(len(anchor.ids) for anchor in encoded),
    )


def eligible_rows(candidates: Candidates, max_tokens: int) -> Int[np.ndarray, " eligible"]:
    """The rows anchors are taken from, ascending.

    The first row of each distinct prompt that has an answer, part of which is left when the anchor is cut to
    `max_tokens`.
    """
    _, first = np.unique(candidates.prompt_of_row, return_index=True)
    has_answer = [bool(prompt.answer) for prompt in candidates.prompts]
    query_tokens = candidates.demo_tokens.astype(np.int64) - candidates.answer_tokens
    usable = np.array(has_answer, dtype=bool) & np.array(candidates.scorable, dtype=bool)
    return np.sort(first[usable & (query_tokens < max_tokens)])


def check_count(count: int, eligible: int, max_tokens: int) -> None:
    """Refuse more anchors than there are rows to choose from.

    Raises:
        SettingError: There are fewer rows.
    """
    if count > eligible:
        raise SettingError(
            f"{count} anchors are wanted, but the input has {eligible} distinct rows that can be one",
            hint=f"a row can when it has an answer that begins within its first {max_tokens} tokens",
        )


def random_rows(
    examples: Sequence[Example], eligible: Int[np.ndarray, " eligible"], count: int, seed: int
) -> Int[np.ndarray, " anchors"]:
    """`count` rows drawn without replacement, in input order.

    The draw ranks rows by a hash of seed and row id, so it does not depend on the order of the input.
    """
    return anchors.random_rows([example.id for example in examples], eligible, count, seed)


def kmeans_rows(
    embeddings: Float32[np.ndarray, "eligible dim"], eligible: Int[np.ndarray, " eligible"], count: int, seed: int
) -> Int[np.ndarray, " anchors"]:
    """The row nearest to each of `count` K-Means centres, in cluster order.

    Raises:
        InputError: An embedding is not finite.
    """
    result = _core.kmeans(embeddings, count, seed=seed)
    _log.info(
        "k-means: %d rows in %d clusters, %d iterations, inertia %.6g",
        len(eligible),
        count,
        result.iterations,
        result.inertia,
    )
    nearest: np.ndarray = eligible[result.nearest_rows.astype(np.int64)]
    return nearest
