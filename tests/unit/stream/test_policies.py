"""Each policy on tokens whose answer is plain to see."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyllm.errors import SettingError
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.memory import Memory
from pyllm.stream.policies import POLICY_NAMES, policy_of
from pyllm.stream.settings import PRESETS, Budget, StreamSettings
from pyllm.stream.watching import watching
from tests.support.stream_models import STREAM_CONFIGS, model_of, streaming


def kept(policy: str, count: int, coming: int, budget: Budget, *, scores=None, attention=None, similarity=None, **more):
    """Positions that stay of `count` tokens in a cache."""
    settings = StreamSettings(policy=policy, budget=budget, **more)
    memory = Memory(settings, policy_of(settings))
    memory.append(np.array(scores if scores is not None else np.zeros(count), float))
    if attention is not None:
        memory.observe(np.array(attention, float))
    memory.make_room(coming, lambda: np.array(similarity, float))
    return memory.positions.tolist()


def test_window_and_streaming():
    assert kept("window", 10, 3, Budget(2, 4, 4)) == [3, 4, 5, 6, 7, 8, 9]
    assert kept("streaming", 10, 3, Budget(2, 4, 4)) == [0, 1, 5, 6, 7, 8, 9]
    assert kept("full", 10, 30, Budget(2, 4, 4)) == list(range(10))
    # A turn longer than the room: the published code keeps the sinks alone and overflows.
    assert kept("streaming", 10, 9, Budget(2, 0, 8), reference=True) == [0, 1]


def test_sirllm_pays_a_turn_from_the_entropy_tokens():
    scores = [9, 0, 5, 1, 1, 7, 1, 1, 0, 0]
    # 6 - 3 = 3 highest (0, 5 and 2), the sinks, and the newest until 7 are kept
    assert kept("sirllm", 10, 3, Budget(2, 6, 2), scores=scores) == [0, 1, 2, 5, 7, 8, 9]
    assert kept("sirllm", 10, 8, Budget(2, 6, 2), scores=scores) == [0, 1]


def test_ties_go_to_the_newer_or_the_older():
    scores = [0, 3, 3, 3, 3, 0, 0, 0]
    assert kept("sirllm", 8, 2, Budget(0, 5, 2), scores=scores) == [2, 3, 4, 6, 7]
    assert kept("sirllm", 8, 2, Budget(0, 5, 2), scores=scores, ties="older") == [1, 2, 3, 6, 7]
    assert kept("sirllm", 8, 2, Budget(0, 5, 2), scores=scores, reference=True) == [1, 2, 3, 6, 7]


def test_spans_take_neighbours_along_and_the_source_goes_first():
    scores = [0, 0, 0, 9, 1, 2, 3, 0, 0, 0, 0, 0]
    budget = Budget(0, 4, 4)
    assert kept("sirllm", 12, 1, budget, scores=scores)[:3] == [3, 5, 6]
    assert kept("sirllm", 12, 1, budget, scores=scores, span_after=3) == [3, 5, 6, 8, 9, 10, 11]
    assert kept("sirllm", 12, 1, budget, scores=scores, span_after=1) == [3, 4, 6, 8, 9, 10, 11]
    assert kept("sirllm", 12, 1, budget, scores=scores, span_before=2, ties="older") == [1, 2, 3, 8, 9, 10, 11]


def test_an_evicted_source_still_counts():
    settings = StreamSettings(budget=Budget(0, 4, 0), span_after=2)
    memory = Memory(settings, policy_of(settings))
    memory.append(np.array([0.0, 0.0, 9.0, 5.0]))
    # 2 and 3 have the score 9 and 2 goes first, so the source alone stays; then it is forgotten.
    memory.make_room(3, lambda: np.empty(0))
    assert memory.positions.tolist() == [2]
    memory.append(np.array([1.0, 0.0, 6.0]))
    memory.forget(np.array([1, 2, 3]))
    memory.append(np.array([0.0]))
    memory.make_room(3, lambda: np.empty(0))
    # Token 4 stands two behind the forgotten source: 9 beats the 6 of token 6.
    assert memory.positions.tolist() == [4]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.0])
def test_evicted_sources_fade_like_all_others(decay, reference):
    """Before the first eviction no source has a score; after it, the evicted one's has to fade."""
    settings = StreamSettings(budget=Budget(0, 4, 0), decay=decay, span_after=3, reference=reference, ties="newer")
    memory = Memory(settings, policy_of(settings))
    memory.append(np.array([0.0, 0.0]))
    memory.decay()
    memory.append(np.array([8.0, 7.0]))
    memory.make_room(3, lambda: np.empty(0))
    assert memory.positions.tolist() == [2]
    memory.decay()
    memory.append(np.array([1.0, 0.0, 3.0]))
    memory.forget(np.array([1, 2, 3]))
    memory.append(np.array([0.0]))
    # 8 faded to 4 is still more than 3, faded to nothing it is not; token 7 is out of its reach.
    memory.make_room(3, lambda: np.empty(0))
    assert memory.positions.tolist() == ([6] if decay == 0.0 else [4])


