"""Dialogues over a bounded cache against the published code's run of the same ids on two small trained models.

Tolerance: kept positions are equal; entropies and logits are within 1e-4, where the published code's own numbers moved
by 2.5e-5 between versions of its libraries. The closest two scores at a cut are 6e-5 apart or exact copies.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyllm.lm.sources import find_model
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.memory import Memory
from pyllm.stream.model import StreamModel, load_stream_model
from pyllm.stream.policies import policy_of
from pyllm.stream.settings import Budget, StreamSettings

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

TOLERANCE = 1e-4
RUNS = 27
SCORES = {"as_coded": "as-published", "shift_fixed": "surprisal", None: "surprisal"}
POLICIES = {"sirllm": "sirllm", "streamllm": "streaming"}


@pytest.fixture(scope="module")
def folder(shared_dir: Path) -> Path:
    found = shared_dir / "reference" / "sirllm"
    if not found.is_dir():
        pytest.skip("needs the numbers of the published code in ../shared/reference/sirllm, which are not here")
    return found


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, StreamModel]:
    cpu = torch.device("cpu")
    return {
        name: load_stream_model(find_model(str(folder / "model" / name)), device=cpu, dtype=torch.float32)
        for name in ("mha", "gqa")
    }


def settings_of(run: dict[str, Any], *, reference: bool) -> StreamSettings:
    return StreamSettings(
        policy=POLICIES[run["method"]],
        budget=Budget(run["start_size"], run["entropy_size"], run["recent_size"]),
        score=SCORES[run["score"]],
        first_token="max",
        decay=run["decay"],
        ties="older",
        reference=reference,
    )


def close(got: Any, wanted: list[float]) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)


def dialogues(run: dict[str, Any], model: StreamModel, settings: StreamSettings) -> Iterator[tuple[Dialogue, Any]]:
    """Each turn of a run with the dialogue it belongs to: a new one where nothing was checked for room."""
    dialogue = Dialogue(model, settings)
    for turn in run["turns"]:
        if turn["num_coming"] is None:
            dialogue = Dialogue(model, settings)
        yield dialogue, turn


@pytest.mark.parametrize("reference", [False, True], ids=["lazy decay", "reference"])
@pytest.mark.parametrize("number", range(RUNS))
def test_every_eviction_is_equal(expected, models, number, reference):
    run = [run for run in expected["runs"] if run["method"] in POLICIES][number]
    evictions = 0
    for dialogue, turn in dialogues(run, models[run["model"]], settings_of(run, reference=reference)):
        trace = dialogue.read_turn(turn["fed_ids"])
        assert trace.cache_tokens_before == turn["cache_len_before"]
        assert (None if trace.kept is None else trace.kept.tolist()) == turn["kept"]
        assert trace.cache_tokens_after == turn["past_len"] + len(turn["fed_ids"])
        if turn["entropy"] is not None:
            close(trace.nats, turn["entropy"])
        close(dialogue.logits[expected["probe_vocab_ids"]], turn["probe_logits_last_position"])
        evictions += trace.kept is not None
    assert evictions == run["evictions"] > 0


def test_no_run_is_left_out(expected):
    assert sum(run["method"] in POLICIES for run in expected["runs"]) == RUNS


@pytest.mark.parametrize("run_id", ["03_gqa", "07_mha", "14_gqa", "22_mha"])
def test_a_turn_read_in_two_parts_is_the_same_turn(expected, models, run_id):
    """As a live answer is: room for all of it first, then the question, then what was answered."""
    run = next(run for run in expected["runs"] if run["run_id"].startswith(run_id))
    for dialogue, turn in dialogues(run, models[run["model"]], settings_of(run, reference=False)):
        ids, context = turn["fed_ids"], turn["context_len"]
        dialogue.begin_turn()
        dialogue.reserve(len(ids))
        dialogue.feed(ids[:context])
        close(dialogue.logits[expected["probe_vocab_ids"]], turn["probe_logits_answer_position"])
        close(dialogue.logits[turn["option_first_token_ids"]], turn["option_logits"])
        close(dialogue.logits.log_softmax(-1)[turn["option_first_token_ids"]], turn["option_logprobs"])
        dialogue.feed(ids[context:])
        trace = dialogue.trace()
        assert (None if trace.kept is None else trace.kept.tolist()) == turn["kept"]
        if turn["entropy"] is not None:
            close(trace.nats, turn["entropy"])


def test_cases_of_the_eviction_rules(folder):
    cases = json.loads((folder / "evict_cases.json").read_text())["cases"]
    seen = {"token_entropy": 0, "stream": 0}
    for case in cases:
        budget = Budget(case["start_size"], case["entropy_size"], case["recent_size"])
        coming = case["num_coming"]
        settings = StreamSettings(
            policy="sirllm" if case["policy"] == "token_entropy" else "streaming", budget=budget, reference=True
        )
        memory = Memory(settings, policy_of(settings))
        memory.append(np.array(case["entropies"] or [1.0] * case["seq_len"]))
        if case["error"]:
            # Longer than there can be room for: the published code ends here, ours reads it in parts.
            assert coming > budget.room
            assert max(memory.pieces(coming)) <= budget.room
            continue
        kept = memory.make_room(coming, lambda: np.empty(0))
        assert (kept is not None) == case["evicted"]
        assert memory.positions.tolist() == case["kept"]
        seen[case["policy"]] += 1
    assert seen == {"token_entropy": 222, "stream": 74}
