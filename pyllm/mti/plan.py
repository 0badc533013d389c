"""What a run would ask, before it asks anything: calls, tokens, and how much of the prompts is said more than once.

Later calls are counted behind right answers in place of the model's, which are not known yet; answers are counted at
their most. What prompts share is what a trie over their tokens holds once.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyllm.lm.backends.prefixes import Ids, distinct_tokens
from pyllm.mti.run import Chain, RunSettings
from pyllm.mti.scoring import Mode

BYTES_OF_A_TOKEN = 4
"""What a token is taken to be where no tokenizer is at hand."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One mode of a run, or all of them.

    Args:
        mode: The mode; `all` for the sum.
        instances: Instances that are asked, each repeat counted.
        calls: How many there are.
        prompt_tokens: Of all prompts.
        longest_prompt_tokens: Of the longest.
        shared_share: Share of prompt tokens that stand at the same place behind the same beginning in another prompt.
        answer_tokens: Most tokens of all answers.
        cost: In the unit of the prices; None where none were given.
    """

    mode: str
    instances: int
    calls: int
    prompt_tokens: int
    longest_prompt_tokens: int
    shared_share: float
    answer_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would ask.

    Args:
        rows: One a mode, and the sum.
        estimated: Whether tokens are taken from lengths, because no tokenizer is at hand.
    """

    rows: tuple[PlanRow, ...]
    estimated: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"estimated": self.estimated, "modes": [asdict(row) for row in self.rows]}


def make_plan(
    chains: Sequence[Chain],
    settings: RunSettings,
    *,
    tokenize: Callable[[str], Ids] | None,
    prices: tuple[float | None, float | None] = (None, None),
) -> Plan:
    """Count what a run would ask.

    Args:
        chains: All calls.
        settings: Of the run.
        tokenize: A prompt's tokens, chat template included; None counts bytes and takes four for a token.
        prices: Of a million prompt tokens and of a million answer tokens.
    """
    size = 1 if tokenize is not None else BYTES_OF_A_TOKEN
    read = tokenize if tokenize is not None else _bytes
    prompts: dict[Mode, list[Ids]] = {mode: [] for mode in settings.modes}
    instances = dict.fromkeys(settings.modes, 0)
    for chain in chains:
        instances[chain.mode] += len(chain.group)
        prompts[chain.mode] += [read(chain.prompt(call, feed_gold=True)) for call in range(1, chain.length + 1)]
    rows = [_row(mode, instances[mode], of_mode, settings, size, prices) for mode, of_mode in prompts.items()]
    if len(rows) > 1:
        everything = [prompt for of_mode in prompts.values() for prompt in of_mode]
        rows.append(_row("all", sum(instances.values()), everything, settings, size, prices))
    return Plan(tuple(rows), tokenize is None)


def _bytes(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)


def _row(  # noqa: PLR0917  (one row's numbers)
    mode: str,
    instances: int,
    prompts: Sequence[Ids],
    settings: RunSettings,
    size: int,
    prices: tuple[float | None, float | None],
) -> PlanRow:
    total = sum(len(prompt) for prompt in prompts)
    answers = len(prompts) * settings.decoding.max_new_tokens
    known = [price for price in prices if price is not None]
    cost = (total / size * (prices[0] or 0.0) + answers * (prices[1] or 0.0)) / 1e6 if known else None
    return PlanRow(
        mode=mode,
        instances=instances,
        calls=len(prompts),
        prompt_tokens=-(-total // size),
        longest_prompt_tokens=-(-max(map(len, prompts), default=0) // size),
        shared_share=1.0 - distinct_tokens(prompts) / max(total, 1),
        answer_tokens=answers,
        cost=cost,
    )
