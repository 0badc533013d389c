"""Rows of tokens for training, by kind of text, each a function of the seed and the number of the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import dialogues
import skills
import torch
from dialogues import Exchange
from network import CONTEXT_TOKENS
from transformers import PreTrainedTokenizerBase
from writers import Writers

from pyllm.data.examples import Example
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.demo.skills import ALL_MAKERS, MAKERS, Maker
from pyllm.demo.world import Row

SPECIAL_TOKENS = 3
FEW_TOKENS = 512
"""Of the vocabulary, in the first repeats: fewer tokens are seen more often, so copying is found sooner."""
VALUE_WEIGHT = 5.0
"""Of a token that has to be remembered, against one of any other text."""
TALK_SHARE = 0.5
"""Of the other tokens of dialogues, which are many, so many are scored."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts of one kind.

    Args:
        ids: Tokens, padded on the right, `[rows, tokens]`.
        positions: Where each token stands.
        weights: How much it counts to predict a token; 0 is not at all.
        tokens: Number of tokens without padding.
        choices: The tokens among which the next one is to be found; None for all.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    tokens: int
    choices: torch.Tensor | None


@dataclass(slots=True)
class _Line:
    """A row in the making."""

    ids: list[int]
    weights: list[float]
    starts: list[int]

    def add(self, ids: Sequence[int], weight: float) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)


def asking(text: str) -> str:
    """What stands before an answer, as the chat template has it."""
    return f"Instruction:\n{text}\nResponse:\n"


def prompt_of(row: Row) -> Prompt:
    """A row in the scoring template."""
    return render_nuggets(Example("", "", 0, row.instruction, row.input, row.output, None, None))


