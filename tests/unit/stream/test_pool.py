"""Rows of a pool against dialogues alone: what they hold, joins and leaves, and what a pool refuses."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.cache import BoundedCache
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.passes import groups_of
from pyllm.stream.pool import Asked, Pool, PoolRow
from pyllm.stream.reading import Forward
from pyllm.stream.settings import Budget, StreamSettings
from pyllm.stream.surprisal import MOST_NATS, Prediction
from tests.support.stream_models import streaming

SMALL = StreamSettings(budget=Budget(2, 20, 4))
WHOLE = StreamSettings(policy="full")
KINDS = ("llama", "qwen3", "gpt_neox", "gemma2", "gemma3_both", "cohere")
MOST_ERROR = 1e-5
"""Of the logits' standard deviation, in float32."""


def ids_of(count, seed=0):
    return torch.randint(3, 320, (count,), generator=torch.Generator().manual_seed(seed))


def read(pool, *asked):
    """Read in common; an error is raised."""
    made = pool.read([Asked(dialogue, ids) for dialogue, ids in asked])
    for each in made:
        if isinstance(each, Exception):
            raise each
    return made


def close(got, expected):
    assert float((got - expected).abs().max() / expected.std()) < MOST_ERROR


@pytest.fixture(scope="module")
def llama():
    return streaming("llama")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_unequal_length_are_as_alone(kind):
    """New tokens, held tokens, gaps, joins and leaves differ from row to row; windows of 9 are shorter than most."""
    model = streaming(kind)
    pool = Pool(model)
    script = {  # what each dialogue does in each pass: tokens to read, or places to keep
        0: [12, 1, 1, [0, 1, 5, 6, 9, 12], 3, 1, 15],
        1: [None, 30, 1, 1, [*range(4), *range(20, 31)], 2, 1],
        2: [5, 4, None, 7, 1, [0, 7, 11], 1],
        3: [None, None, None, 1, 1, 20, 1],
        4: [3, 1, 2, "leave", None, None, None],
    }
    pooled = {number: Dialogue(model, WHOLE) for number in script}
    alone = {number: BoundedCache(model.plan) for number in script}
    for step in range(7):
        asked = []
        for number, doing in ((number, moves[step]) for number, moves in script.items()):
            dialogue = pooled[number]
            if doing == "leave":
                pool.leave(dialogue)
                assert isinstance(dialogue.cache, BoundedCache)
            elif isinstance(doing, list):
                dialogue.cache.keep(torch.tensor(doing))
                alone[number].keep(torch.tensor(doing))
            elif doing is not None:
                if not isinstance(dialogue.cache, PoolRow):
                    pool.join(dialogue)
                asked.append((number, ids_of(doing, 10 * step + number)))
        for (number, ids), seen in zip(asked, read(pool, *((pooled[each], ids) for each, ids in asked)), strict=True):
            expected = model.read(ids, alone[number])
            close(seen.logits, expected)
            torch.testing.assert_close(seen.after.logits, seen.logits[-1], rtol=0, atol=0)
            torch.testing.assert_close(seen.after.log_sum, seen.logits[-1].logsumexp(-1))
            assert seen.after.likeliest[0] == int(expected[-1].argmax())
    for number, dialogue in pooled.items():
        got, expected = dialogue.cache.state(), alone[number].state()
        assert got.keys() == expected.keys()
        for name, part in expected.items():
            assert got[name].dtype == part.dtype
            torch.testing.assert_close(got[name], part, rtol=0, atol=5e-6 if "layer" in name else 0)


