"""Small skills with exact answers: questions about words, numbers and the made-up world, and tasks of several of them.

A skill makes a question and knows its answer. The tasks are those of `toolkit mti`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from pyllm.demo import words
from pyllm.demo.world import SKILLS, facts
from pyllm.mti.demonstrations import gold_answer
from pyllm.mti.tasks import Instance, Task, TaskMeta
from pyllm.stream.recall_task import NAMES as HELD_OUT_NAMES
from pyllm.stream.recall_task import THINGS as HELD_OUT_THINGS

KINDS = {
    "animal": words.split("lion zebra camel rat mouse hen pig fox deer bear wolf whale tiger monkey goat sheep"),
    "fruit": words.split("apple pear cherry plum lemon peach melon grape"),
    "colour": words.split("red blue green yellow white black brown grey"),
    "tool": words.split("hammer saw drill axe knife broom shovel brush"),
    "room": words.split("kitchen bedroom bathroom cellar attic hall garage barn"),
}
"""Words by what they name."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its material and its answer.

    Args:
        instruction: What to do.
        context: With what.
        answer: The only right answer.
        answer_type: How `toolkit mti` compares it.
    """

    instruction: str
    context: str
    answer: str | int
    answer_type: str


_POOL = tuple(dict.fromkeys((*words.ITEMS, *words.OBJECTS, *words.KEPT, *HELD_OUT_THINGS, *HELD_OUT_NAMES)))


def _sample(draw: Random, low: int, high: int) -> list[str]:
    return draw.sample(_POOL, draw.randrange(low, high + 1))


def _first(draw: Random) -> Question:
    chosen = _sample(draw, 3, 5)
    end = draw.choice(("first", "last"))
    return Question(
        f"Which word stands {end}?", f"Words: {' '.join(chosen)}", chosen[0 if end == "first" else -1], "span"
    )


def _place(draw: Random) -> Question:
    chosen = _sample(draw, 3, 5)
    place = draw.randrange(len(chosen))
    return Question(f"At which place stands {chosen[place]}?", f"Words: {' '.join(chosen)}", place + 1, "int")


def _count(draw: Random) -> Question:
    chosen = _sample(draw, 2, 6)
    return Question("How many words are there?", f"Words: {' '.join(chosen)}", len(chosen), "int")


def _is_there(draw: Random) -> Question:
    chosen = _sample(draw, 4, 6)
    is_there = draw.random() < 0.5
    asked = draw.choice(chosen[1:]) if is_there else chosen[0]
    listed = chosen if is_there else chosen[1:]
    answer = "yes" if is_there else "no"
    return Question(f"Is {asked} in the list?", f"Words: {' '.join(listed)}", answer, "span")


def _kind(draw: Random) -> Question:
    kind, other = draw.sample(sorted(KINDS), 2)
    place = draw.randrange(3)
    listed = draw.sample(KINDS[other], 3)
    listed[place] = draw.choice(KINDS[kind])
    options = " ".join(f"({number}) {word}" for number, word in enumerate(listed, 1))
    return Question(f"Which of them is {words.a(kind)}?", options, place + 1, "int")


def _largest(draw: Random) -> Question:
    numbers = draw.sample(range(10), draw.randrange(2, 5))
    which = draw.choice(("largest", "smallest"))
    answer = max(numbers) if which == "largest" else min(numbers)
    return Question(f"What is the {which} number?", f"Numbers: {' '.join(map(str, numbers))}", answer, "int")


def _between(draw: Random) -> Question:
    chosen = _sample(draw, 3, 5)
    place = draw.randrange(1, len(chosen))
    return Question(f"Which word follows {chosen[place - 1]}?", f"Words: {' '.join(chosen)}", chosen[place], "span")


def _sum(draw: Random) -> Question:
    first, second = draw.randrange(5), draw.randrange(5)
    return Question("Add both numbers.", f"Numbers: {first} {second}", first + second, "int")


def _is_larger(draw: Random) -> Question:
    first, second = draw.sample(range(10), 2)
    answer = "yes" if first > second else "no"
    return Question("Is the first number larger?", f"Numbers: {first} {second}", answer, "span")


def _sorted(draw: Random) -> Question:
    numbers = draw.sample(range(10), 3)
    answer = " ".join(map(str, sorted(numbers)))
    return Question("Sort the numbers.", f"Numbers: {' '.join(map(str, numbers))}", answer, "span")


_NUMBER_WORDS = words.split("two three four five six seven eight nine")


def _written(draw: Random) -> Question:
    place = draw.randrange(len(_NUMBER_WORDS))
    return Question("Write the number as a word.", f"Number: {place + 2}", _NUMBER_WORDS[place], "span")


def _shortened(draw: Random) -> Question:
    skill = draw.choice([skill for skill in SKILLS if len(skill.answer.split()) == 3])
    text = skill.answer.format(draw.choice(skill.first), draw.choice(skill.second))
    return Question("Leave out the last word.", text, text.rpartition(" ")[0], "span")


def _category(draw: Random) -> Question:
    kind = draw.choice(sorted(KINDS))
    return Question("What kind of thing is this?", f"Word: {draw.choice(KINDS[kind])}", kind, "span")


def _known(skill: int, draw: Random) -> Question:
    fact = draw.choice([fact for fact in facts() if fact.skill == skill])
    return Question(SKILLS[skill].wordings[2], f"{SKILLS[skill].thing} {fact.name}", fact.answer, "span")


Maker = Callable[[Random], Question]

MAKERS: tuple[Maker, ...] = (_place, _count, _is_there, _kind, _largest, _sum)
"""Skills with short answers, which are asked for in tags too."""
WORD_MAKERS: tuple[Maker, ...] = (_first, _between)
"""Skills whose answer is a word of the question: in sentences only, where it is the same token as in the question."""
ALL_MAKERS: tuple[Maker, ...] = (
    *MAKERS,
    *(_is_larger, _sorted, _written, _shortened, _category),
    *(partial(_known, skill) for skill in range(len(SKILLS))),
)
"""Every skill that can be asked for in tags: those of the last stages, and of the evaluation."""


_QUERIES = ("Read the following, and follow the given steps.", "Follow the given steps.", "Solve all of the steps.")


def instance(draw: Random, makers: tuple[Maker, ...], query: str, name: str) -> Instance:
    """One instance of several instructions, a skill each."""
    questions = [maker(draw) for maker in makers]
    return Instance(
        uid=name,
        task=name.partition("_")[0],
        query=query,
        instructions=tuple(
            f"{question.instruction} Return the answer in <task{step}>N<task{step}/> format."
            for step, question in enumerate(questions, 1)
        ),
        contexts=tuple((question.context,) for question in questions),
        answers=tuple(question.answer for question in questions),
    )


def task(draw: Random, name: str, count: int, steps: int, skills: tuple[Maker, ...] = ALL_MAKERS) -> Task:
    """A task of as many instances, with a demonstration of all steps and of each.

    Args:
        draw: Source of chance.
        name: Id of the task.
        count: Instances.
        steps: Instructions of each.
        skills: What to choose from for each step.
    """
    makers = tuple(draw.choice(skills) for _ in range(steps))
    query = draw.choice(_QUERIES)
    types = tuple(maker(Random(0)).answer_type for maker in makers)
    shown, *asked = (instance(draw, makers, query, f"{name}_{number}") for number in range(count + 1))
    golds = [
        gold_answer(text, gold, step)
        for step, (text, gold) in enumerate(zip(shown.instructions, shown.answers, strict=True), 1)
    ]
    listed = "\n".join(f"#{step}: {text}" for step, text in enumerate(shown.instructions, 1))
    contexts = "\n".join(each for of_step in shown.contexts for each in of_step)
    whole = f"{query}\n{listed}\n\n{contexts}\n\n### Answer:\n\n" + "\n\n".join(golds)
    of_steps = tuple(
        f"{text}\n\n{context[0]}\n\n### Answer:\n\n{gold}"
        for text, context, gold in zip(shown.instructions, shown.contexts, golds, strict=True)
    )
    meta = TaskMeta(name="skills", subset="multi-part", answer_types=types, demo_steps=of_steps)
    return Task(name, tuple(asked), whole, meta)


def tasks(count: int, instances: int, seed: int) -> list[Task]:
    """Tasks for `toolkit mti`; every third one has three steps.

    Args:
        count: How many tasks.
        instances: Instances of each.
        seed: Equal seeds give equal tasks.
    """
    draw = Random(f"tasks {seed}")
    return [task(draw, f"n{number:02}", instances, 3 if number % 3 == 0 else 2) for number in range(1, count + 1)]
