"""The same instances in every packing: what stands in the one user message of each call.

Four modes: `mti` asks all steps of an instance at once, `sti` a step at a time with the earlier answers before it,
`batch` one step of several instances at once, `mti-batch` all steps of several instances at once. Two layouts: in
`reference`, texts are those of the published code, byte for byte (`docs/methods/mti.md`), flaws included; in
`chained`, call k is call k-1 and more, so that what was read once need not be read again, and every (instance, step) of
a batch has a tag of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pyllm.errors import SettingError
from pyllm.mti.demonstrations import (
    Demonstrations,
    Worked,
    demonstrations_of,
    gold_answer,
    other_instances,
    retagged,
    worked,
)
from pyllm.mti.scoring import Mode
from pyllm.mti.tasks import Instance, Task

Layout = Literal["reference", "chained"]
LookAhead = Literal["instruction", "context"]

_PASSAGE = "Read the following passage, and solve "
_EXAMPLE = "### Example:\n\n"
_TASK = "### Task:\n\n"
_ANSWER = "\n\n### Answer:"
_lines = "\n".join
_paragraphs = "\n\n".join


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How instances become prompts.

    Args:
        layout: `reference` or `chained`.
        shots: Demonstrations: 0, or 1 with reasoning and the rest as instances with their golds.
        batch_instances: Instances of a batch; the last one may have fewer.
        look_ahead: What of the second step the first call shows too.
        seed: Of the choice of instances that are shown with their golds.

    Raises:
        SettingError: A value is out of its range.
    """

    layout: Layout = "reference"
    shots: int = 1
    batch_instances: int = 2
    look_ahead: tuple[LookAhead, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise SettingError(f"shots is {self.shots}: it must be 0 or more")
        if self.batch_instances < 1:
            raise SettingError(f"batch instances is {self.batch_instances}: it must be 1 or more")

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "layout": self.layout,
            "shots": self.shots,
            "batch_instances": self.batch_instances,
            "look_ahead": sorted(self.look_ahead),
            "seed": self.seed,
        }


