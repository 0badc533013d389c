"""Prompts of every packing on small tasks written here."""

import re

import pytest

from pyllm.errors import SettingError
from pyllm.mti.demonstrations import gold_answer, other_instances, retagged, worked
from pyllm.mti.prompts import LookAhead, Prompter, PromptSettings
from pyllm.mti.scoring import MODES, Mode
from pyllm.mti.tasks import Task
from tests.support.mti_tasks import small_task
from tests.support.published_prompts import published_prompts

OUT = ["<task1>2<task1/>", "<task2>4<task2/>"]


def prompter(task: Task, modes: tuple[Mode, ...] = MODES, **settings: object) -> Prompter:
    return Prompter(task, PromptSettings(**settings), {}, modes)  # type: ignore[arg-type]


def calls_of(written: Prompter, mode: Mode, place: int = 0) -> list[str]:
    group = written.groups(mode, written.task.instances)[place]
    return [written.prompt(mode, group, OUT[: call - 1]) for call in range(1, written.calls(mode) + 1)]


@pytest.mark.parametrize("steps", [2, 3])
def test_reference_prompts_equal_the_second_writing(steps: int) -> None:
    task, raw = small_task(instances=4, steps=steps)
    assert task.meta is not None
    written = prompter(task)
    checked = 0
    for name, text in published_prompts(raw, list(task.meta.demo_steps), OUT):
        mode, call, uids = name.split("/")
        group = tuple(instance for instance in task.instances if instance.uid in uids.split("+"))
        assert written.prompt(mode, group, OUT[: int(call) - 1]) == text, name  # type: ignore[arg-type]
        checked += 1
    assert checked == (16 if steps == 2 else 20)


def test_the_third_batch_call_goes_on_as_the_second_does() -> None:
    task, _ = small_task(instances=2, steps=3)
    second, third = calls_of(prompter(task), "batch")[1:]
    assert third.index("### Task:") == second.index("### Task:") + len(
        f"### (3) Instruction: {task.meta.demo_steps[2]}\n\n"
    )  # type: ignore[union-attr]
    begun = second[second.index("### Task:") :]
    assert third[third.index("### Task:") :].startswith(
        f"{begun} \n\n{OUT[1]}\n\n### (3) Instruction: Read the following"
    )


def test_a_short_last_batch_is_kept() -> None:
    task, _ = small_task(instances=5, steps=2)
    written = prompter(task, batch_instances=2)
    assert [len(group) for group in written.groups("batch", task.instances)] == [2, 2, 1]
    last = calls_of(written, "batch", 2)[0]
    assert task.instances[4].contexts[0][0] in last
    assert "### Instruction 2:" not in last


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", ["batch", "mti-batch"])
def test_a_chained_batch_shows_as_many_as_it_asks(mode: Mode, k: int) -> None:
    task, _ = small_task(instances=9, steps=2)
    first = calls_of(prompter(task, layout="chained", batch_instances=k), mode)[0]
    example, asked = first.split("### Task:")
    per_call = 1 if mode == "mti-batch" else 2  # the example of a chained batch shows every step
    assert len(re.findall(r"^### Instruction \d+:", example, re.MULTILINE)) == k * per_call
    assert len(re.findall(r"^### Instruction \d+:", asked, re.MULTILINE)) == k
    # None of the shown golds belongs to an instance that is asked.
    for instance in task.instances[:k]:
        assert instance.contexts[0][0] in asked
        assert instance.contexts[0][0] not in example


@pytest.mark.parametrize("mode", ["batch", "mti-batch"])
def test_tags_of_a_batch_are_unique_and_read_where_they_were_asked_for(mode: Mode) -> None:
    task, _ = small_task(instances=6, steps=3)
    written = prompter(task, layout="chained", batch_instances=3)
    group = written.groups(mode, task.instances)[0]
    tags = []
    for call, text in enumerate(calls_of(written, mode), 1):
        readings = written.readings(mode, group, call)
        tags += [reading.tag for reading in readings]
        asked = text.split("### Task:")[1]
        if mode == "batch":
            asked = asked[asked.rindex(f"### ({call}) Instruction:") :]
        questions = re.split(r"^### Instruction \d+:", asked, flags=re.MULTILINE)[1:]
        for reading in readings:
            place = [instance.uid for instance in group].index(reading.uid)
            assert f"<task{reading.tag}>N<task{reading.tag}/>" in questions[place]
    assert sorted(tag for tag in tags if tag is not None) == list(range(1, 10))


def test_in_the_published_batch_only_the_first_step_is_renumbered() -> None:
    task, _ = small_task(instances=2, steps=2)
    written = prompter(task)
    group = written.groups("batch", task.instances)[0]
    assert [reading.tag for reading in written.readings("batch", group, 1)] == [1, 2]
    assert [reading.tag for reading in written.readings("batch", group, 2)] == [2, 2]


