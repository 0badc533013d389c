"""Documents of single questions, and prompts of several instructions with tagged answers, for training.

A document of single questions keeps to one style of answering, and mostly to one skill, so that what came before shows
how to go on. Prompts with several instructions are those of `toolkit mti`: the same packings, layouts and
demonstrations.
"""

from random import Random

from dialogues import Exchange

from pyllm.demo.skills import MAKERS, WORD_MAKERS, Maker, task
from pyllm.mti.prompts import Prompter, PromptSettings

SENTENCES = ("The answer is {}.", "It is {}.", "Answer: {}")
STYLES = ("{}", "{}", "{}", "{}!", *SENTENCES)


def exchanges(draw: Random, count: int, short: tuple[Maker, ...] = MAKERS) -> list[Exchange]:
    """Questions and answers in one style, mostly of one skill.

    Args:
        draw: Source of chance.
        count: How many.
        short: The skills with short answers.
    """
    makers = draw.choice((short, short, WORD_MAKERS))
    style = draw.choice(STYLES if makers is short else SENTENCES)
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


def tagged(draw: Random, skills: tuple[Maker, ...] = MAKERS) -> tuple[str, str]:
    """A prompt of `toolkit mti` and what answers it, in one of its modes."""
    mode = draw.choices(("mti", "sti", "batch", "mti-batch"), (0.5, 0.25, 0.15, 0.1))[0]
    steps = 2 if mode in ("batch", "mti-batch") else draw.choice((2, 2, 3))
    made = task(draw, "t", 2, steps, skills)
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
