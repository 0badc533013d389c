"""Skills with exact answers, and tasks of several of them."""

import re
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pyllm.demo import skills, world
from pyllm.mti.compose.build import task_file
from pyllm.mti.tasks import read_tasks


def listed(context: str) -> list[str]:
    return context.partition(": ")[2].split()


@given(seed=st.integers(0, 10_000))
def test_answers_follow_from_the_question(seed: int) -> None:
    draw = Random(seed)
    place = skills._place(draw)
    assert listed(place.context)[place.answer - 1] == re.findall(r"stands (\w+)\?", place.instruction)[0]
    count = skills._count(draw)
    assert len(listed(count.context)) == count.answer
    there = skills._is_there(draw)
    asked = re.findall(r"Is (\w+) in", there.instruction)[0]
    assert (asked in listed(there.context)) == (there.answer == "yes")
    largest = skills._largest(draw)
    numbers = sorted(map(int, listed(largest.context)))
    assert largest.answer == (numbers[-1] if "largest" in largest.instruction else numbers[0])
    total = skills._sum(draw)
    assert sum(map(int, listed(total.context))) == total.answer
    first = skills._first(draw)
    assert first.answer == listed(first.context)[0 if "first" in first.instruction else -1]
    after = skills._between(draw)
    before = re.findall(r"follows (\w+)\?", after.instruction)[0]
    assert after.answer in [
        b for a, b in zip(listed(after.context), listed(after.context)[1:], strict=False) if a == before
    ]
    kind = skills._kind(draw)
    named = re.findall(r"\(\d\) (\w+)", kind.context)[kind.answer - 1]
    assert named in skills.KINDS[kind.instruction.rstrip("?").split()[-1]]
    larger = skills._is_larger(draw)
    first_number, second_number = map(int, listed(larger.context))
    assert (first_number > second_number) == (larger.answer == "yes")
    in_order = skills._sorted(draw)
    assert str(in_order.answer).split() == sorted(listed(in_order.context))
    written = skills._written(draw)
    names = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert names.index(written.answer) + 2 == int(listed(written.context)[0])
    shortened = skills._shortened(draw)
    assert shortened.context.split()[:-1] == shortened.answer.split()
    category = skills._category(draw)
    assert listed(category.context)[0] in skills.KINDS[category.answer]


@given(seed=st.integers(0, 10_000), skill=st.integers(0, 5))
def test_facts_are_asked_for_as_the_world_has_them(seed: int, skill: int) -> None:
    known = skills._known(skill, Random(seed))
    fact = next(fact for fact in world.facts() if fact.name == known.context.split()[-1])
    assert (fact.skill, fact.answer) == (skill, known.answer)


def test_tasks_are_those_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_bytes(task_file(skills.tasks(3, 4, 5)))
    read = read_tasks(path)
    assert [(task.id, len(task.instances), task.steps) for task in read] == [
        ("n01", 4, 2),
        ("n02", 4, 2),
        ("n03", 4, 3),
    ]
    assert list(read) == skills.tasks(3, 4, 5)
    assert list(read) != skills.tasks(3, 4, 6)
    for task in read:
        assert task.sample
        assert task.meta is not None
        assert len(task.meta.demo_steps) == task.steps
