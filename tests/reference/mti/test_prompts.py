"""Reference prompts are the published ones, byte for byte, on all 25 real tasks."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyllm.mti.demonstrations import read_demonstrations
from pyllm.mti.prompts import Prompter, PromptSettings
from pyllm.mti.scoring import Mode
from pyllm.mti.tasks import Task, read_tasks
from pyllm.provenance import sha256_hex
from tests.support.published_prompts import published_prompts

OUTPUTS = ["I compare them all.\nAnswer: <task1>(2)-(1)<task1/>\n", " So it is <task2>3<task2/> "]
DIGESTS = Path(__file__).parent / "prompt_sha256.json"


def ours(task: Task, given: dict[str, tuple[str, ...]]) -> dict[str, str]:
    modes: tuple[Mode, ...] = ("mti", "sti", "batch")
    prompter = Prompter(task, PromptSettings(), given, modes)
    made = {}
    for mode in modes:
        for group in prompter.groups(mode, task.instances):
            uids = "+".join(instance.uid for instance in group)
            for call in range(1, prompter.calls(mode) + 1):
                made[f"{mode}/{call}/{uids}"] = prompter.prompt(mode, group, OUTPUTS[: call - 1])
    return made


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> tuple[dict[str, Any], Path, Path]:
    """The real sample as plain JSON, and where it and the workbook's texts are."""
    folder = shared_dir / "data" / "mti" / "real"
    if not folder.is_dir():
        pytest.skip("needs the real MTI-Bench sample in ../shared, which is not here")
    tasks, steps = folder / "mti_bench_sample.json", folder / "cot_breakdown.json"
    return json.loads(tasks.read_bytes()), tasks, steps


def test_prompts_equal_a_second_writing_of_the_published_formulas(real: tuple[dict[str, Any], Path, Path]) -> None:
    raw, tasks, steps = real
    given = read_demonstrations(steps)
    read = read_tasks(tasks)
    assert len(read) == 25
    kinds: dict[str, int] = {}
    for task in read:
        written = ours(task, given)
        for name, text in published_prompts(raw[task.id], list(given[task.id]), OUTPUTS):
            assert written[name] == text, name
            kind = name.rsplit("/", 1)[0]
            kinds[kind] = kinds.get(kind, 0) + 1
    # 209 instances of 25 tasks, five of which have three steps; each task gives half its instances as pairs.
    pairs = sum(len(task.instances) // 2 for task in read)
    three = sum(len(task.instances) for task in read if task.steps == 3)
    assert kinds == {"mti/1": 209, "sti/1": 209, "sti/2": 209, "sti/3": three, "batch/1": pairs, "batch/2": pairs}


def test_prompts_have_the_recorded_digests(real: tuple[dict[str, Any], Path, Path]) -> None:
    _, tasks, steps = real
    given = read_demonstrations(steps)
    recorded = json.loads(DIGESTS.read_bytes())
    found = {}
    for task in read_tasks(tasks):
        found |= {name: sha256_hex(text) for name, text in ours(task, given).items() if name in recorded}
    assert found == recorded