def test_what_a_row_holds_goes_in_and_out_to_the_bit(llama):
    pool = Pool(llama)
    dialogues = [Dialogue(llama, SMALL) for _ in range(4)]
    for number, dialogue in enumerate(dialogues):
        for turn in range(number + 1):  # the first was never full, the others have moved keys
            dialogue.read_turn(ids_of(9 + number, turn).tolist())
    before = [dialogue.cache.state() for dialogue in dialogues]
    for dialogue in dialogues:
        pool.join(dialogue)
    assert [dialogue.cache.tokens for dialogue in dialogues] == [len(state["at"]) for state in before]
    for dialogue, state in zip(dialogues, before, strict=True):
        equal(dialogue.cache.state(), state)
    pool.leave(dialogues[1])  # the last row takes its place
    for dialogue, state in zip(dialogues, before, strict=True):
        equal(dialogue.cache.state(), state)
        for row, own in zip(dialogue.cache.keys_of_layers(), _restored(llama, state).keys_of_layers(), strict=True):
            torch.testing.assert_close(row, own, rtol=0, atol=0)
    for dialogue in (dialogues[3], dialogues[0], dialogues[2]):
        pool.leave(dialogue)
    assert (pool.rows, pool.bytes_held()) == (0, 0)
    for dialogue, state in zip(dialogues, before, strict=True):
        equal(dialogue.cache.state(), state)


def equal(got, expected):
    assert got.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(got[name], part, rtol=0, atol=0)


def _restored(model, state):
    cache = BoundedCache(model.plan)
    cache.restore(state, model.device)
    return cache


def test_rows_that_are_not_asked_stay_as_they_are(llama):
    pool = Pool(llama)
    dialogues = [Dialogue(llama, WHOLE) for _ in range(7)]
    for dialogue in dialogues:
        pool.join(dialogue)
    read(pool, *((dialogue, ids_of(4 + number, number)) for number, dialogue in enumerate(dialogues)))
    before = [dialogue.cache.state() for dialogue in dialogues]
    # Few rows far apart, then most of a range.
    for numbers in ([0, 6], [1, 2, 4, 5]):
        asked = [(dialogues[number], ids_of(1 + number % 2, 50 + number)) for number in numbers]
        alone = [_restored(llama, dialogue.cache.state()) for dialogue, _ in asked]
        for (_, ids), cache, seen in zip(asked, alone, read(pool, *asked), strict=True):
            close(seen.logits, llama.read(ids, cache))
        for number in {*range(7)} - {*numbers}:
            equal(dialogues[number].cache.state(), before[number])
        before = [dialogue.cache.state() for dialogue in dialogues]


def test_a_row_that_was_anothers_begins_anew(llama):
    """Whatever a row held before is neither seen nor left over."""
    pool = Pool(llama)
    first, second = Dialogue(llama, WHOLE), Dialogue(llama, WHOLE)
    pool.join(first)
    pool.join(second)
    read(pool, (first, ids_of(40)), (second, ids_of(3)))
    pool.leave(first)
    third = Dialogue(llama, WHOLE)
    pool.join(third)
    seen = read(pool, (third, ids_of(6, 9)), (second, ids_of(2)))[0]
    close(seen.logits, llama.read(ids_of(6, 9), BoundedCache(llama.plan)))


def test_all_keys_move_at_the_limit():
    model = dataclasses.replace(streaming("llama"), context_tokens=40)
    settings = StreamSettings(positions="rebase", budget=Budget(2, 20, 4))
    pooled, alone, other = (Dialogue(model, settings) for _ in range(3))
    pool = Pool(model)
    pool.join(pooled)
    pool.join(other)
    highest = []
    for turn in range(8):
        ids = ids_of(7, turn)
        for dialogue in (pooled, alone, other):
            dialogue.begin_turn()
            dialogue.reserve(7)
        read(pool, (pooled, ids), (other, ids_of(5, turn)))
        alone.read(ids)
        for dialogue in (pooled, alone, other):
            dialogue.memory.append(torch.rand(7 if dialogue is not other else 5, dtype=torch.float64).numpy())
        # The scores are random: let both keep the same.
        keep = torch.arange(0, pooled.cache.tokens, 2)
        for dialogue in (pooled, alone):
            dialogue.memory.forget(keep.numpy())
            dialogue.cache.keep(keep)
        highest.append(int(pooled.cache.state()["at"].max()))
    assert max(highest) < 40
    assert any(later < earlier for earlier, later in pairwise(highest))
    got, expected = pooled.cache.state(), alone.cache.state()
    assert got.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(got[name], part, rtol=0, atol=2e-6 if "layer" in name else 0)


