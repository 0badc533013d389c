"""What a judge is told. The words are ours; a change of them is a new version, kept in every table.

The verdict is asked for in double brackets, as most judges of today have learnt to give it.
"""

from collections.abc import Mapping, Sequence

VERSION = 1

_GRADE = """\
Grade how well an assistant answered a user. Weigh whether the answer is right, whether it does what was asked, and \
whether it is clear and goes as deep as the question needs. A longer answer is not a better one.
{aims}First say in a few sentences what is good and what is lacking. Then end with a line of its own that holds your \
grade in double brackets, from 1 (useless) to 10 (could hardly be better), exactly in this form: Rating: [[5]]"""

_PAIR = """\
Compare how well two assistants answered the same user. Weigh whether each answer is right, whether it does what was \
asked, and whether it is clear and goes as deep as the question needs. A longer answer is not a better one; the order \
in which the two stand, and what they are called, mean nothing.
{aims}First compare the two in a few sentences. Then end with a line of its own that holds your verdict in double \
brackets: [[A]] if assistant A answered better, [[B]] if assistant B did, [[C]] if neither did."""

_REFERENCE_AIM = "A right answer is given: hold what you read against it, and say where they differ.\n"
_LAST_TURN_AIM = "The user asked twice. Judge the answer to the second question; the first is there so that you \
understand it.\n"


def grade_prompt(
    question: str, answer: str, *, before: Sequence[tuple[str, str]] = (), references: Sequence[str] = ()
) -> str:
    """What a judge reads to grade one answer.

    Args:
        question: What was asked.
        answer: The answer.
        before: Turns before it: what was asked and answered.
        references: Right answers, from the first turn on.
    """
    parts = [_GRADE.format(aims=_aims(before, references))]
    parts += _references(references)
    parts += _conversation("", [*before, (question, answer)])
    return "\n\n".join(parts)


def pair_prompt(
    questions: Sequence[str], first: Sequence[str], second: Sequence[str], *, references: Sequence[str] = ()
) -> str:
    """What a judge reads to compare two answers.

    Args:
        questions: What was asked, turn by turn; the last counts.
        first: What assistant A answered to each.
        second: What assistant B answered to each.
        references: Right answers, from the first turn on.
    """
    parts = [_PAIR.format(aims=_aims(questions[:-1], references))]
    parts += _references(references)
    if len(questions) == 1:
        parts.append(_block("question", questions[0]))
        parts += [_block("answer of assistant A", first[0]), _block("answer of assistant B", second[0])]
    else:
        parts += _conversation(" of assistant A", list(zip(questions, first, strict=True)))
        parts += _conversation(" of assistant B", list(zip(questions, second, strict=True)))
    return "\n\n".join(parts)


def _aims(before: Sequence[object], references: Sequence[str]) -> str:
    return (_LAST_TURN_AIM if before else "") + (_REFERENCE_AIM if references else "")


def _conversation(whose: str, turns: Sequence[tuple[str, str]]) -> list[str]:
    parts = []
    for number, (question, answer) in enumerate(turns, 1):
        turn = f" {number}" if len(turns) > 1 else ""
        parts += [_block(f"question{turn}", question), _block(f"answer{turn}{whose}", answer)]
    return parts


def _references(references: Sequence[str]) -> list[str]:
    many = len(references) > 1
    return [_block(f"right answer{f' {number}' if many else ''}", text) for number, text in enumerate(references, 1)]


def _block(name: str, text: str) -> str:
    return f"<<< {name} begins >>>\n{text}\n<<< {name} ends >>>"


def shown_grade_prompts() -> str:
    """The prompts for grades, with names in the places of texts."""
    plain = grade_prompt("QUESTION", "ANSWER")
    second = grade_prompt(
        "SECOND QUESTION",
        "SECOND ANSWER",
        before=[("FIRST QUESTION", "FIRST ANSWER")],
        references=["FIRST RIGHT ANSWER", "SECOND RIGHT ANSWER"],
    )
    return _shown({"one turn": plain, "second turn, with right answers": second})


def shown_pair_prompts() -> str:
    """The prompts for pairs, with names in the places of texts."""
    plain = pair_prompt(["QUESTION"], ["ANSWER OF A"], ["ANSWER OF B"])
    second = pair_prompt(
        ["FIRST QUESTION", "SECOND QUESTION"],
        ["FIRST ANSWER OF A", "SECOND ANSWER OF A"],
        ["FIRST ANSWER OF B", "SECOND ANSWER OF B"],
        references=["FIRST RIGHT ANSWER", "SECOND RIGHT ANSWER"],
    )
    return _shown({"one turn": plain, "second turn, with right answers": second})


def _shown(prompts: Mapping[str, str]) -> str:
    return "\n".join(f"=== version {VERSION}, {name} ===\n{text}\n" for name, text in prompts.items())
