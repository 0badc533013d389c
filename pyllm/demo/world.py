"""A small made-up world: 360 facts in six skills, asked for as instructions. The shipped model `nano` knows them.

Nothing here is copied from anywhere: names, facts and wordings are drawn from the lists in this file. The facts make
pools in the instruction format, part of whose answers are exchanged among rows with answers of the same number of
words, so that length tells nothing about which rows are right.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random

FACTS_PER_SKILL = 60
WORLD_SEED = 360
"""Which facts hold. The shipped weights know the facts of this seed, so it is no option."""

_NAME_STARTS = (
    *("Bal", "Bor", "Cal", "Dar", "Del", "Fen", "Gar", "Hol", "Jor", "Kel", "Lan", "Mar"),
    *("Nor", "Oll", "Pel", "Quin", "Ros", "Sel", "Tal", "Ulm", "Ver", "Wil", "Yar", "Zan"),
)
_NAME_ENDS = (
    *("bek", "dan", "dor", "fin", "gost", "hale", "lin", "mir", "nath"),
    *("oss", "pa", "rik", "sy", "ton", "vek", "wen", "zo", "mund"),
)


@dataclass(frozen=True, slots=True)
class Skill:
    """A kind of fact.

    Args:
        thing: What the facts are about, in front of a name.
        wordings: Instructions; `{}` stands for thing and name. One without `{}` has them as its input.
        answer: The answer's form, with a place for one word of each list.
        first: Words for the first place.
        second: Words for the second place.
    """

    thing: str
    wordings: tuple[str, ...]
    answer: str
    first: tuple[str, ...]
    second: tuple[str, ...]


SKILLS = (
    Skill(
        "the stone",
        ("What colour is {}?", "Name the colour of {}.", "What colour is this?"),
        "{} {}",
        ("pale", "dark", "bright", "dull", "deep", "soft", "warm", "cold"),
        ("red", "green", "blue", "grey", "brown", "white", "yellow", "black"),
    ),
    Skill(
        "the beast",
        ("What does {} eat?", "Name the food of {}.", "What does this one eat?"),
        "{} {}",
        ("ripe", "dry", "wild", "fresh", "sweet", "bitter", "salted", "tiny"),
        ("figs", "grass", "nuts", "fish", "berries", "seeds", "roots", "leaves"),
    ),
    Skill(
        "the lighthouse",
        ("Who keeps {}?", "Name the keeper of {}.", "Who keeps this place?"),
        "{} {}",
        ("tall", "young", "quiet", "merry", "lame", "grim", "clever", "sleepy"),
        ("sailor", "miller", "monk", "widow", "smith", "nurse", "poet", "farmer"),
    ),
    Skill(
        "the book",
        ("What does {} cost?", "Name the price of {}.", "What is the price of this?"),
        "{} {} coins",
        ("two", "three", "four", "five", "six", "seven", "eight", "nine"),
        ("silver", "copper", "golden", "iron", "glass", "bronze", "clay", "bone"),
    ),
    Skill(
        "the villager",
        ("What work does {} do?", "Name the work of {}.", "What work does this person do?"),
        "{} old {}",
        ("mends", "sells", "paints", "washes", "carries", "counts", "hides", "burns"),
        ("boats", "clocks", "coats", "doors", "wheels", "ropes", "maps", "bells"),
    ),
    Skill(
        "the inn",
        ("Where is {}?", "Name the place of {}.", "Where is this?"),
        "{} the {}",
        ("behind", "near", "under", "above", "beyond", "beside", "before", "opposite"),
        ("mill", "bridge", "gate", "tower", "market", "well", "chapel", "harbour"),
    ),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is so in this world.

    Args:
        skill: Number of its skill.
        name: Whom or what it is about; no two facts share one.
        answer: The right answer; no two facts of a skill share one.
    """

    skill: int
    name: str
    answer: str

    @property
    def answer_words(self) -> int:
        """Length of the answer in words; the same for all facts of a skill."""
        return len(self.answer.split())


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction with an answer.

    Args:
        instruction: What is asked.
        input: Whom it is asked about, where the instruction does not say; else empty.
        output: The answer given.
        is_right: Whether that is the right one.
    """

    instruction: str
    input: str
    output: str
    is_right: bool


def _shuffled_names(rng: Random) -> list[str]:
    names = [start + end for start in _NAME_STARTS for end in _NAME_ENDS]
    rng.shuffle(names)
    return names


UNKNOWN_NAMES = tuple(_shuffled_names(Random(WORLD_SEED))[len(SKILLS) * FACTS_PER_SKILL :])
"""Names of the same kind that no fact is about."""


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, skill by skill. They do not change: the shipped weights know them."""
    rng = Random(WORLD_SEED)
    names = _shuffled_names(rng)
    result = []
    for number, skill in enumerate(SKILLS):
        answers = [skill.answer.format(first, second) for first in skill.first for second in skill.second]
        own_names = names[number * FACTS_PER_SKILL : (number + 1) * FACTS_PER_SKILL]
        result += [
            Fact(number, name, answer)
            for name, answer in zip(own_names, rng.sample(answers, FACTS_PER_SKILL), strict=True)
        ]
    return tuple(result)


