"""Answers to prompts, written down one by one: what `toolkit generate` does.

The second turn of a prompt is asked behind the model's own first answer. A call that failed leaves a row with no answer
and the error beside it; turns behind it are not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pyllm.judge.answers import ANSWER_COLUMNS, Place
from pyllm.judge.calls import Call, Caller, Reply
from pyllm.judge.questions import Question
from pyllm.lm.backends.contract import Message


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of prompts.

    Args:
        table: One row a prompt, turn and repeat, in the order of the prompts; `answer` is null and `error` says why
            where a call failed.
        failed: Rows without an answer.
    """

    table: pl.DataFrame
    failed: int


def generate_answers(
    caller: Caller, questions: Sequence[Question], *, model: str, repeats: int = 1, system: str | None = None
) -> Generated:
    """Answer prompts.

    Args:
        caller: Who answers.
        questions: What is asked.
        model: What the column `model` says.
        repeats: Answers to each prompt.
        system: A text that stands before every prompt.

    Raises:
        SettingError: The budget is used up.
        PrerequisiteError: The backend cannot go on.
    """
    opening = () if system is None else (Message("system", system),)
    by_name = {question.prompt_id: question for question in questions}
    places = [
        Place(question.prompt_id, repeat, turn)
        for question in questions
        for repeat in range(repeats)
        for turn in range(1, len(question.turns) + 1)
    ]
    said: dict[Place, tuple[Message, ...]] = {}
    replies: dict[Place, Reply] = {}

    def call(place: Place, before: tuple[Message, ...]) -> Call:
        said[place] = (*before, Message("user", by_name[place.prompt_id].turns[place.turn - 1]))
        return Call(_name(place), said[place], place.repeat)

    by_call = {_name(place): place for place in places}

    def follow(reply: Reply) -> list[Call]:
        place = by_call[reply.name]
        replies[place] = reply
        if reply.text is None or place.turn == len(by_name[place.prompt_id].turns):
            return []
        following = Place(place.prompt_id, place.repeat, place.turn + 1)
        return [call(following, (*said[place], Message("assistant", reply.text)))]

    first = [call(place, opening) for place in places if place.turn == 1]
    caller.run(first, follow, total=len(places), stage="answering")
    return _table(places, by_name, replies, model)


def _name(place: Place) -> str:
    return f"{place.prompt_id}\n{place.repeat}\n{place.turn}"


def _table(
    places: Sequence[Place], questions: dict[str, Question], replies: dict[Place, Reply], model: str
) -> Generated:
    rows = []
    for place in places:
        question, reply = questions[place.prompt_id], replies.get(place)
        unasked = "the turn before has no answer"
        rows.append(
            {
                "prompt_id": place.prompt_id,
                "category": question.category,
                "turn": place.turn,
                "repeat": place.repeat,
                "prompt": question.turns[place.turn - 1],
                "answer": None if reply is None else reply.text,
                "answer_tokens": None if reply is None else reply.generated_tokens,
                "model": model,
                "finish": None if reply is None else reply.finish,
                "error": unasked if reply is None else reply.error,
            }
        )
    table = pl.DataFrame(rows, schema={**ANSWER_COLUMNS, "finish": pl.String, "error": pl.String})
    return Generated(table, int(table["answer"].is_null().sum()))
