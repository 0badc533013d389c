"""Evicted and moved keys against an oracle that keeps keys unrotated and rotates all of them in every step."""

import pytest
import torch
from transformers import PreTrainedModel

from pyllm.errors import SettingError
from pyllm.stream.cache import BoundedCache
from pyllm.stream.rotation import LayerPlan, Rotation, RotationPlan
from tests.support.stream_models import STREAM_CONFIGS, Oracle, streaming, unrotated

BUDGET, SINKS, TOKENS = 128, 4, 1_200


def dialogue(seed: int, vocabulary: int = 320):
    """Random turns, and before each the random set of places that stay, given how many are held."""
    random = torch.Generator().manual_seed(seed)
    read = 0
    while read < TOKENS:
        count = int(torch.randint(1, 40, (1,), generator=random))
        ids = torch.randint(3, vocabulary, (count,), generator=random)
        read += count

        def kept(held: int, count: int = count) -> torch.Tensor | None:
            if held + count <= BUDGET:
                return None
            chosen = torch.randperm(held - SINKS, generator=random)[: BUDGET - count - SINKS] + SINKS
            return torch.cat([torch.arange(SINKS), chosen]).sort().values

        yield ids, kept


def worst_difference(model: PreTrainedModel, cache: BoundedCache, made, windows) -> tuple[float, int]:
    """Largest difference of a logit in units of the logits' standard deviation, and the number of evictions."""
    ours, evictions = [], 0
    for ids, kept in dialogue(0):
        stays = kept(cache.tokens)
        if stays is not None:
            cache.keep(stays)
            evictions += 1
        ours.append(made.read(ids, cache))
        assert cache.tokens <= BUDGET
    expected = []
    with unrotated(model) as apply:
        oracle = Oracle(model, apply, windows)
        for ids, kept in dialogue(0):
            stays = kept(oracle.tokens)
            if stays is not None:
                oracle.keep(stays)
            expected.append(oracle.read(ids).float())
    got, wanted = torch.cat(ours), torch.cat(expected)
    return float((got - wanted).abs().max() / wanted.std()), evictions


@pytest.mark.parametrize("kind", list(STREAM_CONFIGS))
def test_moved_keys_are_as_good_as_recomputed_ones(kind):
    made = streaming(kind)
    cache = BoundedCache(made.plan, capacity_tokens=BUDGET)
    difference, evictions = worst_difference(made.model, cache, made, [None] * len(made.plan.layers))
    assert evictions > 35
    assert difference < 1e-5


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_both", "qwen2", "cohere2"])
def test_native_sliding_layers_keep_their_last_tokens(kind):
    made = streaming(kind)
    windows = [layer.window for layer in made.plan.layers]
    assert None in windows
    assert any(windows)
    cache = BoundedCache(made.plan, positions="native-sliding", capacity_tokens=BUDGET)
    difference, _ = worst_difference(made.model, cache, made, windows)
    assert difference < 1e-5
    # It is another reading of the memory than re-numbering for all layers alike.
    other, _ = worst_difference(made.model, BoundedCache(made.plan), made, windows)
    assert other > 0.1


def test_leaving_keys_where_they_were_is_wrong(monkeypatch):
    made = streaming()
    monkeypatch.setattr(Rotation, "turned", lambda _self, numbers, *_: numbers)
    difference, _ = worst_difference(made.model, BoundedCache(made.plan), made, [None, None])
    assert difference > 0.1


def plan_of(head_dim: int, theta: float, layers: int = 1) -> RotationPlan:
    frequencies = tuple((theta ** (-torch.arange(0, head_dim, 2) / head_dim)).tolist())
    return RotationPlan((LayerPlan(True, None, Rotation(frequencies, "half", 0), None),) * layers, 0.0)


def rotated(keys: torch.Tensor, plan: RotationPlan, shift: int) -> torch.Tensor:
    """The exact rotation, as complex numbers in float64."""
    rotation = plan.layers[0].keys
    half = rotation.width // 2
    turned = torch.complex(keys[..., :half].double(), keys[..., half:].double())
    turned = turned * torch.exp(1j * shift * torch.tensor(rotation.frequencies, dtype=torch.float64))
    return torch.cat([turned.real, turned.imag], -1)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2e-3), (torch.float16, 3e-4), (torch.float32, 1e-7)])
