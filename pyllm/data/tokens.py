"""From an example to the tokens that are trained on: the text, its token ids, and which of them are answers.

The answer of an example begins where scoring has it begin: where the tokens of the query alone and of the whole part
ways. Templates of text are rendered and tokenized by the Rust module, which this module's plain code is the fallback
of; chat templates are rendered by the tokenizer itself, here. A conversation trains every turn that is marked so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyllm.data.examples import NO_INPUT_SENTINELS, Example
from pyllm.data.framing import Refused, Tokenizer, common_prefix
from pyllm.data.prompts import HEADINGS, render_nuggets
from pyllm.errors import PrerequisiteError

TrainingTemplate = Literal["nuggets", "alpaca", "chat"]
"""How an example becomes text: as scoring has it, as Stanford Alpaca was trained, or as the model's own chat."""

MASKED = -100
"""The label of a token that is not trained."""

_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)


@dataclass(frozen=True, slots=True)
class TrainingTokenizer:
    """A tokenizer, and the tokens that stand around a row of text.

    Args:
        name: As the user named it.
        folder: Where its files are.
        json: What `tokenizer.json` holds, as the model's own loading code has it.
        sha256: Digest of what decides the ids.
        start_id: Token in front of each row, or None.
        end_id: Token behind each row, trained; or None.
        vocabulary: One more than the highest id.
    """

    name: str
    folder: Path
    json: str
    sha256: str
    start_id: int | None
    end_id: int | None
    vocabulary: int


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A rendered example.

    Args:
        text: The whole; it ends with the last answer.
        answers: First and one past the last character of each answer that is trained.
    """

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RowTokens:
    """A row ready to be packed.

    Args:
        ids: Its token ids.
        trained: First and one past the last token of each trained span, ascending.
    """

    ids: list[int]
    trained: list[tuple[int, int]]

    @property
    def labels(self) -> list[int]:
        """What a trainer compares with: the id where a token is trained, else `MASKED`.

        A row's first token is never trained, because nothing stands before it.
        """
        labels = [MASKED] * len(self.ids)
        for first, end in self.trained:
            labels[max(first, 1) : end] = self.ids[max(first, 1) : end]
        return labels


def render_training(example: Example, template: Literal["nuggets", "alpaca"]) -> TrainingText | None:
    """Render one example as it is trained on.

    Args:
        example: What to render.
        template: `nuggets` is what scoring renders. `alpaca` is the prompt that Stanford Alpaca was trained with, its
            fields as they are, with an input or without; a conversation follows with `###` headings.

    Returns:
        The text and its answers; None when there is no answer.

    Source: tatsu-lab/stanford_alpaca, `train.py`, PROMPT_DICT.
    """
    if example.messages is not None:
        return _conversation(example, template)
    if not (example.output or "").strip():
        return None
    if template == "nuggets":
        prompt = render_nuggets(example)
        return TrainingText(prompt.text, ((len(prompt.query), len(prompt.text)),))
    given = (example.input or "").strip()
    has_input = bool(given) and given.lower() not in NO_INPUT_SENTINELS
    query = (_ALPACA_WITH_INPUT if has_input else _ALPACA) + f"### Instruction:\n{example.instruction or ''}\n\n"
    query += f"### Input:\n{example.input}\n\n### Response:" if has_input else "### Response:"
    text = query + (example.output or "")
    return TrainingText(text, ((len(query), len(text)),))


def _conversation(example: Example, template: Literal["nuggets", "alpaca"]) -> TrainingText | None:
    messages = example.messages or ()
    trained = [place for place, turn in enumerate(messages) if turn.role == "assistant" and turn.trained]
    if not trained or not messages[trained[-1]].content.strip():
        return None
    nuggets = template == "nuggets"
    text, answers = "" if nuggets else _ALPACA, []
    for place, turn in enumerate(messages[: trained[-1] + 1]):
        heading, content = HEADINGS.get(turn.role, turn.role.capitalize()), turn.content.strip()
        text += f"{heading}:\n" if nuggets else f"### {heading}:" + ("" if turn.role == "assistant" else "\n")
        if place in trained and content:
            answers.append((len(text), len(text) + len(content)))
        text += content
        if place < trained[-1]:
            text += "\n" if nuggets else "\n\n"
    return TrainingText(text, tuple(answers))


def text_rows(
    examples: Sequence[Example],
    template: Literal["nuggets", "alpaca"],
    encode: Callable[[list[str]], list[list[int]]],
    *,
    start_id: int | None,
    end_id: int | None,
) -> list[RowTokens | None]:
    """Tokenize examples with a template of text.

    Args:
        examples: What to tokenize.
        template: How to render it.
        encode: Token ids of each text, with no special tokens around them.
        start_id: Token in front of each row, or None.
        end_id: Token behind each row, trained with the last answer; or None.

    Returns:
        A row for each example; None for one without an answer.
    """
    rendered = [render_training(example, template) for example in examples]
    # Each text is followed by what stands before its answers, and before what follows those that are not the last.
    texts = [cut for each in rendered if each is not None for cut in [each.text, *_cuts(each)]]
    encoded = iter(encode(texts))
    rows: list[RowTokens | None] = []
    for each in rendered:
        if each is None:
            rows.append(None)
            continue
        whole = next(encoded)
        shared = [_border(next(encoded), whole, is_end=place % 2 == 1) for place, _ in enumerate(_cuts(each))]
        shared.append(len(whole) + (end_id is not None))
        first = 0 if start_id is None else 1
        spans = [(first + start, first + end) for start, end in zip(shared[::2], shared[1::2], strict=True)]
        ids = [*([] if start_id is None else [start_id]), *whole, *([] if end_id is None else [end_id])]
        rows.append(RowTokens(ids, [(start, end) for start, end in spans if start < end]))
    return rows


def _border(before: Sequence[int], whole: Sequence[int], *, is_end: bool) -> int:
    """Where the tokens of a beginning and of the whole part ways, or behind the one that joins an end to the rest."""
    shared = common_prefix(before, whole)
    is_joined = shared < len(before) and shared < len(whole)
    return shared + (is_end and is_joined)


def _cuts(rendered: TrainingText) -> list[str]:
    """The text before each border of an answer, but for the end of the whole."""
    return [rendered.text[:border] for answer in rendered.answers for border in answer][:-1]


def chat_rows(examples: Sequence[Example], tokenizer: Tokenizer) -> list[RowTokens | Refused | None]:
    """Tokenize examples with the tokenizer's own chat template: the ids are those that it gives a conversation.

    A trained turn is what the template writes behind the generation prompt of the conversation before it, its end of
    turn included. A template that writes turns otherwise once more follow them cannot be trained so: such a
    conversation is refused. Where a template takes no system text, it goes to the front of the next user turn, as in
    scoring.

    Args:
        examples: What to tokenize.
        tokenizer: The model's tokenizer.

    Returns:
        A row for each example; None for one without an answer, `Refused` for one that the template does not take.

    Raises:
        PrerequisiteError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise PrerequisiteError("the tokenizer has no chat template", hint="use --template nuggets or alpaca")
    rendered = [_chat(example, tokenizer) for example in examples]
    texts = [cut for each in rendered if isinstance(each, TrainingText) for cut in [each.text, *_borders(each)]]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    rows: list[RowTokens | Refused | None] = []
    for each in rendered:
        if not isinstance(each, TrainingText):
            rows.append(each)
            continue
        whole = list(next(encoded))
        borders = [_border(next(encoded), whole, is_end=place % 2 == 1) for place, _ in enumerate(_borders(each))]
        spans = zip(borders[::2], borders[1::2], strict=True)
        rows.append(RowTokens(whole, [(start, end) for start, end in spans if start < end]))
    return rows


