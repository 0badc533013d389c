"""Examples as they will be trained, decoded, with what is trained told from what is not.

What is shown is what training reads: the packs that a run would make of the first rows, taken apart again. A span of
tokens is decoded as part of the whole, since bytes of one character may lie in two tokens; a character that the border
of a span splits is counted to what stands behind the border.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int32, UInt32
from numpy import ndarray

from pyllm.data.tokens import MASKED, TrainingTokenizer
from pyllm.errors import InputError, PrerequisiteError
from pyllm.finetune import data
from pyllm.finetune.job import Job
from pyllm.finetune.sequences import Sequences, read_packs

_LONGEST = 65_536
_ROWS_AT_FIRST = 256


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an example.

    Args:
        text: As it reads.
        trained: Whether its tokens are trained.
    """

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class ShownExample:
    """An example as it will be trained.

    Args:
        row_id: Id of its row.
        tokens: Its tokens.
        trained_tokens: Those of them that are trained.
        cut: Whether it was longer; None where nobody can tell, as for packs that were made before.
        parts: Its text, stretch by stretch.
    """

    row_id: str
    tokens: int
    trained_tokens: int
    cut: bool | None
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The whole."""
        return "".join(part.text for part in self.parts)


def first_examples(job: Job, count: int, folder: Path) -> list[ShownExample]:
    """The first examples that a run trains on, in the order of its rows; no weights are loaded.

    Args:
        job: The run.
        count: How many; fewer where there are no more.
        folder: An empty folder for packs.

    Raises:
        InputError: No row can be trained on.
    """
    decode = decoder(job.tokenizer)
    if job.rows.table is None:
        sequences = _first_packed(job.rows.packs, count)
        is_cut: list[bool | None] = [None] * count
    else:
        sequences = _first_trained(job, job.rows.table, count, folder)
        is_cut = _which_are_cut(job, job.rows.table, sequences, folder)
    shown = []
    for place, cut in zip(range(len(sequences)), is_cut[:count], strict=False):
        ids, labels = sequences.example(place)
        parts = parts_of(ids, labels, decode)
        shown.append(ShownExample(sequences.row_ids[place], len(ids), int((labels != MASKED).sum()), cut, parts))
    return shown


def decoder(tokenizer: TrainingTokenizer) -> Callable[[list[int]], str]:
    """The text of token ids, special tokens included.

    Raises:
        PrerequisiteError: The tokenizer cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        library = Tokenizer.from_str(tokenizer.json)
    except Exception as error:  # the library raises nothing narrower
        raise PrerequisiteError(f"tokenizer `{tokenizer.name}` cannot be read: {error}") from error
    return lambda ids: str(library.decode(ids, skip_special_tokens=False))


def _first_packed(paths: Sequence[Path], count: int) -> Sequences:
    """Examples of as many files as it takes."""
    for files in range(1, len(paths)):
        sequences = read_packs(paths[:files])
        if len(sequences) >= count:
            return sequences
    return read_packs(paths)


def _first_trained(job: Job, table: pl.DataFrame, count: int, folder: Path) -> Sequences:
    """Examples of as many rows as it takes."""
    rows = max(_ROWS_AT_FIRST, 2 * count)
    while True:
        try:
            sequences = _packed(job, table.head(rows), job.settings.max_length, folder)
        except InputError:
            # Rows without an answer may all stand in front.
            if rows >= table.height:
                raise
        else:
            if rows >= table.height or len(sequences) >= count:
                return sequences.take(range(min(count, len(sequences))))
        rows *= 4


def _which_are_cut(job: Job, table: pl.DataFrame, sequences: Sequences, folder: Path) -> list[bool | None]:
    """Whether each example lost its end: one that fills the length is packed once more, with room to spare."""
    limit = job.settings.max_length
    full = [row_id for row_id, length in zip(sequences.row_ids, sequences.lengths, strict=True) if length == limit]
    whole: dict[str, int] = {}
    if full and limit < _LONGEST:
        spacious = _packed(job, table.filter(pl.col("id").is_in(full)), _LONGEST, folder)
        whole = dict(zip(spacious.row_ids, spacious.lengths.tolist(), strict=True))
    return [whole.get(row_id, limit) > limit for row_id in sequences.row_ids]


def _packed(job: Job, table: pl.DataFrame, length: int, folder: Path) -> Sequences:
    rows = replace(job.rows, table=table)
    data.store(folder, data.TRAIN, rows, tokenizer=job.tokenizer, template=job.settings.template, max_length=length)
    sequences = data.load(folder, data.TRAIN)
    if sequences is None:
        raise InputError("there are no rows to train on")
    return sequences.in_order_of(table["id"].to_list())


def parts_of(
    ids: UInt32[ndarray, " tokens"], labels: Int32[ndarray, " tokens"], decode: Callable[[list[int]], str]
) -> tuple[Part, ...]:
    """Decode an example stretch by stretch.

    Args:
        ids: Its token ids.
        labels: What is trained.
        decode: The text of token ids, special tokens included.

    Returns:
        Stretches that are trained and stretches that are not, by turns; together they are the decoded whole.

    Example:
        >>> labels = np.array([-100, 98, 99], np.int32)
        >>> parts_of(np.array([97, 98, 99], np.uint32), labels, lambda ids: bytes(ids).decode())
        (Part(text='a', trained=False), Part(text='bc', trained=True))
    """
    tokens = ids.tolist()
    trained = labels != MASKED
    borders = (np.flatnonzero(trained[1:] != trained[:-1]) + 1).tolist()
    whole = decode(tokens)
    cuts = [0]
    for border in borders:
        cuts.append(max(cuts[-1], _shared(decode(tokens[:border]), whole)))
    cuts.append(len(whole))
    flags = [bool(trained[first]) for first in [0, *borders]]
    texts = [whole[start:end] for start, end in pairwise(cuts)]
    return tuple(Part(text, flag) for text, flag in zip(texts, flags, strict=True) if text)


def _shared(front: str, whole: str) -> int:
    """Characters that two texts begin with in common: bytes of half a character decode to a stand-in."""
    length = 0
    for one, other in zip(front, whole, strict=False):
        if one != other:
            break
        length += 1
    return length
