"""Small skills with exact answers, asked for one by one, or several in one prompt with tagged answers.

A skill makes a question about words or numbers and knows its answer. A document of single questions keeps to one
style of answering, and mostly to one skill, so that what came before shows how to go on. Prompts with several
instructions are those of `toolkit mti`: the same packings, layouts and demonstrations, and the tasks are of its schema.

    python examples/nano/skills.py --tasks 6 --instances 25 --seed 1 --out tasks.json
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import words
from dialogues import Exchange

from pyllm.mti.demonstrations import gold_answer
from pyllm.mti.prompts import Prompter, PromptSettings
from pyllm.mti.tasks import Instance, Task, TaskMeta

KINDS = {
    "animal": words.split("lion zebra camel rat mouse hen pig fox deer bear wolf whale tiger monkey goat sheep"),
    "fruit": words.split("apple pear cherry plum lemon peach melon grape"),
    "colour": words.split("red blue green yellow white black brown grey"),
    "tool": words.split("hammer saw drill axe knife broom shovel brush"),
    "room": words.split("kitchen bedroom bathroom cellar attic hall garage barn"),
}
"""Words by what they name."""
SENTENCES = ("The answer is {}.", "It is {}.", "Answer: {}")
STYLES = ("{}", "{}", "{}", "{}!", *SENTENCES)


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its material and its answer.

    Args:
        instruction: What to do.
        context: With what; empty where the instruction says all.
        answer: The only right answer.
        answer_type: How `toolkit mti` compares it.
    """

    instruction: str
    context: str
    answer: str | int
    answer_type: str


_POOL = tuple(dict.fromkeys((*words.ITEMS, *words.OBJECTS, *words.KEPT, *words.HELD_OUT_THINGS, *words.HELD_OUT_NAMES)))


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


MAKERS: tuple[Callable[[Random], Question], ...] = (_place, _count, _is_there, _kind, _largest, _sum)
"""Skills with short answers, which are asked for in tags too."""
WORD_MAKERS: tuple[Callable[[Random], Question], ...] = (_first, _between)
"""Skills whose answer is a word of the question: in sentences only, where it is the same token as in the question."""


def exchanges(draw: Random, count: int) -> list[Exchange]:
    """Questions and answers in one style, mostly of one skill."""
    makers = draw.choice((MAKERS, MAKERS, WORD_MAKERS))
    style = draw.choice(STYLES if makers is MAKERS else SENTENCES)
    if draw.random() < 0.6:
        makers = (draw.choice(makers),)
    made = []
    for _ in range(count):
        question = draw.choice(makers)(draw)
        before, after = style.split("{}")
        parts = [question.instruction, question.context]
        said = "\n".join(parts if draw.random() < 0.5 else reversed(parts))
        space = " " if before.endswith(" ") else ""
        made.append(Exchange(said, before.rstrip(), f"{space}{question.answer}", after))
    return made


_QUERIES = ("Read the following, and follow the given steps.", "Follow the given steps.", "Solve all of the steps.")


def instance(draw: Random, makers: tuple[Callable[[Random], Question], ...], query: str, name: str) -> Instance:
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


def task(draw: Random, name: str, count: int, steps: int) -> Task:
    """A task of as many instances, with a demonstration of all steps and of each.

    Args:
        draw: Source of chance.
        name: Id of the task.
        count: Instances.
        steps: Instructions of each.
    """
    makers = tuple(draw.choice(MAKERS) for _ in range(steps))
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


def tagged(draw: Random) -> tuple[str, str]:
    """A prompt of `toolkit mti` and what answers it, in one of its modes."""
    mode = draw.choices(("mti", "sti", "batch", "mti-batch"), (0.5, 0.25, 0.15, 0.1))[0]
    steps = 2 if mode in ("batch", "mti-batch") else draw.choice((2, 2, 3))
    made = task(draw, "t", 2, steps)
    settings = PromptSettings(layout=draw.choice(("reference", "chained")), shots=int(draw.random() < 0.7))
    prompter = Prompter(made, settings, {}, [mode])
    group = prompter.groups(mode, made.instances)[0]
    calls = draw.randrange(1, prompter.calls(mode) + 1)
    outputs = [prompter.gold_output(mode, group, call) for call in range(1, calls + 1)]
    return prompter.prompt(mode, group, outputs[:-1]), outputs[-1]


def tokenizer_texts() -> list[str]:
    """Words and marks that these texts are made of, for the tokenizer."""
    return [
        "0 1 2 3 4 5 6 7 8 9",
        "A B C D E F G H",
        "### Example:\n\n### Instruction:\n\n### Task:\n\n### Answer:\n\n#1: #2: #3:\n",
        "### (1) Instruction: ### (2) Instruction: ### (3) Instruction:",
        "<task1> <task1/> <task2/> </task1> (A) (B), (1)-(2) Return the answer in N format. Read the following and"
        " follow the given steps.",
        "Solve both all of instructions provided passage text context list sentences numbers words question Choices:"
        " Choose one option from true false yes no",
        "What is which are how many much more less than the largest smallest longest shortest number of letters in"
        " word first last second third sort order ascending descending alphabet alphabetical reverse repeat add"
        " subtract multiply sum difference double plus minus times equals count compare between both same different",
        "Write rewrite in capital small letters begin with end start Say pick find name kind animal fruit colour tool"
        " place person drink food clothing category belongs not does above below step result answer Answer from to by"
        " of and or with without for it its this that these those each every all any who has have had was were is are"
        " be been",
        "Two three four five six seven eight nine ten zero one hundred",
        "apple pear cherry plum lemon peach melon grape carrot potato onion cabbage saw drill shirt trousers jacket"
        " sock lion zebra camel rat mouse hen pig fox deer",
        "The The It In My Your If You For We I He She They A An This That There Here Yes No",
        "bigger heavier taller faster richer older younger lives near far north south east west",
    ]


def _schema(made: Task) -> dict[str, object]:
    assert made.meta is not None
    return {
        "instance": {
            each.uid: {
                "query": each.query,
                "instruction": {str(step): text for step, text in enumerate(each.instructions, 1)},
                "context": {
                    f"{step}_{number}": text
                    for step, of_step in enumerate(each.contexts, 1)
                    for number, text in enumerate(of_step)
                },
                "answers": list(each.answers),
            }
            for each in made.instances
        },
        "sample": made.sample,
        "meta": {
            "name": made.meta.name,
            "subset": made.meta.subset,
            "answer_types": list(made.meta.answer_types),
            "demo_steps": list(made.meta.demo_steps),
        },
    }


def task_file(tasks: int, instances: int, seed: int) -> dict[str, object]:
    """Tasks as `toolkit mti` reads them; every third one has three steps."""
    draw = Random(f"tasks {seed}")
    return {
        f"n{number:02}": _schema(task(draw, f"n{number:02}", instances, 3 if number % 3 == 0 else 2))
        for number in range(1, tasks + 1)
    }


def main() -> None:
    """Write a task file."""
    parser = argparse.ArgumentParser(description="Draw tasks of several instructions for toolkit mti.")
    parser.add_argument("--tasks", type=int, default=6, help="tasks, every third one of three steps (default: 6)")
    parser.add_argument("--instances", type=int, default=25, help="instances of each (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal files (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="the file, as JSON")
    options = parser.parse_args()
    made = task_file(options.tasks, options.instances, options.seed)
    options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