def _borders(rendered: TrainingText) -> list[str]:
    return [rendered.text[:border] for answer in rendered.answers for border in answer]


def _chat(example: Example, tokenizer: Tokenizer) -> TrainingText | Refused | None:
    turns = _turns(example)
    trained = [place for place, (_, is_trained) in enumerate(turns) if is_trained]
    if not trained or not turns[trained[-1]][0]["content"]:
        return None
    turns = turns[: trained[-1] + 1]
    result = _render_chat(turns, tokenizer)
    if isinstance(result, Refused) and any(turn["role"] == "system" for turn, _ in turns):
        return _render_chat(_system_moved(turns), tokenizer)
    return result


def _turns(example: Example) -> list[tuple[dict[str, str], bool]]:
    """The conversation, and whether each turn is trained."""
    if example.messages is None:
        ((_, question),) = render_nuggets(example).turns
        answer = (example.output or "").strip()
        return [({"role": "user", "content": question}, False), ({"role": "assistant", "content": answer}, True)]
    return [
        ({"role": turn.role, "content": turn.content.strip()}, turn.role == "assistant" and turn.trained)
        for turn in example.messages
    ]


def _system_moved(turns: Sequence[tuple[dict[str, str], bool]]) -> list[tuple[dict[str, str], bool]]:
    """Turns with each system text moved to the front of the next user turn."""
    result: list[tuple[dict[str, str], bool]] = []
    waiting: list[str] = []
    for turn, trained in turns:
        if turn["role"] == "system":
            waiting.append(turn["content"])
        elif turn["role"] == "user":
            result.append(({"role": "user", "content": "\n\n".join([*waiting, turn["content"]])}, trained))
            waiting = []
        else:
            if waiting:
                result.append(({"role": "user", "content": "\n\n".join(waiting)}, False))
                waiting = []
            result.append((turn, trained))
    return result


def _render_chat(turns: Sequence[tuple[dict[str, str], bool]], tokenizer: Tokenizer) -> TrainingText | Refused:
    from jinja2 import TemplateError  # what chat templates are written in; only they need it

    def render(end: int, *, prompt: bool) -> str:
        conversation: list[dict[str, str]] = [turn for turn, _ in turns[:end]]
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt))

    try:
        text = render(len(turns), prompt=False)
        answers = []
        for place, (turn, trained) in enumerate(turns):
            if not trained or not turn["content"]:
                continue
            before, after = render(place, prompt=True), render(place + 1, prompt=False)
            if not (text.startswith(before) and text.startswith(after) and len(before) < len(after)):
                return Refused("the template writes its trained turns otherwise when others follow")
            answers.append((len(before), len(after)))
    except (TemplateError, TypeError, ValueError) as error:
        return Refused(str(error))
    return TrainingText(text, tuple(answers))


def plain_encoder(tokenizer: TrainingTokenizer) -> Callable[[list[str]], list[list[int]]]:
    """The reference: `tokenizers` itself, with nothing added, cut or filled up.

    Raises:
        PrerequisiteError: It cannot read the tokenizer.
    """
    library: Any = _reference(tokenizer)
    return lambda texts: [each.ids for each in library.encode_batch_fast(texts, add_special_tokens=False)]


def _reference(tokenizer: TrainingTokenizer) -> Any:
    from tokenizers import Tokenizer as Reference

    try:
        library = Reference.from_str(tokenizer.json)
    except Exception as error:  # the library raises nothing narrower
        raise PrerequisiteError(f"tokenizer `{tokenizer.name}` cannot be read: {error}") from error
    library.no_truncation()
    library.no_padding()
    return library