def test_a_thousand_moves_cost_one_rounding(dtype, most):
    plan = plan_of(128, 5e5)
    cache = BoundedCache(plan)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 2, 1_064, 128, generator=generator).to(dtype)
    cache.place(keys.shape[2])
    cache.update(keys, keys, 0)
    for _ in range(1_000):
        cache.keep(torch.cat([torch.arange(4), torch.arange(5, cache.tokens)]))
    moved = cache.keys_of_layers()[0][:, :, 4:].double()
    exact = rotated(keys[:, :, 1_004:], plan, -1_000)
    assert float((moved - exact).norm() / exact.norm()) <= most
    torch.testing.assert_close(cache.layers[0].values[:, :, 4:], keys[:, :, 1_004:], rtol=0, atol=0)


def test_rebase_keeps_positions_until_the_limit_and_then_moves_all():
    plan = plan_of(8, 100.0)
    cache = BoundedCache(plan, positions="rebase", limit_tokens=20)
    keys = torch.randn(1, 1, 30, 8, generator=torch.Generator().manual_seed(0))
    assert cache.place(12).tolist() == [list(range(12))]
    cache.update(keys[:, :, :12], keys[:, :, :12], 0)
    cache.keep(torch.tensor([0, 3, 9, 11]))
    torch.testing.assert_close(cache.keys_of_layers()[0], keys[:, :, [0, 3, 9, 11]], rtol=0, atol=0)
    assert cache.place(8).tolist() == [list(range(12, 20))]
    cache.update(keys[:, :, 12:20], keys[:, :, 12:20], 0)
    assert cache.place(1).tolist() == [[12]]
    expected = [rotated(keys[:, :, old], plan, new - old) for new, old in enumerate([0, 3, 9, 11, *range(12, 20)])]
    torch.testing.assert_close(cache.keys_of_layers()[0].double(), torch.stack(expected, 2), rtol=0, atol=1e-5)


def test_what_is_cropped_was_never_there():
    made = streaming("qwen3")
    ids = torch.arange(5, 45)
    caches = [BoundedCache(made.plan), BoundedCache(made.plan)]
    for cache in caches:
        made.read(ids[:30], cache)
        cache.keep(torch.tensor([0, 1, 7, 8, 20, 29]))
    made.read(ids[:9], caches[0])
    caches[0].crop(-9)
    assert caches[0].tokens == caches[1].tokens == 6
    got, wanted = (made.read(ids[30:], cache) for cache in caches)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_memory_does_not_grow_with_the_dialogue():
    made = streaming()
    cache = BoundedCache(made.plan, capacity_tokens=64)
    held = set()
    for turn in range(40):
        if cache.tokens == 64:
            cache.keep(torch.tensor([0, 1, *range(34, 64)]))
        made.read(torch.arange(3, 35), cache)
        if turn > 3:
            held.add(cache.bytes_held())
    # Keys twice, values once: 2 layers x 2 heads x 64 tokens x 8 numbers of 4 bytes.
    assert held == {3 * 2 * 2 * 64 * 8 * 4}


def test_what_it_cannot_do_is_said():
    made = streaming()
    cache = BoundedCache(made.plan)
    made.read(torch.arange(3, 9), cache)
    with pytest.raises(SettingError, match="holds one dialogue, so beams cannot share it"):
        cache.batch_repeat_interleave(2)
    with pytest.raises(SettingError, match="holds one dialogue, and was given 2"):
        cache.update(torch.zeros(2, 2, 1, 8), torch.zeros(2, 2, 1, 8), 0)
    with pytest.raises(SettingError, match="the model has no sliding layers"):
        BoundedCache(made.plan, positions="native-sliding")
    with pytest.raises(SettingError, match="every layer of the model slides"):
        BoundedCache(streaming("mistral").plan, positions="native-sliding")
