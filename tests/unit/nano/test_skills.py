"""Skills with exact answers, and prompts of several instructions that `toolkit mti` reads back."""

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from pyllm.mti.parsing import read_tags
from pyllm.mti.tasks import read_tasks


def listed(context: str) -> list[str]:
    return context.partition(": ")[2].split()


@given(seed=st.integers(0, 10_000))
def test_answers_follow_from_the_question(skills: ModuleType, seed: int) -> None:
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


@given(seed=st.integers(0, 10_000))
def test_tagged_answers_close_every_tag_that_the_prompt_asks_for(skills: ModuleType, seed: int) -> None:
    prompt, answer = skills.tagged(Random(seed))
    tags = read_tags(answer)
    assert tags.spans
    assert not tags.unclosed
    assert all(f"<task{number}>" in prompt for number in tags.spans)


def test_the_script_writes_a_task_file(skills: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    command = [
        sys.executable,
        str(skills.__file__),
        "--tasks",
        "3",
        "--instances",
        "4",
        "--seed",
        "5",
        "--out",
        str(path),
    ]
    subprocess.run(command, check=True)
    tasks = read_tasks(path)
    assert [(task.id, len(task.instances), task.steps) for task in tasks] == [
        ("n01", 4, 2),
        ("n02", 4, 2),
        ("n03", 4, 3),
    ]
    assert all(task.meta is not None and len(task.meta.demo_steps) == task.steps for task in tasks)
    first = path.read_bytes()
    subprocess.run(command, check=True)
    assert path.read_bytes() == first
    assert json.loads(first)["n01"]["sample"]
