"""The schedule as the data set that TRL reads: a row a forward pass, made when it is asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from pyllm.data.tokens import MASKED
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.sequences import Sequences


@dataclass(frozen=True)
class _Rows:
    """Gives forward passes by their numbers.

    `datasets` names a data set by what its transform pickles to, which would be every token: a name stands for it.
    """

    sequences: Sequences
    passes: tuple[tuple[int, ...], ...]
    name: str

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [self._row(self.passes[number]) for number in batch["number"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def __getstate__(self) -> str:
        return self.name

    def _row(self, examples: tuple[int, ...]) -> dict[str, list[int]]:
        if not examples:
            first = self.sequences.ids[:1].tolist()
            return {"input_ids": first, "labels": [MASKED], "seq_lengths": [1]}
        parts = [self.sequences.example(place) for place in examples]
        return {
            "input_ids": np.concatenate([ids for ids, _ in parts]).tolist(),
            "labels": np.concatenate([labels for _, labels in parts]).tolist(),
            "seq_lengths": [len(ids) for ids, _ in parts],
        }


def training_data(sequences: Sequences, schedule: TrainingSchedule) -> Dataset:
    """A row for each forward pass of a schedule, in its order."""
    return _dataset(sequences, schedule.passes, "train")


def held_out_data(sequences: Sequences) -> Dataset:
    """A row for each pack."""
    packs = [tuple(range(int(a), int(b))) for a, b in zip(sequences.packs[:-1], sequences.packs[1:], strict=True)]
    return _dataset(sequences, tuple(packs), "eval")


def _dataset(sequences: Sequences, passes: tuple[tuple[int, ...], ...], name: str) -> Dataset:
    rows = _Rows(sequences, passes, name)
    return Dataset.from_dict({"number": list(range(len(passes)))}).with_transform(rows)