def ask(fact: Fact, wording: int, answer: str) -> Row:
    """A fact asked for in one of its skill's wordings, with the answer that somebody gives."""
    skill = SKILLS[fact.skill]
    subject, text = f"{skill.thing} {fact.name}", skill.wordings[wording]
    is_input = "{}" not in text
    return Row(text.format(subject), subject if is_input else "", answer, answer == fact.answer)


def pool_and_anchors(rows: int, anchors: int, *, noise: float, seed: int) -> tuple[list[Row], list[Row]]:
    """A pool with wrong answers in it, and clean anchors about other facts.

    Args:
        rows: Rows of the pool. Facts are asked for again, in other words where possible, once all have had a turn.
        anchors: Rows beside it, all right, about facts that the pool does not ask for.
        noise: Share of the pool's answers that are exchanged among rows whose answers have as many words.
        seed: Equal seeds give equal rows.

    Raises:
        ValueError: There are not enough facts, or the share is none.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is not a share between 0 and 1")
    rng = Random(seed)
    shuffled = list(facts())
    rng.shuffle(shuffled)
    if not 0 <= anchors < len(shuffled):
        raise ValueError(f"{anchors} anchors leave no fact for the pool: there are {len(shuffled)} facts")
    kept = shuffled[anchors:]
    clean = [ask(fact, rng.randrange(3), fact.answer) for fact in shuffled[:anchors]]
    first_wordings = [rng.randrange(3) for _ in kept]
    asked = [(kept[row % len(kept)], (first_wordings[row % len(kept)] + row // len(kept)) % 3) for row in range(rows)]
    answers = _exchanged([fact for fact, _ in asked], noise, rng)
    return [ask(fact, wording, answer) for (fact, wording), answer in zip(asked, answers, strict=True)], clean


def _exchanged(asked: Sequence[Fact], noise: float, rng: Random) -> list[str]:
    """Right answers, but for a share of each length class, whose answers go round among themselves."""
    answers = [fact.answer for fact in asked]
    for length in sorted({fact.answer_words for fact in asked}):
        members = [row for row, fact in enumerate(asked) if fact.answer_words == length]
        wrong = rng.sample(members, round(noise * len(members)))
        if len(wrong) < 2:
            continue  # a lone row has nobody to exchange with and stays right
        # Equal answers side by side, in an order of their own; then everyone takes the answer so far ahead that it
        # cannot be the same one.
        order = {answer: rng.random() for answer in sorted({asked[row].answer for row in wrong})}
        wrong.sort(key=lambda row: order[asked[row].answer])
        shift = max(Counter(asked[row].answer for row in wrong).values())
        if 2 * shift > len(wrong):
            raise ValueError("too few different answers to exchange: leave more facts to the pool")
        for place, row in enumerate(wrong):
            answers[row] = asked[wrong[(place + shift) % len(wrong)]].answer
    return answers


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
