"""Which examples make which step: the order of training, and the forward passes that each step is cut into.

A step takes its examples (or packs) from a stream of epochs, each in an order of its own that follows from seed and
epoch; only the last step may be short. The examples of a step are dealt out to the same number of forward passes in
every step, so evenly that no pass exceeds the limit; an example is never split. Where a last step has too few, passes
are filled with one token that is not trained.

The loss of a step is the mean over its trained tokens, so how it is cut into passes changes nothing but rounding.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.finetune.sequences import Sequences


@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """All forward passes of a run, in order.

    Args:
        passes: The examples of each forward pass; none for one that only fills a step up.
        passes_per_step: Forward passes of a step, over all processes.
        step_tokens: Tokens of each step.
        trained_tokens: Trained tokens of each step.
    """

    passes: tuple[tuple[int, ...], ...]
    passes_per_step: int
    step_tokens: Int[ndarray, " steps"]
    trained_tokens: Int[ndarray, " steps"]

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.step_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of the whole run, each as often as it is seen."""
        return int(self.step_tokens.sum())


def by_examples(
    sequences: Sequences,
    *,
    examples: int,
    epochs: float,
    pass_tokens: int,
    seed: int,
    max_tokens: int | None = None,
    processes: int = 1,
) -> TrainingSchedule:
    """Steps of a fixed number of examples.

    Args:
        sequences: The examples.
        examples: Of each step but the last.
        epochs: Times that each example is seen.
        pass_tokens: Most tokens of a forward pass, unless one example alone has more.
        seed: Of the order.
        max_tokens: Most tokens of the whole run, which ends before the first example that would exceed them (at least
            one is trained); None trains all epochs.
        processes: The number of forward passes is a multiple of this.
    """
    items = [(place,) for place in range(len(sequences))]
    return _schedule(sequences, items, _Plan(examples, epochs, pass_tokens, seed, max_tokens, processes))


def by_packs(
    sequences: Sequences,
    *,
    packs: int,
    epochs: float,
    pass_tokens: int,
    seed: int,
    max_tokens: int | None = None,
    processes: int = 1,
) -> TrainingSchedule:
    """Steps of a fixed number of packs; see `by_examples`."""
    items = [tuple(range(int(a), int(b))) for a, b in zip(sequences.packs[:-1], sequences.packs[1:], strict=True)]
    return _schedule(sequences, items, _Plan(packs, epochs, pass_tokens, seed, max_tokens, processes))


def epoch_order(items: int, seed: int, epoch: int) -> Int[ndarray, " items"]:
    """The order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(items)


@dataclass(frozen=True, slots=True)
class _Plan:
    items_per_step: int
    epochs: float
    pass_tokens: int
    seed: int
    max_tokens: int | None
    processes: int


def _schedule(sequences: Sequences, items: Sequence[tuple[int, ...]], plan: _Plan) -> TrainingSchedule:
    lengths, trained = sequences.lengths, sequences.trained_tokens
    item_tokens = [int(lengths[list(item)].sum()) for item in items]
    item_trained = [int(trained[list(item)].sum()) for item in items]
    stream = _stream(len(items), max(1, round(plan.epochs * len(items))), plan.seed)
    if plan.max_tokens is not None:
        ends = np.cumsum([item_tokens[item] for item in stream])
        stream = stream[: max(1, int(np.searchsorted(ends, plan.max_tokens, side="right")))]
    steps = [stream[first : first + plan.items_per_step] for first in range(0, len(stream), plan.items_per_step)]
    count = _passes_needed(steps, item_tokens, plan)
    passes = [
        tuple(place for number in part for place in items[step[number]])
        for step in steps
        for part in deal([item_tokens[item] for item in step], count)
    ]
    step_tokens, step_trained = (
        np.array([sum(counts[item] for item in step) for step in steps]) for counts in (item_tokens, item_trained)
    )
    return TrainingSchedule(tuple(passes), count, step_tokens, step_trained)


def _stream(items: int, wanted: int, seed: int) -> list[int]:
    orders = [epoch_order(items, seed, epoch) for epoch in range(ceil(wanted / items))]
    return [int(item) for item in np.concatenate(orders)[:wanted]]


def _passes_needed(steps: Sequence[Sequence[int]], item_tokens: Sequence[int], plan: _Plan) -> int:
    """The fewest passes that every step fits into."""
    weights = [[item_tokens[item] for item in step] for step in steps]
    limit = max(plan.pass_tokens, *item_tokens)
    count = plan.processes * ceil(ceil(max(map(sum, weights)) / limit) / plan.processes)
    while count < max(map(len, steps)) and any(_heaviest(each, count) > limit for each in weights):
        count += plan.processes
    return count


def _heaviest(weights: Sequence[int], parts: int) -> int:
    return max(sum(weights[number] for number in part) for part in deal(weights, parts))


def deal(weights: Sequence[int], parts: int) -> list[list[int]]:
    """Deal numbered things out to a fixed number of parts: the heaviest first, each to the part that has least.

    Returns:
        The numbers in each part, ascending.

    Example:
        >>> deal([5, 1, 3, 3], 2)
        [[0, 1], [2, 3]]
    """
    result: list[list[int]] = [[] for _ in range(parts)]
    heap = [(0, part) for part in range(parts)]
    for number in sorted(range(len(weights)), key=lambda each: (-weights[each], each)):
        weight, part = heapq.heappop(heap)
        result[part].append(number)
        heapq.heappush(heap, (weight + weights[number], part))
    return [sorted(part) for part in result]