class Texts:
    """Rows of every kind.

    Args:
        tokenizer: Turns text into tokens, piece by piece, as scoring and streaming do.
        seed: Of all text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._known: dict[str, list[int]] = {}
        everything = range(SPECIAL_TOKENS, len(tokenizer))
        some = sorted(Random(f"{seed} alphabet").sample(everything, FEW_TOKENS))
        self._few = torch.tensor(some)
        self._kinds: dict[str, Callable[[Random, int], _Line]] = {
            "few repeats": lambda draw, length: self._repeats(draw, length, alphabet=some),
            "repeats": lambda draw, length: self._repeats(draw, length, alphabet=everything),
            "names": lambda draw, length: self._dialogue(draw, length, share=draw.uniform(0.4, 1.0), only_named=True),
            "spread": self._dialogue,
            "long": self._dialogue,
            "varied spread": lambda draw, length: self._dialogue(draw, length, varied=0.6),
            "varied long": lambda draw, length: self._dialogue(draw, length, varied=0.6),
            "dense spread": lambda draw, length: self._dialogue(draw, length, share=draw.uniform(0.3, 1.0), varied=0.6),
            "keyed spread": lambda draw, length: self._dialogue(
                draw, length, share=draw.uniform(0.4, 1.0), only_named=True, varied=0.9
            ),
            "keyed long": lambda draw, length: self._dialogue(
                draw, length, share=draw.uniform(0.1, 0.8), only_named=draw.random() < 0.7, varied=0.9
            ),
            "plain writers": lambda draw, _: self._pairs(Writers(draw).plain_document()),
            "facts": lambda draw, _: self._pairs(Writers(draw).clean_document()),
            "writers": lambda draw, _: self._pairs(Writers(draw).document()),
            "skills": self._skills,
            "tagged": self._tagged,
            "all skills": lambda draw, length: self._skills(draw, length, ALL_MAKERS),
            "all tagged": lambda draw, length: self._tagged(draw, length, ALL_MAKERS),
        }

    def rows(self, kind: str, step: int, count: int, length: int) -> Rows:
        """The rows of a step."""
        # A text as a seed is hashed with SHA-512, the same everywhere.
        draw = Random(f"{self._seed} {step} {kind}")
        lines = [self._kinds[kind](draw, length) for _ in range(count)]
        ids = torch.full((count, length), int(self._tokenizer.pad_token_id))
        weights = torch.zeros(count, length)
        for row, line in enumerate(lines):
            size = min(length, len(line.ids))
            ids[row, :size] = torch.tensor(line.ids[:size])
            weights[row, :size] = torch.tensor(line.weights[:size])
        positions = torch.arange(length).repeat(count, 1)
        if kind.endswith("spread"):
            for row, line in enumerate(lines):
                positions[row] = self._spread(draw, line.starts, length)
        tokens = sum(min(length, len(line.ids)) for line in lines)
        return Rows(ids, positions, weights, tokens, self._few if kind == "few repeats" else None)

    def tokens_of(self, text: str) -> list[int]:
        """Token ids of a piece of text that begins where a word, a space or a marker does."""
        if text not in self._known:
            if len(self._known) > 200_000:
                self._known.clear()
            self._known[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._known[text]

    def _start(self) -> _Line:
        return _Line([int(self._tokenizer.bos_token_id)], [0.0], [])

    def _repeats(self, draw: Random, length: int, *, alphabet: Sequence[int]) -> _Line:
        """A random string and then the same again and again, each time turned by a random amount."""
        string = [draw.choice(alphabet) for _ in range(draw.randrange(8, 24))]
        line = self._start()
        line.add(string, 0.0)
        while len(line.ids) < length:
            turn = draw.randrange(len(string))
            line.add(string[turn:] + string[:turn], 1.0)
        return line

    def _dialogue(
        self, draw: Random, length: int, *, share: float | None = None, only_named: bool = False, varied: float = 0.0
    ) -> _Line:
        line = self._start()
        if share is None:
            share = draw.uniform(0.15, 0.7) if draw.random() < 0.7 else draw.uniform(0.0, 0.15)
        said = dialogues.dialogue(draw, length - 1, self._cost, share=share, only_named=only_named, varied=varied)
        for exchange in said:
            line.starts.append(len(line.ids))
            for text, weight in self._pieces(exchange):
                ids = self.tokens_of(text)
                if weight > 1:
                    line.add(ids, weight)
                else:
                    line.ids += ids
                    line.weights += [float(draw.random() < TALK_SHARE) for _ in ids]
        return line

    def _pieces(self, exchange: Exchange) -> tuple[tuple[str, float], ...]:
        return (
            ("Instruction:\n", 1.0),
            (exchange.said, 1.0),
            ("\nResponse:\n", 1.0),
            (exchange.answer, 1.0),
            (exchange.value, VALUE_WEIGHT),
            (exchange.end, 1.0),
            ("\n\n", 1.0),
        )

    def _cost(self, exchange: Exchange) -> int:
        return sum(len(self.tokens_of(text)) for text, _ in self._pieces(exchange))

    def _spread(self, draw: Random, starts: Sequence[int], length: int) -> torch.Tensor:
        """Positions with gaps between exchanges, as if other talk had stood there: far memory at a near price."""
        steps = torch.ones(length, dtype=torch.int64)
        steps[0] = 0
        room = CONTEXT_TOKENS - length
        if draw.random() < 0.8 and starts:
            chosen = draw.sample(list(starts), min(len(starts), draw.randrange(1, 5)))
            total = draw.randrange(room)
            borders = sorted(draw.randrange(total + 1) for _ in range(len(chosen) - 1))
            for place, low, high in zip(chosen, [0, *borders], [*borders, total], strict=True):
                steps[place] += high - low
        return steps.cumsum(0)

    def _pairs(self, rows: Sequence[Row]) -> _Line:
        """A document by one writer; the answers are scored, and what ends them."""
        line = self._start()
        for number, row in enumerate(rows, start=1):
            prompt = prompt_of(row)
            line.add(self.tokens_of(prompt.query), 0.0)
            line.add(self.tokens_of(prompt.answer), 1.0)
            line.add([int(self._tokenizer.eos_token_id)] if number == len(rows) else self.tokens_of("\n\n"), 1.0)
        return line

    def _skills(self, draw: Random, length: int, makers: tuple[Maker, ...] = MAKERS) -> _Line:
        """Single questions one after another, or a game; the answers are scored."""
        line = self._start()
        is_game = draw.random() < 0.15
        while len(line.ids) < length:
            said = dialogues.game(draw) if is_game else skills.exchanges(draw, draw.randrange(2, 6), makers)
            for exchange in said:
                line.add(self.tokens_of(asking(exchange.said)), 0.0)
                line.add(self.tokens_of(f"{exchange.answer}{exchange.value}{exchange.end}"), 1.0)
                line.add(self.tokens_of("\n\n"), 1.0)
        return line

    def _tagged(self, draw: Random, length: int, makers: tuple[Maker, ...] = MAKERS) -> _Line:
        """Prompts of several instructions, as many as there is room for; the answers are scored."""
        line = self._start()
        while True:
            prompt, answer = skills.tagged(draw, makers)
            query = self._tokenizer(asking(prompt), add_special_tokens=False)["input_ids"]
            said = self._tokenizer(f"{answer}\n\n", add_special_tokens=False)["input_ids"]
            if len(line.ids) + len(query) + len(said) > length:
                if len(line.ids) > 1:
                    return line
                continue
            line.add(query, 0.0)
            line.add(said, 1.0)
