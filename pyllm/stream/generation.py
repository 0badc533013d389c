"""Answers: a question in the model's own form, an answer token by token, and text that never cuts a character.

Every token that was chosen is fed like any other and scored under the model's unmodified logits, whatever temperature
and top-p did to the choice. The token that ends an answer is fed too: the next turn stands behind a whole answer, as
in the conversations that models are trained on. Where an answer was cut short, what would have ended it is fed in its
place. Room is made for a block of tokens at a time, and the budget is never exceeded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pyllm.data.framing import ChatFraming, Refused
from pyllm.data.prompts import Prompt
from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.lm.backends.contract import Decoding
from pyllm.provenance import sha256_hex
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import StreamModel
from pyllm.stream.reading import Reads

AnswerTemplate = Literal["auto", "chat", "vicuna"]
"""How questions and answers are written; `auto` is `chat` where the tokenizer has a template, else `vicuna`."""

_HALF_A_CHARACTER = "\ufffd"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token; else logits are divided by it.
        top_p: Choose among the likeliest tokens that have this probability together.
        max_new_tokens: Most tokens of an answer.

    Raises:
        SettingError: A value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        Decoding(self.max_new_tokens, temperature=self.temperature, top_p=self.top_p)  # its bounds are ours


def choose(logits: Float[Tensor, " vocab"], sampling: Sampling, generator: torch.Generator) -> int:
    """The next token.

    Args:
        logits: What the model predicts.
        sampling: How to choose.
        generator: Of the CPU, where the choice is made on every device.
    """
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    numbers = logits.cpu().double()
    # The difference first: then no temperature is too small to divide by.
    likeliest = ((numbers - numbers.max()) / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    before = likeliest.values.cumsum(0) - likeliest.values
    values = likeliest.values.masked_fill(before >= sampling.top_p, 0.0)
    return int(likeliest.indices[torch.multinomial(values, 1, generator=generator)])


def generator_of(seed: int, turn: int) -> torch.Generator:
    """The source of chance of one turn: a dialogue that goes on from disk draws what it would have drawn."""
    mixed = int(sha256_hex(f"{seed} {turn}")[:15], 16)
    return torch.Generator().manual_seed(mixed)


def generate(
    dialogue: Dialogue,
    sampling: Sampling,
    generator: torch.Generator,
    *,
    end_ids: frozenset[int],
    block: int = 32,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Go on with the present turn of a dialogue, token by token; each is fed before it is given.

    Args:
        dialogue: A dialogue whose turn has begun.
        sampling: How tokens are chosen.
        generator: The source of chance.
        end_ids: Tokens that end an answer; the one that does is fed and given too.
        block: When the cache is full, room is made for this many tokens at once.
        stopped: Asked before every token; True ends the answer.

    Raises:
        SettingError: Nothing was read before.
    """
    for _ in range(sampling.max_new_tokens):
        if stopped():
            return
        token = _next_token(dialogue, sampling, generator)
        dialogue.feed([token], block=block)
        yield token
        if token in end_ids:
            return


def generating(
    dialogue: Dialogue,
    sampling: Sampling,
    generator: torch.Generator,
    take: Callable[[int], object],
    *,
    end_ids: frozenset[int],
    block: int = 32,
    stopped: Callable[[], bool] = lambda: False,
) -> Reads[None]:
    """`generate` as a piece of work whose forward passes are run by someone else.

    Args:
        dialogue: See `generate`.
        sampling: See `generate`.
        generator: See `generate`.
        take: Given each token when it was fed.
        end_ids: See `generate`.
        block: See `generate`.
        stopped: See `generate`.
    """
    for _ in range(sampling.max_new_tokens):
        if stopped():
            return
        token = _next_token(dialogue, sampling, generator)
        yield from dialogue.feeding([token], block=block)
        take(token)
        if token in end_ids:
            return


def _next_token(dialogue: Dialogue, sampling: Sampling, generator: torch.Generator) -> int:
    logits, likeliest = dialogue.logits, dialogue.likeliest if sampling.temperature == 0.0 else None
    if logits is None:
        raise SettingError("nothing was read that could be answered")
    return choose(logits, sampling, generator) if likeliest is None else likeliest