def test_passes_hold_what_is_alike_and_no_more_than_they_may():
    counts = [1, 64, 1, 40, 33, 2, 1, 500, 30]
    groups = groups_of(counts, 128)
    assert sorted(number for group in groups for number in group) == list(range(9))
    assert [[counts[number] for number in group] for group in groups] == [[500], [64, 40], [33, 30], [2], [1, 1, 1]]


def test_a_pass_that_fails_leaves_the_rows_as_they_were(llama, monkeypatch):
    pool = Pool(llama)
    first, second = Dialogue(llama, SMALL), Dialogue(llama, SMALL)
    for dialogue in (first, second):
        dialogue.read_turn(ids_of(5).tolist())
        pool.join(dialogue)
    before = first.cache.state()
    with monkeypatch.context() as patched:
        patched.setattr(Pool, "_run", lambda *_: _raise(torch.OutOfMemoryError("no memory is left")))
        made = pool.read([Asked(first, ids_of(2)), Asked(second, ids_of(30))])
    assert [type(each) for each in made] == [torch.OutOfMemoryError] * 2
    equal(first.cache.state(), before)
    assert isinstance(pool.read([Asked(first, ids_of(2))])[0], Forward)


def _raise(error):
    raise error


def test_native_sliding_positions_are_refused():
    model = streaming("gemma3_both")
    dialogue = Dialogue(model, StreamSettings(positions="native-sliding"))
    with pytest.raises(SettingError, match="`native-sliding` positions cannot share a pool"):
        Pool(model).join(dialogue)


def test_a_model_whose_attention_goes_its_own_way_is_refused(monkeypatch):
    """A mask that does not come from transformers' makers cannot know of rows."""
    model = streaming("llama")
    own = "own"
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(own, sdpa_attention_forward)
    AttentionMaskInterface.register(own, sdpa_mask)
    model.model.set_attn_implementation(own)
    with pytest.raises(PrerequisiteError, match="cannot share a forward pass"):
        Pool(model)


def test_a_row_does_not_read_alone(llama):
    dialogue = Dialogue(llama, SMALL)
    Pool(llama).join(dialogue)
    dialogue.begin_turn()
    with pytest.raises(SettingError, match="reads beside others"):
        dialogue.feed([5])


def test_memory_of_a_pool(llama):
    pool = Pool(llama)
    dialogues = [Dialogue(llama, SMALL) for _ in range(3)]
    for dialogue in dialogues:
        pool.join(dialogue)
        dialogue.begin_turn()
    read(pool, *((dialogue, ids_of(20)) for dialogue in dialogues))
    token = 2 * sum(part[0, :, 0].numel() * part.element_size() for part in dialogues[0].cache.keys_of_layers())
    assert pool.bytes_held() == 4 * 64 * token  # rows grow twofold, places to the next 64
    for _ in range(30):
        for dialogue in dialogues:
            dialogue.cache.keep(torch.arange(2, dialogue.cache.tokens))
        read(pool, *((dialogue, ids_of(2)) for dialogue in dialogues))
    assert pool.bytes_held() == 4 * 64 * token * 3 // 2  # the keys as they were written


def test_surprisal_from_what_was_worked_out_for_many():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    from pyllm.stream.surprisal import predictions

    for row, made in zip(logits, predictions(logits), strict=True):
        plain = Prediction(row, row.logsumexp(-1))
        for token in (0, int(row.argmax()), 49):
            torch.testing.assert_close(made.negative_log_of(token), plain.negative_log_of(token), rtol=0, atol=1e-6)
        assert 0 <= float(made.negative_log_of(int(row.argmax()))) < MOST_NATS


def test_other_kinds_of_models_are_served():
    for kind in ("phi", "glm", "cohere2", "dynamic_scaled"):
        Pool(streaming(kind))
