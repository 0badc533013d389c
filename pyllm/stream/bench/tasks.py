"""The data files of the paper's experiments, and what is asked in each turn. Nothing of them is shipped.

Every line is a turn: `id`, `question` with `stem` and `choices` (each `label` and `text`), and `answerKey`, a label. A
line of rock-paper-scissors has `user_choice` too, the label of what the user played.

Source: SirLLM, arXiv 2405.12528, section 4, and the data folder of its code.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pyllm.errors import InputError, reason_of
from pyllm.provenance import canonical_json, sha256_hex

Task = Literal["dailydialog", "grocery", "rps"]
Part = Literal["told", "question", "recall"]
"""What a turn is for: something is told, a question is asked, or what was told is asked for."""

DAILYDIALOG_LINES = 2000
"""The evaluation of the paper reads so many lines of the file: 519 dialogues."""
ROUNDS = 2000
"""So many rounds of each player."""

_OPENING = "Let's play a game of Rock-Paper-Scissors. Choose one option from: "
_ANALYZE = "Analyze my preferences to maximize your winning rate and proceed to the next round."


@dataclass(frozen=True, slots=True)
class Item:
    """One turn.

    Args:
        name: Its `id`.
        text: What the user says.
        answers: What can be answered: labels, or the text of the only choice.
        gold: Which of them is right.
        texts: What each answer stands for.
        part: What the turn is for.
        fact: What is told, for a turn that tells something.
        played: What the user plays in this round.
    """

    name: str
    text: str
    answers: tuple[str, ...]
    gold: int
    texts: tuple[str, ...]
    part: Part = "question"
    fact: str | None = None
    played: int | None = None

    @property
    def has_duplicates(self) -> bool:
        """Whether two answers stand for the same text."""
        return len(set(self.texts)) < len(self.texts)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one dialogue.

    Args:
        name: Unique within a run.
        items: Its turns.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Of all that is asked: results of another dialogue of the same name are not taken for this one's."""
        told = [[i.text, i.answers, i.gold, i.texts, i.part, i.fact, i.played] for i in self.items]
        return sha256_hex(canonical_json(told))[:16]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a data file."""

    name: str
    stem: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    gold: int
    played: int | None

    @property
    def listed(self) -> str:
        return "".join(f" ({label}) {text}" for label, text in zip(self.labels, self.texts, strict=True))


def read_task(
    task: Task, paths: Sequence[Path], *, rounds: int = ROUNDS, lines: int | None = DAILYDIALOG_LINES
) -> list[Conversation]:
    """Dialogues of data files.

    Args:
        task: Which experiment.
        paths: The files; of rock-paper-scissors, each is a player.
        rounds: Rounds of each player.
        lines: How many lines of a file of DailyDialog count; None is all.

    Raises:
        InputError: A file cannot be read, is empty, or holds a bad line; the message names the line and the field.
    """
    made: list[Conversation] = []
    for path in paths:
        read = list(_lines(path, lines if task == "dailydialog" else rounds if task == "rps" else None, task))
        if not read:
            raise InputError(f"{path} holds no lines")
        if task == "rps":
            made.append(Conversation(path.stem, tuple(_rounds(read))))
        else:
            made += [Conversation(name, tuple(_items(task, part))) for name, part in _dialogues(task, read)]
    return _named_apart(made)


def _named_apart(conversations: list[Conversation]) -> list[Conversation]:
    seen: dict[str, int] = {}
    made = []
    for each in conversations:
        seen[each.name] = seen.get(each.name, 0) + 1
        made.append(each if seen[each.name] == 1 else Conversation(f"{each.name} ({seen[each.name]})", each.items))
    return made


def _lines(path: Path, most: int | None, task: Task) -> Iterator[_Line]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {reason}") from error
    for number, text in enumerate(texts if most is None else texts[:most], start=1):
        if text.strip():
            yield _line(path, number, text, task)


def _line(path: Path, number: int, text: str, task: Task) -> _Line:
    wrong = partial(_wrong, f"{path}: line {number}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: line {number} is no JSON") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: line {number} is no JSON object")
    question = found.get("question")
    if not isinstance(question, dict) or not isinstance(question.get("stem"), str):
        raise wrong("question.stem", "it is no text")
    choices = question.get("choices")
    if not isinstance(choices, list) or not choices or not all(_is_choice(choice) for choice in choices):
        raise wrong("question.choices", "it is no list of objects with `label` and `text`")
    labels = tuple(choice["label"] for choice in choices)
    if len(set(labels)) < len(labels):
        raise wrong("question.choices", f"a label is there twice: {', '.join(labels)}")
    if found.get("answerKey") not in labels:
        raise wrong("answerKey", f"`{found.get('answerKey')}` is not among the labels {', '.join(labels)}")
    name = found.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise wrong("id", "it is neither a text nor a whole number")
    played = None
    if task == "rps":
        if len(labels) != 3:
            raise wrong("question.choices", f"{len(labels)} choices are there, and the game has 3")
        if found.get("user_choice") not in labels:
            raise wrong("user_choice", f"`{found.get('user_choice')}` is not among the labels {', '.join(labels)}")
        played = labels.index(found["user_choice"])
    texts = tuple(choice["text"] for choice in choices)
    return _Line(
        str(name), question["stem"].strip(), labels, texts, labels.index(found["answerKey"]), played
    )  # fmt: skip


def _wrong(place: str, field: str, reason: str) -> InputError:
    return InputError(f"{place}, field `{field}`: {reason}")


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and all(isinstance(choice.get(name), str) for name in ("label", "text"))


def _dialogues(task: Task, lines: Sequence[_Line]) -> Iterator[tuple[str, list[_Line]]]:
    """Lines that follow each other and name the same dialogue."""
    running: list[_Line] = []
    before: str | None = None
    for line in lines:
        name = line.name.split("_")[0] if task == "dailydialog" else line.name.rsplit("_", 1)[-1]
        if running and name != before:
            yield str(before), running
            running = []
        running.append(line)
        before = name
    if running:
        yield str(before), running


def _items(task: Task, lines: Sequence[_Line]) -> Iterator[Item]:
    asked_for = next((line.texts[line.gold] for line in lines if line.name.startswith("answer_")), None)
    for line in lines:
        text = f"{line.stem} Choices: {line.listed}"
        if task == "dailydialog":
            text = f"Choose the best response for the input: {text}"
        if task == "grocery" and line.name.startswith("key_"):
            fact = asked_for if asked_for is not None and asked_for in line.stem else None
            yield Item(line.name, line.stem, line.texts, line.gold, line.texts, "told", fact)
        else:
            part: Part = "recall" if task == "grocery" and line.name.startswith("answer_") else "question"
            yield Item(line.name, text, line.labels, line.gold, line.texts, part)


def _rounds(lines: Sequence[_Line]) -> Iterator[Item]:
    before: str | None = None
    for line in lines:
        listed = line.listed.strip()
        text = f"{_OPENING}{listed}. "
        if before is not None:
            text = f"I chose [{before}]. {_ANALYZE} Choices: {listed}. You choose:"
        yield Item(line.name, text, line.labels, line.gold, line.texts, played=line.played)
        before = line.texts[line.played or 0]
