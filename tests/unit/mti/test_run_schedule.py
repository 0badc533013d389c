"""The order of calls: each as soon as it can be, whatever order the backend answers in, and exact after a break."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyllm.data.lines import open_lines
from pyllm.errors import PrerequisiteError
from pyllm.lm.backends.contract import Completion, Done, Request
from pyllm.mti.prompts import PromptSettings
from pyllm.mti.run import Chain, RunSettings, answer_chains, make_chains
from pyllm.mti.tasks import read_tasks
from tests.support.mti_tasks import write_tasks


class Shuffling:
    """Answers in an order of its own; may fail at some prompts, or stop for good after some answers."""

    def __init__(self, seed: int, *, fails: str | None = None, stops_after: int | None = None) -> None:
        self._chance = random.Random(seed)
        self._fails, self._stops_after = fails, stops_after
        self.asked: list[str] = []
        self.most_waiting = 0

    def facts(self) -> dict[str, Any]:
        return {"backend": "shuffling"}

    def answer(self, requests: Iterable[Request], done: Done) -> None:
        waiting = list(requests)
        while waiting:
            self.most_waiting = max(self.most_waiting, len(waiting))
            if self._stops_after == len(self.asked):
                raise PrerequisiteError("gone")
            request = waiting.pop(self._chance.randrange(len(waiting)))
            self.asked.append(request.id)
            prompt = request.prompt[0].content  # type: ignore[union-attr]
            if self._fails is not None and self._fails in request.id:
                waiting += done(Completion(request.id, error="no"))
            else:
                text = f"{request.id}:{len(prompt)}"
                waiting += done(Completion(request.id, text, "stop", prompt_tokens=len(prompt), generated_tokens=1))


def chains_of(tmp_path: Path, settings: RunSettings) -> list[Chain]:
    return make_chains(read_tasks(write_tasks(tmp_path / "tasks.json", instances=5)), settings, {})


def outputs(chains: list[Chain]) -> dict[str, Any]:
    return {
        chain.call_id(call): (line["output"], line["error"], line["prompt"])
        for chain in chains
        for call, line in chain.calls.items()
    }


def test_the_order_of_answers_changes_nothing(tmp_path: Path) -> None:
    settings = RunSettings(prompts=PromptSettings(layout="chained", batch_instances=3), repeats=2)
    found = []
    for seed in range(4):
        chains = chains_of(tmp_path, settings)
        backend = Shuffling(seed)
        with open_lines(tmp_path / str(seed), {}) as lines:
            answer_chains(chains, backend, lines, settings)
        assert len(set(backend.asked)) == len(backend.asked) == sum(chain.length for chain in chains)
        assert backend.most_waiting == len(chains)  # every group at once
        found.append(outputs(chains))
    assert found[1:] == [found[0]] * 3
    for name, (_, error, prompt) in found[0].items():
        mode, repeat, call, uids = name.split("/")
        assert error is None
        if int(call) > 1:
            before = f"{mode}/{repeat}/{int(call) - 1}/{uids}"
            assert found[0][before][0] in prompt


def test_gold_sets_later_calls_free(tmp_path: Path) -> None:
    settings = RunSettings(modes=("sti", "batch"), feed_gold=True)
    chains = chains_of(tmp_path, settings)
    backend = Shuffling(1, fails="/1/")
    with open_lines(tmp_path / "lines", {}) as lines:
        answer_chains(chains, backend, lines, settings)
    assert backend.most_waiting == sum(chain.length for chain in chains)
    # A call that failed takes no other one with it.
    assert all((error is None) == ("/1/" not in name) for name, (_, error, _) in outputs(chains).items())


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_breaks_off_again_and_again_ends_as_an_unbroken_one(tmp_path: Path, seed: int) -> None:
    settings = RunSettings(prompts=PromptSettings(layout="chained"))
    whole = chains_of(tmp_path, settings)
    with open_lines(tmp_path / "whole", {}) as lines:
        answer_chains(whole, Shuffling(0), lines, settings)
    chance = random.Random(seed)
    asked: list[str] = []
    while True:
        chains = chains_of(tmp_path, settings)
        backend = Shuffling(chance.randrange(100), stops_after=chance.randrange(0, 25))
        try:
            with open_lines(tmp_path / "broken", {}) as lines:
                answer_chains(chains, backend, lines, settings)
            break
        except PrerequisiteError:
            pass
        finally:
            asked += backend.asked
        # A crash in the middle of a line.
        path = tmp_path / "broken"
        if chance.random() < 0.5 and len(path.read_bytes().splitlines()) > 2:
            asked.remove(_last_unit(path))
            path.write_bytes(path.read_bytes()[:-9])
    asked_last = sorted(asked)
    assert len(set(asked_last)) == len(asked_last) == sum(chain.length for chain in whole)
    assert outputs(chains) == outputs(whole)


def _last_unit(path: Path) -> str:
    import json

    return str(json.loads(path.read_bytes().splitlines()[-1])["unit"])


def test_what_failed_is_asked_again_and_what_needed_it_too(tmp_path: Path) -> None:
    settings = RunSettings(modes=("sti",))
    chains = chains_of(tmp_path, settings)
    first = Shuffling(0, fails="/2/901_3")
    with open_lines(tmp_path / "lines", {}) as lines:
        answer_chains(chains, first, lines, settings)
    found = outputs(chains)
    assert found["sti/0/2/901_3"][:2] == (None, "no")
    assert found["sti/0/3/901_3"] == (None, "call 2 failed: no", None)
    assert sum(error is not None for _, error, _ in found.values()) == 2
    again, chains = Shuffling(0), chains_of(tmp_path, settings)
    with open_lines(tmp_path / "lines", {}) as lines:
        answer_chains(chains, again, lines, settings)
    assert again.asked == ["sti/0/2/901_3", "sti/0/3/901_3"]
    assert all(error is None for _, error, _ in outputs(chains).values())
