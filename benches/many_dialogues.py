"""Tokens a second of many dialogues that share forward passes, against one dialogue alone."""

import threading
import time
from dataclasses import dataclass

import torch

from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, generating, generator_of
from pyllm.stream.many import Many
from pyllm.stream.model import StreamModel
from pyllm.stream.reading import Reads
from pyllm.stream.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.

    Args:
        dialogues: How many worked at the same time.
        tokens: Tokens that were generated in the timed passes.
        seconds: How long those took.
        prompt_tokens: Tokens that were read before.
        prompt_seconds: How long reading them took.
        most_cache_tokens: Most tokens in one dialogue's cache.
    """

    dialogues: int
    tokens: int
    seconds: float
    prompt_tokens: int
    prompt_seconds: float
    most_cache_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Of generation, all dialogues together."""
        return self.tokens / self.seconds


def speed_of(
    model: StreamModel,
    settings: StreamSettings,
    *,
    dialogues: int,
    prompt_tokens: int,
    new_tokens: int,
    block: int = 32,
) -> Speed:
    """Let dialogues read prompts of unequal length (up to half more than given) and generate together.

    One dialogue runs on a cache of its own, without a pool.
    """
    many = Many(model, rows=dialogues)
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    made = [Dialogue(model, settings) for _ in range(dialogues)]
    at_end: set[int] = set()
    may_answer, read = threading.Event(), [0]

    def work(number: int) -> Reads[None]:
        generator = torch.Generator().manual_seed(number)
        count = prompt_tokens + int(torch.randint(0, prompt_tokens // 2 + 1, (1,), generator=generator))
        ids = torch.randint(0, vocabulary, (count,), generator=generator).tolist()
        dialogue = made[number]
        dialogue.begin_turn()
        yield from dialogue.feeding(ids)
        read[0] += count
        at_end.add(number)
        # Those that have read their prompts begin to generate when all have.
        while not may_answer.is_set():
            yield from dialogue.feeding(ids[:1], block=block)
        yield from generating(
            dialogue, Sampling(max_new_tokens=new_tokens), generator_of(0, number), lambda _: None,
            end_ids=frozenset(), block=block,
        )  # fmt: skip

    for number, dialogue in enumerate(made):
        many.submit(dialogue, work(number))
    started = time.perf_counter()
    while len(at_end) < dialogues:
        many.step()
    may_answer.set()
    prompt_seconds = time.perf_counter() - started
    many.step()
    started, before = time.perf_counter(), made[0].memory.seen
    most = 0
    while many.step() and made[0].memory.seen - before < new_tokens - 1:
        most = max(most, *(dialogue.cache.tokens for dialogue in made), 0)
    seconds = time.perf_counter() - started
    steps = made[0].memory.seen - before
    if settings.policy != "full" and most > settings.budget.tokens:
        raise RuntimeError(f"{most} tokens are in a cache of {settings.budget.tokens}")
    many.close()
    return Speed(dialogues, dialogues * steps, seconds, read[0], prompt_seconds, most)