def test_random_is_uniform_without_sinks_and_new_at_each_eviction():
    budget = Budget(4, 20, 0)
    stays = [kept("random", 40, 4, budget, seed=seed) for seed in range(400)]
    assert all(each[:4] == [0, 1, 2, 3] and len(each) == 20 for each in stays)
    shares = np.bincount(np.concatenate(stays), minlength=40)[4:] / 400
    # 16 of 36 are drawn; a share of 400 draws is within 0.1 of it with four standard deviations.
    np.testing.assert_allclose(shares, 16 / 36, atol=0.1)
    assert kept("random", 40, 4, budget, seed=3) == stays[3]
    settings = StreamSettings(policy="random", budget=budget)
    memory = Memory(settings, policy_of(settings))
    memory.append(np.zeros(24))
    memory.make_room(4, lambda: np.empty(0))
    first = memory.positions.tolist()
    memory.positions = np.arange(20)
    memory.append(np.zeros(4))
    memory.make_room(4, lambda: np.empty(0))
    assert memory.positions.tolist() != first


def test_interval_is_even():
    assert kept("interval", 22, 4, Budget(2, 9, 0)) == [0, 1, 2, 6, 10, 14, 18]
    assert kept("interval", 22, 4, Budget(2, 9, 3)) == [0, 1, 2, 5, 8, 12, 15, 19, 20, 21]


def test_interval_taken_literally_freezes_the_oldest():
    # 20 tokens beside the sinks are less than twice the cache of 11: every one counts, from the oldest on.
    assert kept("interval-literal", 22, 4, Budget(2, 9, 0)) == [0, 1, 2, 3, 4, 5, 6]
    assert kept("interval-literal", 22, 4, Budget(2, 9, 3)) == [0, 1, 2, 3, 4, 5, 6, 19, 20, 21]
    assert kept("interval-literal", 30, 4, Budget(2, 9, 0)) == [0, 1, 2, 4, 6, 8, 10]


def test_attention_peers():
    #            0  1  2  3  4  5  6  7
    rows = [[8, 0, 0, 5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 6, 0], [0, 3, 2, 0, 0, 0, 0, 0]]
    budget = Budget(0, 4, 1)
    assert kept("h2o", 8, 2, budget, attention=rows) == [0, 6, 7]
    assert kept("tova", 8, 2, budget, attention=rows) == [1, 2, 7]
    # Means over five neighbours, nothing beyond the ends: 13, 16, 19, 11, 14, 11, 6, 6 (of fifteen).
    assert kept("snapkv", 8, 2, budget, attention=rows) == [1, 2, 7]
    assert kept("keydiff", 8, 2, budget, similarity=[1, 1, 0.2, 1, 0.4, 1, 1, 1]) == [2, 4, 7]


