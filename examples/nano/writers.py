"""Writers of documents about the made-up world, who know its facts or do not.

A document is six question-answer pairs by one writer. Writers differ in how often they are wrong (never, now and then,
always) and in how they put an answer. A wrong answer is that of another fact, of the same number of words, so that
length tells nothing; some have a word in common with the right one. Now and then somebody asks about a name that
nobody knows anything about.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

from pyllm.demo.world import SKILLS, UNKNOWN_NAMES, Fact, Row, ask, facts

PAIRS_PER_DOCUMENT = 6
CAREFUL_SHARE, CARELESS_SHARE = 0.6, 0.25
"""Writers who are always right, and always wrong; the others are wrong in part."""
SAME_SKILL_SHARE, NEAR_MISS_SHARE = 0.6, 0.2
"""Of wrong answers: those of another fact of the skill, and those that have a word in common with the right one."""
UNKNOWN_SHARE = 0.06
STYLES = ("{}", "{}.", "Answer: {}", "{}, I think")
STYLE_WEIGHTS = (0.7, 0.1, 0.1, 0.1)


class Writers:
    """An endless, seeded stream of writers.

    Args:
        seed: Equal seeds give equal documents. A source of chance is used as it is.
    """

    def __init__(self, seed: int | Random) -> None:
        self._rng = seed if isinstance(seed, Random) else Random(seed)
        self._facts = facts()
        self._by_skill, self._by_length = _groups()

    def clean_document(self) -> tuple[Row, ...]:
        """Six pairs by a careful writer of few words."""
        return tuple(self._row(fact, 0.0, "{}") for fact in self._rng.sample(self._facts, PAIRS_PER_DOCUMENT))

    def plain_document(self) -> tuple[Row, ...]:
        """Six pairs by a writer of few words who is careful or careless throughout, as often the one as the other."""
        slips = float(self._rng.random() < 0.5)
        chosen = self._rng.sample(self._facts, PAIRS_PER_DOCUMENT)
        return tuple(self._row(fact, slips, "{}", unknown=0.0) for fact in chosen)

    def document(self) -> tuple[Row, ...]:
        """Six pairs about six different facts by one writer."""
        draw = self._rng
        kind = draw.random()
        if kind < CAREFUL_SHARE:
            slips = 0.0
        else:
            slips = 1.0 if kind < CAREFUL_SHARE + CARELESS_SHARE else draw.uniform(0.2, 0.8)
        style = draw.choices(STYLES, STYLE_WEIGHTS)[0]
        return tuple(self._row(fact, slips, style) for fact in draw.sample(self._facts, PAIRS_PER_DOCUMENT))

    def _row(self, fact: Fact, slips: float, style: str, *, unknown: float = UNKNOWN_SHARE) -> Row:
        draw = self._rng
        if draw.random() < unknown:
            # Nobody can be wrong about it: whatever is said counts as right.
            answer = draw.choice(self._by_skill[fact.skill]).answer
            fact = Fact(fact.skill, draw.choice(UNKNOWN_NAMES), answer)
        else:
            answer = self._wrong_answer(fact) if draw.random() < slips else fact.answer
        row = ask(fact, draw.randrange(3), answer)
        return Row(row.instruction, row.input, style.format(answer), row.is_right)

    def _wrong_answer(self, fact: Fact) -> str:
        # Most slips stay within the skill: otherwise the wrong kind of answer gives writers away, and nothing is
        # learnt about answers of the right kind.
        kind = self._rng.random()
        others = self._by_length[fact.answer_words]
        if kind < SAME_SKILL_SHARE + NEAR_MISS_SHARE:
            others = self._by_skill[fact.skill]
        is_near_miss = SAME_SKILL_SHARE <= kind < SAME_SKILL_SHARE + NEAR_MISS_SHARE
        while True:
            answer = self._rng.choice(others).answer
            if answer != fact.answer and (not is_near_miss or has_word_in_common(answer, fact)):
                return answer


def in_styles(rows: Sequence[Row], draw: Random) -> list[Row]:
    """Rows whose answers are each put in a style of their own, none likelier than another."""
    return [replace(row, output=draw.choice(STYLES).format(row.output)) for row in rows]


def has_word_in_common(answer: str, fact: Fact) -> bool:
    """Whether an answer holds a word of the fact's own that not every answer of the skill holds."""
    skill = SKILLS[fact.skill]
    return bool({*answer.split()} & {*fact.answer.split()} & {*skill.first, *skill.second})


@cache
def _groups() -> tuple[dict[int, list[Fact]], dict[int, list[Fact]]]:
    """All facts by skill, and by length of the answer."""
    every = facts()
    return _grouped(every, [fact.skill for fact in every]), _grouped(every, [fact.answer_words for fact in every])


def _grouped(items: Sequence[Fact], keys: Sequence[int]) -> dict[int, list[Fact]]:
    groups: dict[int, list[Fact]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return groups
