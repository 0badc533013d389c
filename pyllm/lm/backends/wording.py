"""How prompts become tokens, and tokens the text of an answer."""

from collections.abc import Sequence
from typing import Any, Literal

from pyllm.data.framing import ChatFraming
from pyllm.errors import PrerequisiteError, PyllmError, SettingError
from pyllm.lm.backends.contract import Message
from pyllm.lm.backends.prefixes import Ids, as_ids

TemplateName = Literal["auto", "chat", "none"]
"""`chat` is the model's own template, `none` the bare text; `auto` is `chat` where the tokenizer has one."""


class WordingError(ValueError):
    """A prompt that cannot be asked; says why."""


class Wording:
    """A tokenizer with the model's own form of conversations.

    Args:
        tokenizer: The model's transformers tokenizer.
        generation_config: The model's, which may name tokens that end an answer.
        vocabulary: Tokens that the model knows.
        template: `auto`, `chat` or `none`.

    Raises:
        SettingError: `chat` was asked for, and the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, generation_config: Any, vocabulary: int, template: TemplateName) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise SettingError("the tokenizer has no chat template", hint="use --template none")
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.template = ("chat" if tokenizer.chat_template else "none") if template == "auto" else template
        ends = getattr(generation_config, "eos_token_id", None)
        known = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
        if self.template == "chat":
            known.add(self._closing())
        self.end_ids = frozenset(int(token) for token in known - {None})
        """Tokens that end an answer."""

    def ids(self, prompt: str | Sequence[Message]) -> Ids:
        """The tokens of a prompt, up to where its answer begins.

        Raises:
            WordingError: The chat template refuses it, or it is empty.
        """
        if isinstance(prompt, str) or self.template == "none":
            text = prompt if isinstance(prompt, str) else "\n\n".join(message.content for message in prompt)
            ids = self._tokenizer(text)["input_ids"]
        else:
            ids = self._rendered(prompt)
        if not ids:
            raise WordingError("the prompt is empty")
        if max(ids) >= self._vocabulary:
            raise PrerequisiteError(
                f"the tokenizer gives token {max(ids)}, and the model has {self._vocabulary:,} tokens"
            )
        return as_ids(ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _rendered(self, messages: Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError  # what chat templates are written in; only they need it

        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            made = self._tokenizer.apply_chat_template(
                said, tokenize=True, add_generation_prompt=True, return_dict=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise WordingError(f"the chat template refuses the prompt: {error}") from error
        return list(made["input_ids"])

    def _closing(self) -> int | None:
        """The special token that the template writes behind an answer, if it begins with one."""
        try:
            closing = ChatFraming(self._tokenizer).separator_ids()
        except PyllmError:  # a template that takes no second turn
            return None
        special = set(self._tokenizer.all_special_ids)
        return closing[0] if closing and closing[0] in special else None