@pytest.mark.parametrize("mode", ["sti", "batch"])
@pytest.mark.parametrize("shots", [0, 1, 2])
@pytest.mark.parametrize("ahead", [(), ("instruction", "context")])
def test_chained_calls_extend_each_other(mode: Mode, shots: int, ahead: tuple[LookAhead, ...]) -> None:
    task, _ = small_task(instances=6, steps=3)
    calls = calls_of(prompter(task, layout="chained", shots=shots, look_ahead=ahead), mode)
    for before, after, output in zip(calls, calls[1:], OUT, strict=False):
        assert after.startswith(f"{before}\n\n{output}\n\n### (")


def test_two_published_calls_share_next_to_nothing() -> None:
    task, _ = small_task(instances=2, steps=2)
    first, second = calls_of(prompter(task), "sti")
    assert not second.startswith(first[:40])


def test_shots() -> None:
    task, _ = small_task(instances=6, steps=2)
    none = prompter(task, shots=0)
    assert all("### Example" not in text for mode in MODES for text in calls_of(none, mode))
    (three,) = calls_of(prompter(task, shots=3), "mti")
    shown = [instance for instance in task.instances if instance.contexts[0][0] in three.split("### Task:\n")[0]]
    assert len(shown) == 2
    assert task.instances[0] not in shown
    for instance in shown:
        assert f"Task #2: <task2>{instance.answers[1]}<task2/>" in three


def test_look_ahead_shows_the_second_step_in_the_first_call_alone() -> None:
    task, _ = small_task(instances=2, steps=2)
    plain, _ = calls_of(prompter(task), "sti")
    instance = task.instances[0]
    for ahead, instruction, context in (
        (("instruction",), True, False),
        (("context",), False, True),
        (("instruction", "context"), True, True),
    ):
        first, second = calls_of(prompter(task, look_ahead=ahead), "sti")
        asked = first.split("### Task:")[1]
        assert (instance.instructions[1] in asked) is instruction
        assert (instance.contexts[1][0] in asked) is context
        assert second == calls_of(prompter(task), "sti")[1]
    assert instance.instructions[1] not in plain.split("### Task:")[1]
    assert instance.contexts[1][0] not in plain


@pytest.mark.parametrize("layout", ["reference", "chained"])
@pytest.mark.parametrize("mode", MODES)
def test_a_gold_output_answers_what_is_read(mode: Mode, layout: str) -> None:
    task, _ = small_task(instances=4, steps=2)
    written = prompter(task, layout=layout)
    for group in written.groups(mode, task.instances):
        for call in range(1, written.calls(mode) + 1):
            text = written.gold_output(mode, group, call)
            for reading in written.readings(mode, group, call):
                instance = next(each for each in group if each.uid == reading.uid)
                for step in [reading.step] if reading.step else [1, 2]:
                    tag = reading.tag or step
                    assert f"<task{tag}>{instance.answers[step - 1]}<task{tag}/>" in text


def test_missing_demonstrations_are_named() -> None:
    task, _ = small_task(instances=2, steps=2, demo=False)
    with pytest.raises(SettingError, match="task `900` has no demonstration of its steps"):
        prompter(task, ("sti",))
    prompter(task, ("mti",))
    prompter(task, MODES, shots=0)
    with pytest.raises(SettingError, match="has 3 steps, and the task 2"):
        Prompter(task, PromptSettings(), {"900": ("a", "b", "c")}, ("sti",))


@pytest.mark.parametrize(
    ("text", "step", "expected"),
    [
        ("in <task2>N<task2/> format", 2, "in <task7>N<task7/> format"),
        ("as in <task1>, give <task2>N<task2/>", 2, "as in <task6>, give <task7>N<task7/>"),
        # Two published tasks ask for the tag of step 1 in step 2.
        ("in <task1>N<task1/> format", 2, "in <task7>N<task7/> format"),
        ("no tags", 1, "no tags"),
    ],
)
def test_retagged(text: str, step: int, expected: str) -> None:
    assert retagged(text, step, {1: 6, 2: 7}) == expected


def test_worked_examples_are_cut_where_the_answer_begins() -> None:
    assert worked("Q\n\n### Answer:\n\nwhy <task1>1<task1/>").question == "Q"
    assert worked("Q\n\n### Answer:\n\nwhy <task1>1<task1/>").answer == "why <task1>1<task1/>"
    assert worked("Q <task1>N<task1/> why <task1>1<task1/>.").answer == "<task1>1<task1/>"


def test_gold_answers_have_a_tag_where_one_is_asked_for() -> None:
    assert gold_answer("Return <task1>[N, N]<task1/>", [2, 3], 5) == "<task5>[2, 3]<task5/>"
    assert gold_answer("Write a title", "Home", 5) == "Home"


def test_shown_instances_are_mostly_the_same_and_never_those_asked() -> None:
    task, _ = small_task(instances=20, steps=2)
    shown = [tuple(each.uid for each in other_instances(task, (instance,), 3, seed=4)) for instance in task.instances]
    assert all(instance.uid not in uids for instance, uids in zip(task.instances, shown, strict=True))
    assert max(shown.count(uids) for uids in shown) == 17
    assert other_instances(task, task.instances, 3, seed=4) == []
