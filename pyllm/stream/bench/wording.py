"""A turn of a task as token ids: the question up to where the answer begins, the answers, and what ends an answer.

`vicuna` is what the published code writes for models without a chat format: `USER: ...`, a blank line, `ASSISTANT:`, no
special tokens, nothing between turns, and the space before an answer belongs to the answer. `chat` is the tokenizer's
own template, one user turn after another; an answer is closed as the template closes it.
"""

from dataclasses import dataclass
from typing import Any

from pyllm.data.framing import ChatFraming, Refused
from pyllm.data.prompts import Prompt
from pyllm.errors import InputError
from pyllm.stream.bench.tasks import Item
from pyllm.stream.turns import TurnTemplate


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn's tokens.

    Args:
        ids: The question, up to where the answer begins.
        answers: Each answer behind it.
        closing: What stands behind an answer, before the next question.
        fact: Places in `ids` of what the turn tells; None where it tells nothing or the tokenizer gives no places.
    """

    ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    closing: tuple[int, ...]
    fact: tuple[int, ...] | None

    @property
    def most_tokens(self) -> int:
        """Tokens of the whole turn with its longest answer."""
        return len(self.ids) + max(map(len, self.answers)) + len(self.closing)


class Wording:
    """How the turns of a task become tokens.

    Args:
        tokenizer: The model's transformers tokenizer.
        template: `auto`, `chat` or `vicuna`.
        vocabulary: How many tokens the model knows.

    Raises:
        PrerequisiteError: `chat` was asked for, and the tokenizer has no chat template.
        SettingError: The chat template takes not even a plain conversation.
    """

    def __init__(self, tokenizer: Any, template: TurnTemplate, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.template = ("chat" if tokenizer.chat_template else "vicuna") if template == "auto" else template
        self._framing = ChatFraming(tokenizer) if self.template == "chat" else None
        self._closing = tuple(self._framing.separator_ids()) if self._framing is not None else ()
        self._known: dict[tuple[str, tuple[str, ...], bool], Asked] = {}

    def asked(self, item: Item, *, opens: bool) -> Asked:
        """The tokens of a turn.

        Args:
            item: The turn.
            opens: Whether it is a dialogue's first.

        Raises:
            InputError: The chat template refuses it, or the tokenizer gives a token that the model does not have.
        """
        key = (item.text, item.answers, opens)
        if key not in self._known:
            if len(self._known) > 1000:  # rounds of a game come again, and hardly anything else
                self._known.clear()
            self._known[key] = self._made(item, opens)
        return self._known[key]

    def _made(self, item: Item, opens: bool) -> Asked:
        if self._framing is None:
            return self.behind(self.written(item).rstrip(" "), item)
        made = self._framing.anchors([Prompt("", "", (("user", item.text.rstrip()),))])[0]
        if isinstance(made, Refused):
            raise InputError(f"turn `{item.name}`: the chat template refuses it: {made.reason}")
        ids = [*(self._framing.zero_shot_prefix() if opens else []), *made.ids]
        return self._asked(item, ids, [self._plain(answer) for answer in item.answers], self._closing)

    def behind(self, context: str, item: Item) -> Asked:
        """A turn whose question is the end of a plain text, with no space behind it."""
        ids = self._plain(context)
        return self._asked(item, ids, [self._behind(context, ids, f" {answer}") for answer in item.answers], ())

    def _asked(self, item: Item, ids: list[int], answers: list[list[int]], closing: tuple[int, ...]) -> Asked:
        largest = max([*ids, *(token for answer in answers for token in answer), *closing])
        if largest >= self._vocabulary:
            raise InputError(
                f"turn `{item.name}`: the tokenizer gives token {largest}, and the model has {self._vocabulary:,}"
            )
        return Asked(tuple(ids), tuple(map(tuple, answers)), closing, self._fact(item, ids))

    @staticmethod
    def written(item: Item) -> str:
        """A turn as plain text, with the space before its answer."""
        return f"USER: {item.text}\n\nASSISTANT: "

    def text_of(self, ids: list[int]) -> str:
        """Text of token ids."""
        return str(self._tokenizer.decode(ids))

    def _fact(self, item: Item, ids: list[int]) -> tuple[int, ...] | None:
        """Places of the tokens that share a character with what the turn tells."""
        if item.fact is None or not getattr(self._tokenizer, "is_fast", False):
            return None
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        # A template may add tokens that no text gives; the told text is looked for in the text of the ids.
        encoded = self._tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)
        start = text.find(item.fact)
        if start < 0 or list(encoded["input_ids"][0]) != ids:
            return None
        end = start + len(item.fact)
        offsets = encoded["offset_mapping"][0]
        return tuple(place for place, (first, last) in enumerate(offsets) if first < end and last > start)

    def _behind(self, context: str, ids: list[int], answer: str) -> list[int]:
        whole = self._plain(context + answer)
        return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else self._plain(answer)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer([text], add_special_tokens=False)["input_ids"][0])