class TextDecoder:
    """Token ids to text as they come. A character that is spread over several tokens comes out whole.

    Idea: text is what the decoding of the last piece and the new tokens has more than that of the last piece alone,
    because tokens may decode differently at the beginning of a text. It waits while it ends in half a character.

    Args:
        decode: Ids to text, special tokens left out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._last: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        """Text that this token completes, which may be none."""
        self._new.append(token)
        text = self._fresh()
        if not text or text.endswith(_HALF_A_CHARACTER):
            return ""
        self._last, self._new = self._new, []
        return text

    def rest(self) -> str:
        """What still waited, half a character as the sign for it."""
        text = self._fresh()
        self._last, self._new = self._new, []
        return text

    def _fresh(self) -> str:
        return self._decode(self._last + self._new)[len(self._decode(self._last)) :]


def texts_of(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[str]:
    """The text that each token adds: none where it ends within a character, which the last of its tokens has whole.

    Args:
        decode: Ids to text, special tokens by their names.
        ids: Tokens that stand behind each other.
    """
    decoder = TextDecoder(decode)
    texts = [decoder.add(token) for token in ids]
    if texts:
        texts[-1] += decoder.rest()
    return texts


class Voice:
    """How what people and the model say becomes tokens.

    Args:
        tokenizer: The model's transformers tokenizer.
        model: The model.
        template: `auto`, `chat` or `vicuna`.

    Raises:
        PrerequisiteError: `chat` was asked for, and the tokenizer has no chat template.
        SettingError: The chat template takes not even a plain conversation.
    """

    def __init__(self, tokenizer: Any, model: StreamModel, template: AnswerTemplate = "auto") -> None:
        self._tokenizer = tokenizer
        self._vocabulary = int(model.model.config.get_text_config().vocab_size)
        self.template = ("chat" if tokenizer.chat_template else "vicuna") if template == "auto" else template
        self._framing = ChatFraming(tokenizer) if self.template == "chat" else None
        end = tokenizer.eos_token_id
        ends = getattr(model.model.generation_config, "eos_token_id", None)
        known = {*(ends if isinstance(ends, list) else [ends]), end} - {None}
        if self._framing is None:
            self.closing = [] if end is None else [int(end)]
        else:
            self.closing = self._framing.separator_ids()
            if self.closing[:1] and self.closing[0] in set(tokenizer.all_special_ids):
                known.add(self.closing[0])
        self.end_ids = frozenset(int(token) for token in known)
        """Tokens that end an answer."""

    def opening(self, system: str | None) -> list[int]:
        """What stands before the first question: the system text, if there is one.

        Raises:
            SettingError: The chat template takes no system text.
        """
        if self._framing is None:
            return [] if system is None else self._checked(self._plain(f"{system}\n\n"))
        if system is None:
            return self._checked(self._framing.zero_shot_prefix())
        from jinja2 import TemplateError  # what chat templates are written in; only they need it

        said = [{"role": "system", "content": system}, {"role": "user", "content": "probe"}]
        hint = "put it into the first question"
        try:
            made = self._tokenizer.apply_chat_template(
                said, tokenize=True, add_generation_prompt=True, return_dict=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise SettingError(f"the model's chat template takes no system text: {error}", hint=hint) from error
        ids, asked = list(made["input_ids"]), self.question("probe")
        if ids[len(ids) - len(asked) :] != asked:
            raise SettingError("the model's chat template mixes the system text into the question", hint=hint)
        return self._checked(ids[: len(ids) - len(asked)])

    def question(self, text: str) -> list[int]:
        """A question, up to where its answer begins.

        Raises:
            InputError: The chat template refuses it.
        """
        if self._framing is None:
            return self._checked(self._plain(f"USER: {text}\n\nASSISTANT:"))
        made = self._framing.anchors([Prompt("", "", (("user", text),))])[0]
        if isinstance(made, Refused):
            raise InputError(f"the chat template refuses the question: {made.reason}")
        return self._checked(made.ids)

    def answer(self, question: str, text: str) -> list[int]:
        """An answer that someone else gave to a question, without what ends it.

        Args:
            question: The question that it stands behind.
            text: The answer.
        """
        if self._framing is not None:
            return self._checked(
                self._written(self._framing.zero_shot_prefix() + self.question(question), question, text)
            )
        if not text:
            return []
        # The space belongs to the answer, and the answer's tokens begin where those of the question end.
        before = f"USER: {question}\n\nASSISTANT:"
        return self._checked(self._plain(f"{before} {text}")[len(self._plain(before)) :])

    def _written(self, before: list[int], question: str, text: str) -> list[int]:
        """What the chat template writes of an answer, or the answer alone where that cannot be told."""
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        whole = list(self._tokenizer.apply_chat_template(said, tokenize=True, return_dict=True)["input_ids"])
        end = len(whole) - len(self.closing)
        if whole[: len(before)] == before and whole[end:] == self.closing and end >= len(before):
            return whole[len(before) : end]
        return self._plain(text)

    def ending(self, last: int) -> list[int]:
        """What is missing behind an answer whose last token was this one.

        Args:
            last: The token.
        """
        if last in self.end_ids and last in self.closing:
            return self.closing[self.closing.index(last) + 1 :]
        return [] if last in self.end_ids and self._framing is None else self.closing

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def names(self, ids: Sequence[int]) -> list[str]:
        """Text of each token alone, special ones by their names."""
        return [str(self._tokenizer.decode([each])) for each in ids]

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds to those before it; see `texts_of`."""
        return texts_of(lambda some: str(self._tokenizer.decode(list(some))), ids)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer([text], add_special_tokens=False)["input_ids"][0])

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self._vocabulary:
            raise PrerequisiteError(
                f"the tokenizer gives token {max(ids)}, and the model has {self._vocabulary:,} tokens"
            )
        return ids
