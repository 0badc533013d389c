"""Turns of every length, answers read token by token, pins, and dialogues that go on after they were saved."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load, save

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.dialogue import Dialogue, limit_warning
from pyllm.stream.model import stream_model
from pyllm.stream.policies import POLICY_NAMES
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.slow_memory import SlowMemory
from tests.support.stream_models import model_of, streaming

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

BUDGET = Budget(4, 40, 12)


@pytest.fixture(scope="module")
def model():
    return streaming()


def ids_of(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 320, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def surprisals(model, ids: list[int]) -> np.ndarray:
    """Of every token but the first, from one forward pass over all of them."""
    with torch.inference_mode():
        logs = model.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return -logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.parametrize("forward_tokens", [1, 7, 512])
def test_surprisal_is_what_the_model_says_of_the_whole(forward_tokens):
    model = streaming("qwen3", forward_tokens=forward_tokens)
    ids = ids_of(50)
    dialogue = Dialogue(model, StreamSettings(policy="full"))
    nats = np.concatenate([dialogue.read_turn(ids[:20]).nats, dialogue.read_turn(ids[20:]).nats])
    expected = surprisals(model, ids)
    np.testing.assert_allclose(nats[1:], expected, atol=1e-5)
    assert nats[0] == nats[1:20].max()


def test_first_tokens(model):
    ids = ids_of(30)
    expected = surprisals(model, ids)

    def turns(**settings):
        dialogue = Dialogue(model, StreamSettings(policy="full", **settings))
        return [dialogue.read_turn(part).nats for part in (ids[:1], ids[1:10], ids[10:])]

    alone, second, third = turns()
    assert alone.tolist() == [0.0]
    np.testing.assert_allclose([second[0], third[0]], [expected[0], expected[9]], atol=1e-5)
    alone, second, third = turns(first_token="max")
    assert alone.tolist() == [0.0]
    assert second[0] == second[1:].max()
    assert third[0] == third[1:].max()
    np.testing.assert_allclose(third[1:], expected[10:], atol=1e-5)


def test_as_published_asks_how_unlikely_a_repetition_is(model):
    ids = ids_of(12)
    with torch.inference_mode():
        logs = model.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    again = -logs[torch.arange(12), torch.tensor(ids)].numpy()
    dialogue = Dialogue(model, StreamSettings(policy="full", score="as-published"))
    first, second = dialogue.read_turn(ids[:1]).nats, dialogue.read_turn(ids[1:]).nats
    np.testing.assert_allclose(first, again[:1], atol=1e-5)
    np.testing.assert_allclose(second, [again[1:].max(), *again[1:-1]], atol=1e-5)


@pytest.mark.parametrize("lengths", [[200], [3, 150, 1, 1, 53], [52, 52, 53], [1] * 70, [64, 64, 2]])
@pytest.mark.parametrize("spans", [(0, 0), (3, 2)])
def test_turns_of_every_length_keep_what_the_twin_keeps(model, lengths, spans):
    settings = StreamSettings(budget=BUDGET, decay=0.8, span_after=spans[0], span_before=spans[1])
    dialogue = Dialogue(model, settings)
    twin = SlowMemory(BUDGET, 0.8, *spans)
    for turn, length in enumerate(lengths):
        before = len(twin.cached)
        trace = dialogue.read_turn(ids_of(length, turn))
        kept, start = None, 0
        pieces = [length] if length <= 52 else [52] * (length // 52) + [length % 52] * (length % 52 > 0)
        for number, piece in enumerate(pieces):
            made = twin.make_room(piece)
            kept = kept if made is None else list(made)
            if turn and not number:
                twin.fade()
            scores = trace.nats[start : start + piece].tolist()
            if turn == number == 0:
                scores[0] = max(scores[1:], default=0.0)  # what it was when the first eviction came
            twin.read(scores)
            if turn == 0:
                twin.scores[0] = max(twin.scores[1 : start + piece], default=0.0)
            start += piece
        assert (trace.cache_tokens_before, trace.cache_tokens_after) == (before, len(twin.cached))
        assert (None if trace.kept is None else trace.kept.tolist()) == kept
        assert trace.cache_tokens_after == dialogue.cache.tokens <= BUDGET.tokens


def test_what_an_evicted_dialogue_predicts_is_what_its_tokens_predict(model):
    """With one layer a key depends on its own token alone, so the cache must equal reading just what is left."""
    shallow = streaming("llama")
    shallow.model.model.layers = shallow.model.model.layers[:1]
    shallow = dataclasses.replace(shallow, plan=dataclasses.replace(shallow.plan, layers=shallow.plan.layers[:1]))
    dialogue = Dialogue(shallow, StreamSettings(budget=BUDGET))
    fed = []
    for turn in range(12):
        fed += ids_of(17, turn)
        dialogue.read_turn(fed[-17:])
    left = [fed[position] for position in dialogue.memory.positions]
    with torch.inference_mode():
        expected = shallow.model(torch.tensor([left]), use_cache=False).logits[0, -1]
    assert dialogue.memory.evictions > 5
    torch.testing.assert_close(dialogue.logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("block", [1, 8, 400])
def test_answers_are_read_token_by_token_within_the_budget(model, policy, block):
    dialogue = Dialogue(model, StreamSettings(policy=policy, budget=BUDGET))
    dialogue.begin_turn()
    dialogue.feed(ids_of(30))
    for _ in range(90):
        token = int(dialogue.logits.argmax())
        dialogue.feed([token], block=block)
        assert policy == "full" or dialogue.cache.tokens <= BUDGET.tokens
    trace = dialogue.trace()
    assert len(trace.nats) == dialogue.memory.seen == 120
    assert dialogue.cache.tokens == len(dialogue.memory.positions)
    expected = {1: 120 - 56, 8: 8, 400: 2}[block]
    assert dialogue.memory.evictions == (0 if policy == "full" else expected)
    # Greedy tokens are the likeliest ones, whatever was evicted in between.
    assert trace.nats[30:].max() < np.log(320)


def test_a_turn_may_come_in_parts(model):
    whole, parts = (Dialogue(model, StreamSettings(budget=BUDGET, decay=0.5)) for _ in range(2))
    for turn in range(6):
        ids = ids_of(25, turn)
        trace = whole.read_turn(ids)
        parts.begin_turn()
        parts.reserve(25)
        parts.feed(ids[:10])
        parts.feed([])
        parts.feed(ids[10:])
        other = parts.trace()
        assert (trace.kept is None) == (other.kept is None)
        assert whole.memory.positions.tolist() == parts.memory.positions.tolist()
        np.testing.assert_allclose(other.nats, trace.nats, atol=1e-5)


def test_a_peek_leaves_nothing_behind(model):
    one, other = (Dialogue(model, StreamSettings(budget=BUDGET)) for _ in range(2))
    for turn in range(5):
        for dialogue in (one, other):
            dialogue.begin_turn()
            dialogue.reserve(30)
            dialogue.feed(ids_of(20, turn))
        seen = one.peek(ids_of(10, turn + 50))
        one.peek(ids_of(3, turn + 70))
        nats = one.feed(ids_of(10, turn + 50))
        assert nats.tolist() == other.feed(ids_of(10, turn + 50)).tolist()
        torch.testing.assert_close(seen[-1], other.logits, rtol=0, atol=1e-6)
        assert one.memory.positions.tolist() == other.memory.positions.tolist()
    with pytest.raises(SettingError, match="57 tokens do not fit behind"):
        one.peek(ids_of(57))
    sliding = Dialogue(streaming("gemma3_both"), StreamSettings(budget=BUDGET, positions="native-sliding"))
    with pytest.raises(SettingError, match="cannot be taken back with `native-sliding` positions"):
        sliding.peek([5])


def test_pinned_tokens_stay_and_forgotten_ones_go(model):
    dialogue = Dialogue(model, StreamSettings(budget=BUDGET))
    dialogue.read_turn(ids_of(30))
    assert dialogue.pin(range(20)) == 20
    for turn in range(1, 8):
        dialogue.read_turn(ids_of(40, turn))  # more than the room that is left, so in pieces
        assert set(range(20)) <= set(dialogue.memory.positions.tolist())
        assert dialogue.cache.tokens <= BUDGET.tokens
    assert dialogue.forget([0, 1, 9, 5_000]) == 3
    assert not {0, 1, 9} & set(dialogue.memory.positions.tolist())
    assert dialogue.cache.tokens == len(dialogue.memory.positions)
    dialogue.read_turn(ids_of(BUDGET.tokens - dialogue.cache.tokens, 8))
    with pytest.raises(SettingError, match="pinned tokens leave no room in a cache of 56"):
        dialogue.pin(dialogue.memory.positions.tolist())
    dialogue.unpin()
    for turn in range(9, 15):
        dialogue.read_turn(ids_of(50, turn))
    assert set(dialogue.memory.positions[:4].tolist()) >= {2, 3}
    assert not set(range(4, 20)) <= set(dialogue.memory.positions.tolist())


@pytest.mark.parametrize("policy", ["sirllm", "h2o", "random", "keydiff"])
@pytest.mark.parametrize(("kind", "positions"), [("llama", "cache"), ("gemma3_both", "native-sliding")])
def test_a_saved_dialogue_goes_on_to_the_bit(kind, positions, policy):
    model = streaming(kind)
    settings = StreamSettings(
        policy=policy, budget=BUDGET, decay=0.9 if policy == "sirllm" else 1.0, span_after=2, positions=positions
    )
    dialogue = Dialogue(model, settings)
    for turn in range(6):
        dialogue.read_turn(ids_of(23, turn))
    again = Dialogue(model, settings)
    again.restore(load(save(dialogue.state())))
    for turn in range(6, 14):
        one, other = dialogue.read_turn(ids_of(31, turn)), again.read_turn(ids_of(31, turn))
        assert (one.kept is None) == (other.kept is None)
        assert one.kept is None or one.kept.tolist() == other.kept.tolist()
        assert one.nats.tolist() == other.nats.tolist()
        assert torch.equal(dialogue.logits, again.logits)


@pytest.mark.parametrize("policy", ["sirllm", "snapkv"])
def test_what_a_dialogue_holds_does_not_grow(model, policy):
    dialogue = Dialogue(model, StreamSettings(policy=policy, budget=BUDGET, decay=0.9, span_after=4, span_before=3))
    sizes = []
    for turn in range(60):
        dialogue.read_turn(ids_of(40, turn))
        state = dialogue.state()
        assert len(state.pop("memory.source_values")) <= BUDGET.tokens * 8 + 4
        sizes.append(sum(part.numel() for part in state.values()))
    assert dialogue.memory.seen == 2_400
    assert len(set(sizes[3:])) == 1


def test_a_new_dialogue_can_be_saved_too(model):
    dialogue, again = (Dialogue(model, StreamSettings(budget=BUDGET)) for _ in range(2))
    again.restore(load(save(dialogue.state())))
    assert again.read_turn(ids_of(9)).nats.tolist() == dialogue.read_turn(ids_of(9)).nats.tolist()


def test_rebase_reads_on_past_the_position_limit(model):
    """Positions grow up to the limit of 256, then start anew; the model never sees one beyond it."""
    dialogue = Dialogue(model, StreamSettings(budget=BUDGET, positions="rebase"))
    highest = []
    for turn in range(20):
        dialogue.read_turn(ids_of(37, turn))
        highest.append(int(dialogue.cache.state()["at"].max()))
    assert max(highest) < 256
    assert max(highest) > 200
    assert sorted(highest) != highest


def test_a_cache_above_the_position_limit_is_named(model):
    text = limit_warning(model, StreamSettings(budget=Budget(4, 200, 60)))
    assert text == "a cache of 264 tokens is larger than the 256 positions that model `llama` was made for"
    assert limit_warning(model, StreamSettings(budget=Budget(4, 200, 52))) is None
    assert limit_warning(model, StreamSettings(policy="full", budget=Budget(4, 200, 60))) is None


def test_no_number_is_an_error():
    broken = streaming()
    with torch.no_grad():
        broken.model.lm_head.weight[7] = float("nan")
    dialogue = Dialogue(broken, StreamSettings(budget=BUDGET))
    with pytest.raises(PrerequisiteError, match="the model gives no number for a token of turn 1"):
        dialogue.read_turn(ids_of(5))


def test_impossible_tokens_are_very_surprising_and_fade():
    model = streaming()
    with torch.no_grad():
        model.model.lm_head.bias = torch.nn.Parameter(torch.zeros(320))
        model.model.lm_head.bias[9] = float("-inf")
    dialogue = Dialogue(model, StreamSettings(policy="full"))
    assert dialogue.read_turn([5, 9, 6]).nats[1] == 1e4


def test_feeding_needs_a_turn(model):
    with pytest.raises(SettingError, match="no turn has begun"):
        Dialogue(model, StreamSettings(budget=BUDGET)).feed([3])


def test_settings_are_checked():
    for wrong, message in [
        (lambda: Budget(-1, 4, 4), "sinks is -1: it must be 0 or more"),
        (lambda: Budget(4, 0, 0), "entropy tokens and recent are both 0"),
        (lambda: StreamSettings(decay=1.5), "decay is 1.5: it must be from 0 to 1"),
        (lambda: StreamSettings(decay=float("nan")), "decay is nan"),
        (lambda: StreamSettings(span_after=-2), "span after is -2"),
    ]:
        with pytest.raises(SettingError, match=message):
            wrong()


def test_attention_that_does_not_let_itself_be_watched_is_refused():
    config = transformers.GPTJConfig(vocab_size=320, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=256)
    config.bos_token_id, config.eos_token_id = 0, 1
    model = stream_model(model_of(lambda: config), "gptj")
    assert Dialogue(model, StreamSettings(budget=BUDGET)).read_turn(ids_of(70)).cache_tokens_after <= BUDGET.tokens
    with pytest.raises(PrerequisiteError, match="no layer that sees the whole cache lets itself be watched"):
        Dialogue(model, StreamSettings(policy="tova", budget=BUDGET))


def test_attention_that_cannot_be_watched_is_refused(monkeypatch):
    from transformers import AttentionInterface

    from pyllm.stream.watching import WATCHED_ATTENTION, watched_attention

    def other(*arguments, **named):
        output, weights = watched_attention(*arguments, **named)
        return output * 1.5, weights

    model = streaming()
    before = model.model.config._attn_implementation
    monkeypatch.setitem(AttentionInterface._global_mapping, WATCHED_ATTENTION, other)
    with pytest.raises(PrerequisiteError, match="the attention of model `llama` cannot be watched"):
        Dialogue(model, StreamSettings(policy="h2o", budget=BUDGET))
    assert model.model.config._attn_implementation == before
