"""Ways to score without reading: what always giving one answer, or following a surface cue, would bring.

A cue counts only when it beats guessing by more than chance explains: the probability that a guesser is right at
least as often is below `SIGNIFICANT`, and the share is at least `WORTH_NAMING` above a guesser's.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from pyllm.mti.options import OptionList, option_lists, plain
from pyllm.mti.tasks import Gold, Instance, Task

SIGNIFICANT: Final = 0.05
WORTH_NAMING: Final = 0.1
_EXACT_TRIALS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A way to be right without reading.

    Args:
        kind: `majority`, `joint_majority`, `odd_phrase` or `double_space`.
        step: The 1-based step; None where it is about all steps.
        share: Share of instances that it solves.
        guessing: Share that guessing solves.
        solved: The instances that it solves.
        example: The answer, or what the cue looks like.
    """

    kind: str
    step: int | None
    share: float
    guessing: float
    solved: tuple[str, ...]
    example: str


def hashable(gold: Gold) -> Hashable:
    """A gold as a key: 1 and 1.0 and "1" stay apart."""
    return (type(gold).__name__, tuple(gold) if isinstance(gold, list) else gold)


def step_lists(instance: Instance, step: int) -> tuple[OptionList, ...]:
    """The lists in the contexts of a step (0-based), or of the last step before it that has any."""
    for earlier in range(step, -1, -1):
        found = tuple(each for text in instance.contexts[earlier] for each in option_lists(text))
        if found:
            return found
    return ()


def majority(golds: Sequence[Hashable]) -> tuple[Hashable, float]:
    """The commonest gold, the earliest of them where several are, and its share."""
    gold, count = Counter(golds).most_common(1)[0]
    return gold, count / len(golds)


def shortcuts(task: Task) -> Iterator[Shortcut]:
    """Find the shortcuts of a task, majorities first."""
    keys = [[hashable(instance.answers[step]) for instance in task.instances] for step in range(task.steps)]
    chances = [_guessing(task, step, golds) for step, golds in enumerate(keys)]
    for step, golds in enumerate(keys):
        yield from _majority(task, "majority", step + 1, golds, chances[step])
    if task.steps > 1:
        joint = list(zip(*keys, strict=True))
        chance = np.prod(np.stack(chances), axis=0)
        yield from _majority(task, "joint_majority", None, joint, chance)
    for step in range(task.steps):
        yield from _cues(task, step)


def _guessing(task: Task, step: int, golds: Sequence[Hashable]) -> Float64[np.ndarray, " instances"]:
    """For each instance the chance of a guess: one in its options, or one in the golds that occur (at least two)."""
    distinct = len(set(golds))
    return np.array([1 / (_choices(each, step) or max(distinct, 2)) for each in task.instances], dtype=np.float64)


def _choices(instance: Instance, step: int) -> int:
    found = _chosen_list(instance, step)
    return len(found[0]) if found else 0


def _chosen_list(instance: Instance, step: int) -> tuple[OptionList, int] | None:
    """The list that the gold of a step chooses one option of, and which; None where it is not sure."""
    gold = instance.answers[step]
    if isinstance(gold, list | float):
        return None
    label = str(gold)
    lists = step_lists(instance, step)
    holding = [each for each in lists if label in each.labels]
    # A number that is the result of a calculation can fall among the labels by accident.
    if len(holding) != 1 or len([each for each in lists if each.labels[0] == holding[0].labels[0]]) != 1:
        return None
    return holding[0], holding[0].labels.index(label)


def _majority(
    task: Task,
    kind: str,
    step: int | None,
    golds: Sequence[Hashable],
    chances: Float64[np.ndarray, " instances"],
) -> Iterator[Shortcut]:
    commonest, share = majority(golds)
    guessing = float(chances.mean())
    # The commonest of many is picked after the fact: each of them had a chance to be it.
    unlikely = tail(chances, round(share * len(golds))) * len(set(golds)) < SIGNIFICANT
    if len(golds) > 1 and unlikely and share >= guessing + WORTH_NAMING:
        index = golds.index(commonest)
        first = task.instances[index]
        answer = first.answers[step - 1] if step else list(first.answers)
        solved = tuple(each.uid for each, gold in zip(task.instances, golds, strict=True) if gold == commonest)
        yield Shortcut(kind, step, share, guessing, solved, str(answer))


def _cues(task: Task, step: int) -> Iterator[Shortcut]:
    chosen = [(each, found) for each in task.instances if (found := _chosen_list(each, step)) is not None]
    if len(chosen) * 2 < len(task.instances) or len(chosen) < 2:
        return
    # A phrase counts once an instance: identical options of one list are another flaw.
    seen = Counter(phrase for _, (options, _) in chosen for phrase in {plain(text) for text in options.texts})
    yield from _cue("odd_phrase", step, chosen, lambda text: -seen[plain(text)])
    yield from _cue("double_space", step, chosen, lambda text: "  " in text.rstrip())


def _cue(
    kind: str,
    step: int,
    chosen: Sequence[tuple[Instance, tuple[OptionList, int]]],
    cue: Callable[[str], int],
) -> Iterator[Shortcut]:
    """Judge the rule "take the option on which the cue is strongest", where one option alone has it."""
    chances, solved, examples = [], [], []
    for instance, (options, gold) in chosen:
        strengths = [cue(text) for text in options.texts]
        strongest = max(strengths)
        if strengths.count(strongest) != 1:
            continue
        chances.append(1 / len(options))
        if strengths[gold] == strongest:
            solved.append(instance.uid)
            examples.append(options.texts[gold])
    if not solved or tail(np.array(chances), len(solved)) >= SIGNIFICANT:
        return
    # Where no option stands out, the rule guesses.
    rest = sum(1 / len(options) for _, (options, _) in chosen) - sum(chances)
    guessing = (rest + sum(chances)) / len(chosen)
    share = (rest + len(solved)) / len(chosen)
    if share >= guessing + WORTH_NAMING:
        yield Shortcut(kind, step + 1, share, guessing, tuple(solved), examples[0])


def tail(chances: Float64[np.ndarray, " trials"], successes: int) -> float:
    """Probability that independent trials of these chances succeed `successes` times or more.

    Exact up to `_EXACT_TRIALS` trials, and by the normal distribution with a continuity correction beyond them.
    """
    if len(chances) > _EXACT_TRIALS:
        spread = math.sqrt(float((chances * (1 - chances)).sum()))
        return 0.5 * math.erfc((successes - 0.5 - float(chances.sum())) / (spread * math.sqrt(2)))
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.append(distribution * (1 - chance), 0.0) + np.append(0.0, distribution * chance)
    return float(distribution[successes:].sum())