def test_only_the_last_queries_are_remembered():
    settings = StreamSettings(policy="h2o", budget=Budget(0, 4, 1))
    memory = Memory(settings, policy_of(settings))
    for turn in range(3):
        memory.append(np.zeros(20))
        memory.observe(np.full((20, 20 * (turn + 1)), 1.0))
    assert memory.attention.window.shape == (32, 60)
    assert memory.attention.window[0].tolist() == [1.0] * 40 + [0.0] * 20
    assert memory.attention.total.tolist() == [60.0] * 20 + [40.0] * 20 + [20.0] * 20


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_both", "gpt_neox", "cohere", "qwen3"])
def test_what_is_watched_is_the_models_attention(kind):
    model = streaming(kind)
    ids = torch.randint(3, 320, (24,), generator=torch.Generator().manual_seed(0))
    eager = model_of(STREAM_CONFIGS[kind])
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        output = eager(ids[None], output_attentions=True, use_cache=False)
    seen_layers = [
        weights[0].mean(0)
        for weights, layer in zip(output.attentions, model.model.get_decoder().layers, strict=True)
        if not getattr(getattr(layer, "self_attn", None), "is_sliding", False)
    ]
    dialogue = Dialogue(model, StreamSettings(policy="h2o"))
    with watching(24) as seen:
        logits = model.read(ids, dialogue.cache)
    torch.testing.assert_close(seen.rows()[0], torch.stack(seen_layers).mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, output.logits[0], rtol=0, atol=1e-4)
    dialogue.cache.reset()
    dialogue.begin_turn()
    dialogue.feed(ids[:10].tolist())
    dialogue.feed(ids[10:].tolist())
    np.testing.assert_allclose(
        dialogue.memory.attention.total, torch.stack(seen_layers).mean(0).sum(0), rtol=0, atol=1e-5
    )


def test_key_similarity_is_that_of_every_layer_and_head():
    model = streaming("qwen3")
    dialogue = Dialogue(model, StreamSettings(policy="keydiff"))
    dialogue.read_turn(list(range(5, 25)))
    expected = []
    for keys in dialogue.cache.keys_of_layers():
        for head in keys[0].double().numpy():
            directions = head / np.linalg.norm(head, axis=1, keepdims=True)
            mean = directions.mean(0)
            expected.append(directions @ mean / np.linalg.norm(mean))
    np.testing.assert_allclose(dialogue._key_similarity(), np.mean(expected, axis=0), atol=1e-6)


