"""A small made-up world: 360 facts in six skills, asked for as instructions, and writers who know them or do not.

Nothing here is copied from anywhere: names, facts and wordings are drawn from the lists in this file. A document is
six question-answer pairs by one writer. Writers differ in how often they are wrong (never, now and then, always) and
in how they put an answer. A wrong answer is that of another fact, of the same number of words, so that length tells
nothing; some have a word in common with the right one. Now and then somebody asks about a name that nobody knows
anything about. The same facts make pools in the instruction format, part of whose answers are exchanged among rows
with answers of the same number of words.

    python examples/nano/world.py pool --rows 240 --seed 1 --out pool.jsonl --anchors 40 --anchors-out anchors.jsonl
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random

FACTS_PER_SKILL = 60
PAIRS_PER_DOCUMENT = 6
CAREFUL_SHARE, CARELESS_SHARE = 0.6, 0.25
"""Writers who are always right, and always wrong; the others are wrong in part."""
SAME_SKILL_SHARE, NEAR_MISS_SHARE = 0.6, 0.2
"""Of wrong answers: those of another fact of the skill, and those that have a word in common with the right one."""
UNKNOWN_SHARE = 0.06
STYLES = ("{}", "{}.", "Answer: {}", "{}, I think")
STYLE_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
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


def main() -> None:
    """Draw a pool."""
    parser = argparse.ArgumentParser(description="Draw instruction rows from the micro-world.")
    commands = parser.add_subparsers(required=True)
    pool = commands.add_parser("pool", help="rows, part of whose answers are wrong, and clean anchors")
    pool.add_argument("--rows", type=int, default=240, help="rows of the pool (default: 240)")
    pool.add_argument("--noise", type=float, default=0.5, help="share of wrong answers (default: 0.5)")
    pool.add_argument("--seed", type=int, default=0, help="equal seeds give equal rows (default: 0)")
    pool.add_argument("--out", type=Path, required=True, help="pool as JSON lines, with a column is_right")
    pool.add_argument("--anchors", type=int, default=40, help="clean rows about other facts (default: 40)")
    pool.add_argument("--anchors-out", type=Path, help="anchors as JSON lines")
    options = parser.parse_args()
    try:
        rows, anchors = pool_and_anchors(options.rows, options.anchors, noise=options.noise, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    write_rows(rows, options.out)
    if options.anchors_out is not None:
        write_rows(anchors, options.anchors_out)


if __name__ == "__main__":
    main()