def read_look_ahead(names: Sequence[str]) -> tuple[LookAhead, ...]:
    """What is shown ahead of time, by its names.

    Raises:
        SettingError: There is no such part.
    """
    known: tuple[LookAhead, ...] = get_args(LookAhead)
    for name in names:
        if name not in known:
            raise SettingError(f"look-ahead `{name}` is unknown", hint="use instruction, context or both")
    return tuple(part for part in known if part in names)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be read from the output of a call.

    Args:
        uid: Whose answer.
        step: To which step; None when the output answers all of them.
        tag: The tag's number; None when it is the step.
    """

    uid: str
    step: int | None
    tag: int | None


class Prompter:
    """Writes the prompts of a task.

    Args:
        task: The task.
        settings: How.
        given: Demonstrations of steps by task, from a file of their own.
        modes: Those that will be asked for; demonstrations that they need must be there.

    Raises:
        SettingError: Demonstrations are missing or have another number of steps.
    """

    def __init__(
        self, task: Task, settings: PromptSettings, given: Mapping[str, Sequence[str]], modes: Sequence[Mode]
    ) -> None:
        self.task = task
        self._settings = settings
        self._chained = settings.layout == "chained"
        shown = demonstrations_of(task, given) if settings.shots else Demonstrations(None, ())
        self._whole, self._steps = shown.whole or "", shown.steps
        if settings.shots:
            if self._whole == "" and set(modes) & {"mti", "mti-batch", "sti"}:
                raise _missing(task, "demonstration")
            if not self._steps and set(modes) & {"sti", "batch"}:
                raise _missing(task, "demonstration of its steps")

    def groups(self, mode: Mode, instances: Sequence[Instance]) -> list[tuple[Instance, ...]]:
        """Instances that share calls, in their order; a short last group is kept."""
        size = self._settings.batch_instances if mode in ("batch", "mti-batch") else 1
        return [tuple(instances[start : start + size]) for start in range(0, len(instances), size)]

    def calls(self, mode: Mode) -> int:
        """How many calls a group takes."""
        return 1 if mode in ("mti", "mti-batch") else self.task.steps

    def prompt(self, mode: Mode, group: Sequence[Instance], outputs: Sequence[str]) -> str:
        """The text of a group's next call.

        Args:
            mode: The mode.
            group: Instances that share the call.
            outputs: What the calls before it gave, verbatim.
        """
        write: dict[Mode, Callable[[Sequence[Instance], Sequence[str]], str]] = {
            "mti": self._mti,
            "sti": self._sti,
            "batch": self._batch,
            "mti-batch": self._mti_batch,
        }
        return write[mode](group, outputs)

    def readings(self, mode: Mode, group: Sequence[Instance], call: int) -> list[Reading]:
        """What the output of a call answers; calls count from 1."""
        if mode == "mti":
            return [Reading(group[0].uid, None, None)]
        if mode == "sti":
            return [Reading(group[0].uid, call, None)]
        if mode == "batch":
            return [
                Reading(instance.uid, call, self._batch_tag(call, place, len(group)))
                for place, instance in enumerate(group)
            ]
        return [
            Reading(instance.uid, step, place * self.task.steps + step)
            for place, instance in enumerate(group)
            for step in range(1, self.task.steps + 1)
        ]

    def gold_output(self, mode: Mode, group: Sequence[Instance], call: int) -> str:
        """What a call would give if all was right."""
        lines = []
        for reading in self.readings(mode, group, call):
            instance = next(each for each in group if each.uid == reading.uid)
            for step in (reading.step,) if reading.step is not None else range(1, instance.steps + 1):
                tag = reading.tag if reading.tag is not None else step
                lines.append(gold_answer(instance.instructions[step - 1], instance.answers[step - 1], tag))
        return "\n".join(lines)

    # One instance.

    def _mti(self, group: Sequence[Instance], _outputs: Sequence[str]) -> str:
        (instance,) = group
        return f"{self._demonstrated(group)}### Instruction: {_full(instance)}{_ANSWER}\n\n"

    def _sti(self, group: Sequence[Instance], outputs: Sequence[str]) -> str:
        (instance,) = group
        questions = [_step(instance, step) for step in range(1, instance.steps + 1)]
        ahead = self._first_question(instance)
        if self._chained:
            return self._grown([ahead, *questions[1:]], outputs, self._step_demonstrations(group))
        if not outputs:
            return f"{self._demonstrated(group)}### Instruction: {ahead}{_ANSWER}\n\n"
        return self._published(questions, outputs, self._step_demonstrations(group))

    def _demonstrated(self, group: Sequence[Instance]) -> str:
        """The example of all steps, up to where the task begins."""
        if not self._settings.shots:
            return _TASK
        shown = [f"### Instruction: {self._whole}"]
        for other in other_instances(self.task, group, self._settings.shots - 1, self._settings.seed):
            answers = _paragraphs(
                f"Task #{step}: {gold_answer(other.instructions[step - 1], gold, step)}"
                for step, gold in enumerate(other.answers, 1)
            )
            shown.append(f"### Instruction: {_full(other)}{_ANSWER}\n\n{answers}")
        return f"{_EXAMPLE}{_paragraphs(shown)}\n\n{_TASK}"

    def _step_demonstrations(self, group: Sequence[Instance]) -> list[str]:
        """The example of each step."""
        if not self._settings.shots:
            return []
        others = other_instances(self.task, group, self._settings.shots - 1, self._settings.seed)
        shown = []
        for step, text in enumerate(self._steps, 1):
            rest = [
                f"{_step(other, step)}{_ANSWER}\n\n"
                f"{gold_answer(other.instructions[step - 1], other.answers[step - 1], step)}"
                for other in others
            ]
            shown.append(_paragraphs([text, *(f"### ({step}) Instruction: {each}" for each in rest)]))
        return shown

    def _first_question(self, instance: Instance) -> str:
        """The question of step 1, with what is shown of step 2 ahead of time."""
        ahead = self._settings.look_ahead
        if not ahead or instance.steps < 2:
            return _step(instance, 1)
        instruction = instance.instructions[0]
        if "instruction" in ahead:
            instruction += f"\nThe next step will be: {instance.instructions[1]}"
        contexts = instance.contexts[0] + (instance.contexts[1] if "context" in ahead else ())
        return f"{instruction}\n\n{_lines(contexts)}"

    # Frames of several calls.

    def _published(self, questions: Sequence[str], outputs: Sequence[str], shown: Sequence[str]) -> str:
        """Calls 2 and 3 of the published code: everything so far, in a frame of its own."""
        call = len(outputs) + 1
        example = _paragraphs(f"### ({step}) Instruction: {text}" for step, text in enumerate(shown[:call], 1))
        text = f"{_EXAMPLE}{example}\n\n{_TASK}" if shown else _TASK
        for step, (question, output) in enumerate(zip(questions, outputs, strict=False), 1):
            # The published text has a space behind the second `Answer:` and none behind the first.
            space = "" if step == 1 else " "
            text += f"### ({step}) Instruction: {question}{_ANSWER}{space}\n\n{output}\n\n"
        return f"{text}### ({call}) Instruction: {questions[call - 1]}{_ANSWER}"

    def _grown(self, questions: Sequence[str], outputs: Sequence[str], shown: Sequence[str]) -> str:
        """A text that every call goes on with."""
        example = "".join(f"### ({step}) Instruction: {text}\n\n" for step, text in enumerate(shown, 1))
        text = f"{_EXAMPLE}{example}{_TASK}" if shown else _TASK
        for step, (question, output) in enumerate(zip(questions, outputs, strict=False), 1):
            text += f"### ({step}) Instruction: {question}{_ANSWER}\n\n{output}\n\n"
        call = len(outputs) + 1
        return f"{text}### ({call}) Instruction: {questions[call - 1]}{_ANSWER}"

    # Several instances.

    def _batch(self, group: Sequence[Instance], outputs: Sequence[str]) -> str:
        steps = range(1, self.task.steps + 1)
        if self._chained:
            questions = [
                self._pack([self._own_tags(group, place, step) for place in range(len(group))]) for step in steps
            ]
            return self._grown(questions, outputs, self._batch_demonstrations(group))
        first = [self._first_question(each) for each in group]
        questions = [self._pack(_published_tags([_step(each, step) for each in group])) for step in steps]
        if not outputs:
            shown = self._step_demonstrations(group)
            example = f"{_EXAMPLE}### Instruction: {shown[0]}\n\n" if shown else ""
            return f"{example}{_TASK}{self._pack(_published_tags(first))}{_ANSWER}\n\n"
        return self._published(questions, outputs, self._step_demonstrations(group))

    def _mti_batch(self, group: Sequence[Instance], _outputs: Sequence[str]) -> str:
        questions = [_full(instance, self._all_tags(place)) for place, instance in enumerate(group)]
        return f"{self._mti_batch_demonstration(group)}{self._pack(questions)}{_ANSWER}\n\n"

    def _own_tags(self, group: Sequence[Instance], place: int, step: int) -> str:
        """A question of a chained batch, with the tag of its (instance, step)."""
        instance = group[place]
        question = self._first_question(instance) if step == 1 else _step(instance, step)
        return retagged(question, step, self._tags(place, len(group)))

    def _tags(self, place: int, size: int) -> dict[int, int]:
        return {step: self._batch_tag(step, place, size) for step in range(1, self.task.steps + 1)}

    def _batch_tag(self, step: int, place: int, size: int) -> int:
        if self._chained:
            return (step - 1) * size + place + 1
        # The published code renumbers the first step only: later ones ask for the same tag everywhere.
        return place + 1 if step == 1 else step

    def _all_tags(self, place: int) -> dict[int, int]:
        return {step: place * self.task.steps + step for step in range(1, self.task.steps + 1)}

    def _batch_demonstrations(self, group: Sequence[Instance]) -> list[str]:
        """The example of each step: as many questions as the batch has, then their answers."""
        if not self._settings.shots:
            return []
        size = len(group)
        others = other_instances(self.task, group, size - 1, self._settings.seed)
        shown = []
        for step, text in enumerate(self._steps, 1):
            first = worked(text)
            rest = [
                Worked(_step(each, step), gold_answer(each.instructions[step - 1], each.answers[step - 1], step))
                for each in others
            ]
            # Where the file has too few instances that are not asked, the worked example stands in.
            parts = [first, *rest, *([first] * (size - 1 - len(rest)))]
            tagged = [self._tags(place, size) for place in range(size)]
            questions = [retagged(part.question, step, tags) for part, tags in zip(parts, tagged, strict=True)]
            answers = [retagged(part.answer, step, tags) for part, tags in zip(parts, tagged, strict=True)]
            shown.append(f"{self._pack(questions)}{_ANSWER}\n\n{_paragraphs(answers)}")
        return shown

    def _mti_batch_demonstration(self, group: Sequence[Instance]) -> str:
        if not self._settings.shots:
            return _TASK
        size = len(group)
        first = worked(self._whole)
        others = other_instances(self.task, group, size - 1, self._settings.seed)
        questions, answers = [first.question], [first.answer]
        for place in range(1, size):
            tags = self._all_tags(place)
            if place <= len(others):
                other = others[place - 1]
                questions.append(_full(other, tags))
                golds = zip(other.instructions, other.answers, tags.values(), strict=True)
                answers.append(_paragraphs(f"Task #{tag}: {gold_answer(text, gold, tag)}" for text, gold, tag in golds))
            else:
                questions.append(retagged(first.question, 1, tags))
                answers.append(retagged(first.answer, 1, tags))
        return f"{_EXAMPLE}{self._pack(questions)}{_ANSWER}\n\n{_paragraphs(answers)}\n\n{_TASK}"

    def _pack(self, questions: Sequence[str]) -> str:
        number = {1: "the instruction", 2: "both of the instructions"}.get(len(questions), "all of the instructions")
        numbered = _paragraphs(f"### Instruction {place}: {text}" for place, text in enumerate(questions, 1))
        return f"{_PASSAGE}{number} provided.\n{numbered}"


def _missing(task: Task, what: str) -> SettingError:
    return SettingError(
        f"task `{task.id}` has no {what}",
        hint="give a file of them with --demonstrations, or use --shots 0",
    )


def _full(instance: Instance, tags: Mapping[int, int] | None = None) -> str:
    """All steps of an instance in one text."""
    instructions = [
        f"#{step}: {text if tags is None else retagged(text, step, tags)}"
        for step, text in enumerate(instance.instructions, 1)
    ]
    contexts = [context for of_step in instance.contexts for context in of_step]
    return f"{instance.query}\n{_lines(instructions)}\n\n{_lines(contexts)}"


def _step(instance: Instance, step: int) -> str:
    """One step of an instance."""
    return f"{instance.instructions[step - 1]}\n\n{_lines(instance.contexts[step - 1])}"


def _published_tags(questions: Sequence[str]) -> list[str]:
    """Questions of a batch as the published code renumbers them: tag 1 alone, and only behind the first question."""
    return [
        question.replace("<task1>", f"<task{place}>").replace("<task1/>", f"<task{place}/>")
        for place, question in enumerate(questions, 1)
    ]
