"""Small tasks of several instructions, as the file has them and as they are read."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyllm.mti.tasks import Task, read_tasks


def small_raw(*, instances: int, steps: int, name: str = "900", demo: bool = True) -> dict[str, Any]:
    """A task of sums: step 1 adds two numbers, later steps double what came before."""

    def instruction(step: int) -> str:
        what = "Add the numbers." if step == 1 else f"Double your answer for step #{step - 1}."
        return f"{what} Return the answer in <task{step}>N<task{step}/> format."

    def texts(a: int, b: int) -> dict[str, str]:
        return {"1_0": f"###Numbers\n{a} and {b}"} | ({"2_0": f"###Note\nnote of {a}"} if steps > 1 else {})

    def answers(a: int, b: int) -> list[int]:
        return [(a + b) * 2**step for step in range(steps)]

    instruct = {str(step): instruction(step) for step in range(1, steps + 1)}
    made = {
        f"{name}_{place}": {
            "query": "Read the following passage, and follow the given steps.",
            "instruction": instruct,
            "context": texts(100 + place, 7),
            "answers": answers(100 + place, 7),
        }
        for place in range(instances)
    }
    demo_steps = [
        f"{instruction(step)}\n\n###Numbers\n1 and 2\n\n### Answer:\n\nThat is <task{step}>{gold}<task{step}/>"
        for step, gold in enumerate(answers(1, 2), 1)
    ]
    task: dict[str, Any] = {"instance": made, "sample": "\n\n".join(demo_steps)}
    if demo:
        task["meta"] = {
            "name": "sums", "subset": "multi-step", "answer_types": ["int"] * steps, "demo_steps": demo_steps,
        }  # fmt: skip
    return task


def small_task(*, instances: int, steps: int, demo: bool = True) -> tuple[Task, dict[str, Any]]:
    """The task read, and as it stands in the file."""
    raw = small_raw(instances=instances, steps=steps, demo=demo)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.json"
        path.write_text(json.dumps({"900": raw}), encoding="utf-8")
        return read_tasks(path)[0], raw


def write_tasks(
    path: Path, *, instances: int = 3, tasks: tuple[tuple[str, int], ...] = (("900", 2), ("901", 3))
) -> Path:
    """A file of tasks, each with its number of steps."""
    raw = {name: small_raw(instances=instances, steps=steps, name=name) for name, steps in tasks}
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path
