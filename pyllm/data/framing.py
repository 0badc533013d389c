"""Framing prompts as tokens: what stands before a demonstration, between it and an anchor, and where answers begin.

One framing serves both sides of a comparison, so that the zero-shot and the one-shot pass differ in the
demonstration alone. The tokens of an anchor never depend on what stands before it; that is what lets a
demonstration be read once for all anchors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pyllm.data.prompts import Prompt
from pyllm.errors import PrerequisiteError, SettingError


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    bos_token_id: int | None
    chat_template: Any

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Token ids of each text, under `input_ids`."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **settings: Any) -> Any:
        """The model's own chat template."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A candidate as a one-shot demonstration.

    Args:
        prefix_ids: All tokens in front of an anchor, the separator included.
        demo_tokens: Tokens of the example itself (query and answer, with the start token where there is one,
            without the separator).
        answer_tokens: How many of them are the answer.
    """

    prefix_ids: list[int]
    demo_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A prompt that a chat template does not take.

    Args:
        reason: What the template says.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """An anchor's tokens, uncut.

    Args:
        ids: Query and answer.
        answer_start: First token of the answer.
    """

    ids: list[int]
    answer_start: int


@runtime_checkable
class Framing(Protocol):
    """How prompts become tokens."""

    def zero_shot_prefix(self) -> list[int]:
        """Tokens in front of an anchor that has no demonstration."""

    def separator_ids(self) -> list[int]:
        """Tokens that end a demonstration which had to be cut."""

    def demonstrations(self, prompts: Sequence[Prompt]) -> list[Demonstration | Refused]:
        """Candidates, ready to stand before any anchor."""

    def anchors(self, prompts: Sequence[Prompt]) -> list[Anchor | Refused]:
        """Anchors, ready to stand behind any demonstration."""


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def _common_suffix(left: Sequence[int], right: Sequence[int]) -> int:
    return common_prefix(left[::-1], right[::-1])


@dataclass(frozen=True, slots=True)
class TextFraming:
    """Plain text: the NUGGETS template as it is, or as the published code has it.

    Args:
        tokenizer: The model's tokenizer.
        separator: Text between a demonstration and an anchor.
        reference: Do as the published code does: special tokens as the tokenizer adds them on the demonstration,
            none on the anchor and none on the zero-shot side. Otherwise the start token, if the tokenizer defines
            one, stands at the beginning on both sides.
    """

    tokenizer: Tokenizer
    separator: str = "\n\n"
    reference: bool = False

    def zero_shot_prefix(self) -> list[int]:
        """The start token, or nothing."""
        return [] if self.reference else self._start()

    def separator_ids(self) -> list[int]:
        """The separator as it is tokenized behind a letter."""
        if self.reference or not self.separator:
            return []
        letter, separated = self._ids(["x", f"x{self.separator}"], special=False)
        return separated[common_prefix(letter, separated) :]

    def demonstrations(self, prompts: Sequence[Prompt]) -> list[Demonstration | Refused]:
        """Candidates behind the start token; demonstration and separator are tokenized together."""
        queries = self._ids([prompt.query for prompt in prompts], special=self.reference)
        whole = self._ids([prompt.text for prompt in prompts], special=self.reference)
        start = [] if self.reference else self._start()
        separated = whole
        if self.separator and not self.reference:
            separated = self._ids([prompt.text + self.separator for prompt in prompts], special=False)
        return [
            Demonstration(start + prefix, len(start) + len(ids), len(ids) - self._answer_start(query, ids))
            for query, ids, prefix in zip(queries, whole, separated, strict=True)
        ]

    def anchors(self, prompts: Sequence[Prompt]) -> list[Anchor | Refused]:
        """Anchors without special tokens; the answer begins where the query, tokenized alone, ends."""
        queries = self._ids([prompt.query for prompt in prompts], special=False)
        whole = self._ids([prompt.text for prompt in prompts], special=False)
        return [Anchor(ids, self._answer_start(query, ids)) for query, ids in zip(queries, whole, strict=True)]

    def _answer_start(self, query: Sequence[int], whole: Sequence[int]) -> int:
        # A query's last token can change when the answer follows: then the answer is scored from that token on. The
        # published code counts the query's tokens and does not look.
        return min(len(query), len(whole)) if self.reference else common_prefix(query, whole)

    def _start(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return list(self.tokenizer(texts, add_special_tokens=special)["input_ids"]) if texts else []


_PROBE = Prompt("", "", (("user", "probe"),))
_OTHER = Prompt("", "an answer", (("user", "other"),))
_THIRD = Prompt("", "some 42", (("user", "third"),))


class _TemplateRefusalError(Exception):
    """The chat template does not take a conversation."""


class ChatFraming:
    """The model's own chat template on both sides.

    What the template writes before the last user turn of a conversation is taken as the prefix, the rest as the
    anchor, cut at token level where a lone turn and a turn behind another exchange have the same tokens. That a
    conversation splits this way is checked for each prompt, so a prompt that the template does not take, or takes in
    another way, is refused and never mis-scored.

    Raises:
        PrerequisiteError: The tokenizer has no chat template.
        SettingError: The template takes not even two plain exchanges.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.chat_template:
            raise PrerequisiteError("the model's tokenizer has no chat template", hint="use --template nuggets")
        self._tokenizer = tokenizer
        try:
            alone, behind = self._render([_PROBE]), self._render([_OTHER, _PROBE])
        except _TemplateRefusalError as error:
            raise SettingError(
                f"the chat template refuses a plain conversation: {error}", hint="use --template nuggets"
            ) from error
        self._turn_tokens = _common_suffix(alone, behind)
        self._header = alone[: len(alone) - self._turn_tokens]
        self._probe_turn = alone[len(alone) - self._turn_tokens :]

    def zero_shot_prefix(self) -> list[int]:
        """What the template writes before a lone user turn."""
        return list(self._header)

    def separator_ids(self) -> list[int]:
        """What the template writes behind an answer, before the next user turn."""
        ends = [self._render([prompt, _PROBE])[: -self._turn_tokens] for prompt in (_OTHER, _THIRD)]
        return ends[0][len(ends[0]) - _common_suffix(*ends) :]

    def demonstrations(self, prompts: Sequence[Prompt]) -> list[Demonstration | Refused]:
        """Candidates as a first exchange."""
        answers = self._plain([prompt.answer for prompt in prompts])
        return [self._demonstration(prompt, len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]

    def anchors(self, prompts: Sequence[Prompt]) -> list[Anchor | Refused]:
        """Anchors as the last user turn, the generation prompt, and the answer."""
        answers = self._plain([prompt.answer for prompt in prompts])
        return [self._anchor(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _demonstration(self, prompt: Prompt, answer_tokens: int) -> Demonstration | Refused:
        try:
            ids = self._render([prompt, _PROBE])
        except _TemplateRefusalError as error:
            return Refused(str(error))
        prefix = ids[: len(ids) - self._turn_tokens]
        if ids[len(prefix) :] != self._probe_turn:
            return Refused("the template does not let it stand before any anchor")
        return Demonstration(prefix, len(prefix), answer_tokens)

    def _anchor(self, prompt: Prompt, answer: list[int]) -> Anchor | Refused:
        try:
            alone, behind = self._render([prompt]), self._render([_OTHER, prompt])
        except _TemplateRefusalError as error:
            return Refused(str(error))
        query = alone[len(self._header) :]
        if alone[: len(self._header)] != self._header or behind[len(behind) - len(query) :] != query:
            return Refused("the template does not let it stand behind any demonstration")
        return Anchor(query + answer, len(query))

    def _plain(self, texts: list[str]) -> list[list[int]]:
        return list(self._tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []

    def _render(self, prompts: Sequence[Prompt]) -> list[int]:
        """Token ids of a conversation: every prompt but the last with its answer, then the generation prompt."""
        from jinja2 import TemplateError  # what chat templates are written in; only they need it

        conversation: list[dict[str, str]] = []
        for prompt in prompts:
            conversation += _without_system(prompt.turns)
            if prompt is not prompts[-1]:
                conversation.append({"role": "assistant", "content": prompt.answer})
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation, tokenize=True, add_generation_prompt=True, return_dict=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise _TemplateRefusalError(str(error)) from error
        return list(rendered["input_ids"])


def _without_system(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns with each system text moved to the front of the next user turn: many templates allow it only first."""
    result: list[dict[str, str]] = []
    waiting: list[str] = []
    for role, content in turns:
        if role == "system":
            waiting.append(content)
        else:
            result.append({"role": role, "content": "\n\n".join([*waiting, content])})
            waiting = []
    if waiting:
        result.append({"role": "user", "content": "\n\n".join(waiting)})
    return result
