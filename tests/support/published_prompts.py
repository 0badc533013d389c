"""The published prompts a second time, straight from the formulas of the method notes and the raw JSON.

Written apart from `pyllm.mti.prompts` and sharing nothing with it: whoever changes one must find out from the other.
"""

from collections.abc import Iterator
from typing import Any

Sheet = dict[str, Any]


def all_steps(instance: Sheet) -> str:
    numbers = sorted(instance["instruction"], key=int)
    listed = "\n".join("#" + number + ": " + instance["instruction"][number] for number in numbers)
    shown = [text for number in numbers for key, text in instance["context"].items() if key.split("_")[0] == number]
    return instance["query"] + "\n" + listed + "\n\n" + "\n".join(shown)


def one_step(instance: Sheet, number: int) -> str:
    shown = [text for key, text in instance["context"].items() if key.startswith(f"{number}_")]
    return instance["instruction"][str(number)] + "\n\n" + "\n".join(shown)


def first_frame(demonstration: str, question: str) -> str:
    return (
        "### Example:\n\n### Instruction: "
        + demonstration
        + "\n\n### Task:\n\n### Instruction: "
        + question
        + "\n\n### Answer:\n\n"
    )


def second_frame(s1: str, s2: str, q1: str, g1: str, q2: str) -> str:
    return (
        "### Example:\n\n### (1) Instruction: " + s1 + "\n\n### (2) Instruction: " + s2
        + "\n\n### Task:\n\n### (1) Instruction: " + q1 + "\n\n### Answer:\n\n" + g1
        + "\n\n### (2) Instruction: " + q2 + "\n\n### Answer:"
    )  # fmt: skip


def third_frame(steps: list[str], questions: list[str], g1: str, g2: str) -> str:
    q1, q2, q3 = questions
    return (
        "### Example:\n\n### (1) Instruction: " + steps[0] + "\n\n### (2) Instruction: " + steps[1]
        + "\n\n### (3) Instruction: " + steps[2]
        + "\n\n### Task:\n\n### (1) Instruction: " + q1 + "\n\n### Answer:\n\n" + g1
        + "\n\n### (2) Instruction: " + q2 + "\n\n### Answer: \n\n" + g2
        + "\n\n### (3) Instruction: " + q3 + "\n\n### Answer:"
    )  # fmt: skip


def pair(first: str, second: str) -> str:
    return (
        "Read the following passage, and solve both of the instructions provided.\n### Instruction 1: "
        + first
        + "\n\n### Instruction 2: "
        + second.replace("<task1>", "<task2>").replace("<task1/>", "<task2/>")
    )


def published_prompts(task: Sheet, steps: list[str], outputs: list[str]) -> Iterator[tuple[str, str]]:
    """Every prompt that the published code makes of a task, under `mode/call/uids`.

    Args:
        task: As the file has it.
        steps: The workbook's texts.
        outputs: What stands in for the output of call 1 and call 2.
    """
    items = list(task["instance"].items())
    for uid, instance in items:
        questions = [one_step(instance, number) for number in range(1, len(instance["instruction"]) + 1)]
        yield f"mti/1/{uid}", first_frame(task["sample"], all_steps(instance))
        yield f"sti/1/{uid}", first_frame(task["sample"], questions[0])
        yield f"sti/2/{uid}", second_frame(steps[0], steps[1], questions[0], outputs[0], questions[1])
        if len(questions) == 3:
            yield f"sti/3/{uid}", third_frame(steps, questions, outputs[0], outputs[1])
    for (left, a), (right, b) in zip(items[::2], items[1::2], strict=False):
        first, second = (pair(one_step(a, number), one_step(b, number)) for number in (1, 2))
        yield (
            f"batch/1/{left}+{right}",
            "### Example:\n\n### Instruction: " + steps[0] + "\n\n### Task:\n\n" + first + "\n\n### Answer:\n\n",
        )
        yield f"batch/2/{left}+{right}", second_frame(steps[0], steps[1], first, outputs[0], second)
