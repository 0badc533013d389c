"""A judge measured before it is believed: place, length, constancy, and agreement with people.

Four probes. `identical`: an answer against itself; whichever is chosen, only the place can have decided. `padded`: an
answer against the same with empty sentences behind it, in both orders; a judge that looks at content calls it a tie or
prefers the shorter. `repeated`: the same answer graded several times. `labelled`: pairs that people have judged.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import isnan
from typing import Any

import numpy as np
import polars as pl

from pyllm.data.tables import rows_of
from pyllm.errors import InputError
from pyllm.judge.answers import AnswerFile, Place
from pyllm.judge.judging import References, Task, grade_tasks, pair_task
from pyllm.judge.pairs import POINTS, summarize_pairs, whole_pairs
from pyllm.judge.questions import MOST_TURNS, id_of
from pyllm.stats.agreement import cohen_kappa
from pyllm.stats.resampling import ratio_interval

PROBES = ("identical", "padded", "repeated", "labelled")

_EMPTY_SENTENCES = (
    "In other words, what is said above answers the question that was asked.",
    "It is worth reading it once more with that question in mind.",
    "All in all, these are the points that matter here, and they have been named.",
    "Of course there is always more that one could say about any subject.",
    "To sum up, the answer is the one that has been given.",
)
_PADDED_TO = 2.0
"""A padded answer is at least this many times as long."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to be judged, and why.

    Args:
        kind: Which probe it belongs to.
        task: What the judge reads, and the columns of its row.
        grades: A grade is wanted, not a choice.
    """

    kind: str
    task: Task
    grades: bool = False


def padded(answer: str) -> str:
    """An answer with empty sentences behind it, which say nothing that it does not."""
    parts, length, place = [answer], len(answer), 0
    while length < _PADDED_TO * len(answer) or place < 2:
        parts.append(_EMPTY_SENTENCES[place % len(_EMPTY_SENTENCES)])
        length += len(parts[-1]) + 1
        place += 1
    return " ".join(parts)


def probes_of(
    files: Sequence[AnswerFile],
    references: References,
    *,
    repeats: int,
    labels: Mapping[Place, str] | None = None,
) -> list[Probe]:
    """Everything to be judged.

    Args:
        files: One file, or two matched ones where there are labels.
        references: Right answers.
        repeats: How often the same answer is graded.
        labels: What people said of the two files' answers: a, b or tie.
    """
    file = files[0]
    longer = AnswerFile(
        file.source,
        "padded",
        {place: replace(each, answer=padded(each.answer)) for place, each in file.answers.items()},
    )
    same = AnswerFile(file.source, f"{file.label} again", file.answers)
    probes = [Probe("identical", pair_task(file, same, place, "ab", references)) for place in file.answers]
    probes += [
        Probe("padded", pair_task(longer, file, place, order, references))
        for place in file.answers
        for order in ("ab", "ba")
    ]
    probes += [
        Probe("repeated", task, grades=True)
        for task in grade_tasks([file], references, judge_repeats=repeats)
        if repeats > 1
    ]
    probes += [
        Probe("labelled", pair_task(files[0], files[1], place, order, references))
        for place in labels or ()
        for order in ("ab", "ba")
    ]
    return probes


def read_labels(table: pl.DataFrame, source: str, files: Sequence[AnswerFile]) -> dict[Place, str]:
    """What people said of pairs of answers.

    Args:
        table: `prompt_id`, `label` (a, b or tie), and `turn` where there are two.
        source: What messages call it.
        files: The two files; `a` is the first.

    Raises:
        InputError: A row is wrong, twice there, or names an answer that the files do not have.
    """
    labels: dict[Place, str] = {}
    for row in rows_of(table, source, lower_names=True):
        name, label, turn = id_of(row), row.values.get("label"), row.values.get("turn", 1)
        if name is None:
            raise row.wrong("prompt_id", "it is missing")
        if label not in POINTS:
            raise row.wrong("label", f"it is none of {', '.join(f'`{each}`' for each in POINTS)}")
        if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= MOST_TURNS:
            raise row.wrong("turn", f"it is no turn from 1 to {MOST_TURNS}")
        place = Place(name, 0, turn)
        if place not in files[0].answers:
            raise row.wrong("prompt_id", f"{place} does not stand in {files[0].source}")
        if place in labels:
            raise InputError(f"{source}: row {row.number}: {place} stood in an earlier row")
        labels[place] = str(label)
    return labels


def summarize_probes(
    choices: pl.DataFrame, grades: pl.DataFrame, labels: Mapping[Place, str] | None, *, seed: int
) -> dict[str, Any]:
    """What the probes say of a judge, as JSON holds it.

    Args:
        choices: Rows of `pyllm.judge.judging.compare` with a column `probe`.
        grades: Rows of `pyllm.judge.judging.grade`, of the probe `repeated`.
        labels: What people said.
        seed: Of the draws of prompts.
    """
    parts = {kind: choices.filter(pl.col("probe") == kind) for kind in PROBES}
    report: dict[str, Any] = {"identical": _identical(parts["identical"], seed)}
    if parts["padded"].height:
        report["padded"] = summarize_pairs(parts["padded"], seed=seed)[0].as_dict()
    if grades.height:
        report["repeated"] = _repeated(grades, seed)
    if labels:
        report["labelled"] = _labelled(parts["labelled"], labels, seed)
    return report


def _identical(table: pl.DataFrame, seed: int) -> dict[str, Any]:
    """How often each place was chosen; the first is side `a`."""
    said = Counter(table["verdict"].drop_nulls().to_list())
    chosen = table.filter(pl.col("verdict").is_in(["a", "b"]))
    prompts = chosen.group_by("prompt_id", maintain_order=True).agg(
        (pl.col("verdict") == "a").sum().cast(pl.Float64).alias("first"), pl.len().cast(pl.Float64).alias("chosen")
    )
    share, interval = None, None
    if prompts.height:
        first, places = prompts["first"].to_numpy(), prompts["chosen"].to_numpy()
        share, found = float(first.sum() / places.sum()), ratio_interval(first, places, seed=seed)
        interval = {"low": found.low, "high": found.high}
    return {
        "first": said["a"],
        "second": said["b"],
        "ties": said["tie"],
        "unparsed": table["verdict"].null_count(),
        "first_share": share,
        "interval": interval,
    }


def _repeated(grades: pl.DataFrame, seed: int) -> dict[str, Any]:
    """How often two grades of the same answer are equal, and how far they are apart."""
    by_answer: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for *place, number in grades.select("prompt_id", "turn", "repeat", "grade").drop_nulls("grade").rows():
        by_answer[tuple(place)].append(number)
    pairs = {
        place: [abs(first - second) for first, second in combinations(numbers, 2)]
        for place, numbers in by_answer.items()
        if len(numbers) > 1
    }
    apart = [distance for distances in pairs.values() for distance in distances]
    if not apart:
        return {"answers": 0, "equal_share": None, "interval": None, "mean_distance": None}
    equal = np.array([sum(distance == 0 for distance in distances) for distances in pairs.values()], np.float64)
    sizes = np.array([len(distances) for distances in pairs.values()], np.float64)
    found = ratio_interval(equal, sizes, seed=seed)
    return {
        "answers": len(pairs),
        "equal_share": float(equal.sum() / sizes.sum()),
        "interval": {"low": found.low, "high": found.high},
        "mean_distance": float(np.mean(apart)),
    }


def _labelled(table: pl.DataFrame, labels: Mapping[Place, str], seed: int) -> dict[str, Any]:
    """Agreement with people, over pairs with a verdict in both orders; verdicts that differ are a tie."""
    names = {points: name for name, points in POINTS.items()}
    theirs, ours = [], []
    for name, turn, points in whole_pairs(table).select("prompt_id", "turn", "points").rows():
        theirs.append(labels[Place(name, 0, turn)])
        ours.append(names[points])
    if not theirs:
        return {"items": 0, "observed": None, "kappa": None, "interval": None}
    found = asdict(cohen_kappa(theirs, ours, seed=seed))
    return {**found, "kappa": None if isnan(found["kappa"]) else found["kappa"]}