OWN = """
import numpy as np

class Oldest:
    def keep(self, tokens):
        return np.arange(tokens.room)

class TooMany:
    def keep(self, tokens):
        return np.arange(len(tokens.positions))

class Twice:
    def keep(self, tokens):
        return np.zeros(2, int)

class Words:
    def keep(self, tokens):
        return ["a"]

class NeedsMore:
    def __init__(self, what):
        pass
    def keep(self, tokens):
        return []

made = Oldest()
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_policies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_policies", None)


@pytest.mark.usefixtures("own")
def test_a_policy_of_ones_own():
    assert kept("own_policies:Oldest", 10, 3, Budget(2, 4, 4)) == list(range(7))
    assert kept("own_policies:made", 10, 3, Budget(2, 4, 4)) == list(range(7))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newest", "policy `newest` is unknown"),
        ("nowhere.at_all:Policy", "policy `nowhere.at_all:Policy` cannot be imported: No module named 'nowhere'"),
        ("own_policies:missing", "policy `own_policies:missing` cannot be imported"),
        (":x", "policy `:x` cannot be imported"),
        ("own_policies:number", "policy `own_policies:number` has no method `keep`"),
        ("own_policies:NeedsMore", "policy `own_policies:NeedsMore` cannot be made without arguments"),
        ("own_policies:TooMany", "policy `own_policies:TooMany` keeps 10 tokens where 7 may stay"),
        ("own_policies:Twice", "policy `own_policies:Twice` gave places that are not ascending from 0 to 10"),
        ("own_policies:Words", "policy `own_policies:Words` gave no list of places"),
    ],
)
def test_a_wrong_policy_is_named(name, message):
    with pytest.raises(SettingError) as caught:
        kept(name, 10, 3, Budget(2, 4, 4))
    assert caught.value.message.startswith(message)


def test_the_papers_settings():
    assert {name: (each.budget.tokens, each.budget.sinks, each.budget.recent) for name, each in PRESETS.items()} == {
        "paper-grocery": (1024, 4, 0),
        "paper-dailydialog": (512, 4, 0),
        "paper-rps": (1024, 4, 0),
    }
    assert [each.decay for each in PRESETS.values()] == [1.0, 0.7, 0.9]
    assert len(POLICY_NAMES) == 11


# Another rule within a dialogue


def memory_of(settings):
    return Memory(settings, policy_of(settings))


def switched(memory, **changes):
    settings = replace(memory.settings, **changes)
    memory.switch(settings, policy_of(settings))


@pytest.mark.parametrize(("after", "before"), [(3, 0), (0, 2), (4, 5), (200, 1)])
@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_spans_that_begin_within_a_dialogue(after, before, ratio):
    """While nothing has gone, they are the spans that were there from the beginning."""
    random = np.random.default_rng(after + before)
    plain = StreamSettings(budget=Budget(2, 30, 6), decay=ratio)
    one, other = memory_of(replace(plain, span_after=after, span_before=before)), memory_of(plain)
    for turn in range(12):
        if turn == 3:
            switched(other, span_after=after, span_before=before)
        scores = random.exponential(2.0, int(random.integers(1, 12) if turn > 2 else 10))
        for memory in (one, other):
            memory.begin_turn()
            memory.make_room(len(scores), lambda: np.empty(0))
            memory.decay()
            memory.append(scores)
        assert one.positions.tolist() == other.positions.tolist()
    assert one.evictions > 3
    switched(other, span_after=0, span_before=0)
    assert not other.sources.widens


def test_what_is_gone_takes_nothing_along_once_spans_begin():
    memory = memory_of(StreamSettings(budget=Budget(0, 6, 0)))
    memory.append(np.array([0.0, 9.0, 1.0, 2.0, 3.0, 4.0]))
    memory.forget(np.array([0, 2, 3, 4, 5]))
    switched(memory, span_after=2)
    memory.make_room(4, lambda: np.empty(0))
    # The forgotten 9 would have kept token 2; now 4 and 3 are the highest.
    assert memory.positions.tolist() == [4, 5]


def test_another_policy_keeps_what_is_held_and_takes_over():
    memory = memory_of(StreamSettings(budget=Budget(1, 6, 1), policy="sirllm"))
    memory.append(np.array([0.0, 9, 8, 0, 0, 7, 0, 0]))
    switched(memory, policy="h2o")
    assert memory.positions.tolist() == list(range(8))
    memory.observe(np.array([[0.0, 0, 0, 5, 4, 0, 0, 0]]))
    memory.make_room(4, lambda: np.empty(0))
    assert memory.positions.tolist() == [0, 3, 4, 7]
    switched(memory, policy="streaming", budget=Budget(1, 1, 1))
    memory.make_room(1, lambda: np.empty(0))
    assert memory.positions.tolist() == [0, 7]
    switched(memory, policy="tova")
    memory.observe(np.array([[0.1, 0.2, 0.7]]))
    memory.append(np.array([1.0]))
    memory.make_room(1, lambda: np.empty(0))
    assert memory.positions.tolist() == [0, 8]
    switched(memory, policy="full")
    assert not memory.evicts


def test_what_cannot_change_within_a_dialogue():
    memory = memory_of(StreamSettings(budget=Budget(0, 6, 2)))
    memory.append(np.ones(6))
    memory.pinned[:5] = True
    with pytest.raises(SettingError, match="5 pinned tokens leave no room in a cache of 5"):
        switched(memory, budget=Budget(0, 4, 1))
    assert memory.settings.budget == Budget(0, 6, 2)
    dialogue = Dialogue(streaming(), memory.settings)
    for change, name in [({"score": "as-published"}, "score"), ({"positions": "rebase"}, "positions"),
                         ({"first_token": "max"}, "first token"), ({"reference": True}, "reference")]:  # fmt: skip
        with pytest.raises(SettingError, match=f"{name} cannot change within a dialogue"):
            dialogue.switch(replace(memory.settings, **change))
    with pytest.raises(SettingError, match="policy `newest` is unknown"):
        dialogue.switch(replace(memory.settings, policy="newest"))
