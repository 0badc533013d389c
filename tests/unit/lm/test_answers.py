"""Packed answer log-probabilities equal the plain ones on every supported architecture, however they are packed."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from pyllm.errors import PrerequisiteError
from pyllm.lm.answers import AnswerSet, AnswerSpan
from pyllm.lm.attention import PackLayout, packs
from pyllm.lm.causal import causal_lm
from pyllm.lm.embeddings import mean_states
from tests.support.plain_scorer import plain_answer_nats
from tests.support.tiny_models import CONFIGS, VOCABULARY, tiny_model

PREFIX = list(range(5, 22))


def spans(seed: int = 1) -> list[AnswerSpan]:
    random = np.random.default_rng(seed)
    made = []
    for length in (7, 30, 2, 12, 13, 14, 30, 1, 25):
        ids = tuple(int(token) for token in random.integers(3, VOCABULARY, length))
        start = max(1, int(random.integers(0, length)))
        made.append(AnswerSpan(ids, start, length))
    return made


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("prefix", [[], [0], PREFIX], ids=["none", "start token", "demonstration"])
def test_packed_sums_equal_plain_sums(kind: str, prefix: list[int]) -> None:
    model = tiny_model(kind)
    expected = [plain_answer_nats(model, prefix, span.ids, span.start, span.end) for span in spans()]
    lm = causal_lm(model)
    for max_batch_tokens in (1, 40, 10_000):
        answers = AnswerSet(spans(), max_batch_tokens=max_batch_tokens, device=lm.device)
        np.testing.assert_allclose(answers.answer_nats(lm, prefix), expected, atol=2e-4)


def test_an_answer_without_scored_tokens_sums_to_zero() -> None:
    lm = causal_lm(tiny_model("llama"))
    answers = AnswerSet(
        [AnswerSpan((4, 5, 6), 3, 3), AnswerSpan((4, 5, 6), 1, 3)], max_batch_tokens=99, device=lm.device
    )
    sums = answers.answer_nats(lm, PREFIX)
    assert sums[0] == 0.0
    assert sums[1] < -1.0


def test_a_pack_leaves_the_prefix_as_it_was() -> None:
    lm = causal_lm(tiny_model("mistral"))
    answers = AnswerSet(spans(), max_batch_tokens=40, device=lm.device)
    first = answers.answer_nats(lm, PREFIX)
    answers.answer_nats(lm, [0, 7, 8])
    np.testing.assert_array_equal(answers.answer_nats(lm, PREFIX), first)


def test_low_precision_keeps_the_head_in_float32() -> None:
    lm = causal_lm(tiny_model("llama").to(torch.bfloat16))
    assert lm.head.dtype == torch.float32
    states = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    nats = lm.target_nats(states, torch.tensor([3, 4, 5]))
    assert nats.dtype == torch.float32
    expected = (states.float() @ lm.head.T).log_softmax(-1)[[0, 1, 2], [3, 4, 5]]
    torch.testing.assert_close(nats, expected)


def test_models_whose_rotation_follows_the_longest_position_read_alone() -> None:
    config = CONFIGS["llama"]()
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    changing = causal_lm(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))
    assert changing.changes_while_reading
    assert not causal_lm(tiny_model("llama")).changes_while_reading


def test_a_bidirectional_model_is_refused() -> None:
    config = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(PrerequisiteError, match="cannot be read in packs"):
        causal_lm(BertLMHeadModel._from_config(config, attn_implementation="eager"))


def test_a_model_without_attention_is_refused() -> None:
    config = MambaConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(PrerequisiteError, match="cannot be read in packs"):
        causal_lm(MambaForCausalLM(config))


def test_packs_hold_every_sequence_once_within_the_limit() -> None:
    lengths = [5, 9, 1, 30, 5, 5, 12]
    groups = packs(lengths, 14)
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in group) <= 14 or len(group) == 1 for group in groups)
    assert groups[0] == [3]


def test_layout_covers_every_token_once() -> None:
    layout = PackLayout((3, 1, 8, 9, 2), torch.device("cpu"))
    tokens = torch.cat([bucket.tokens for bucket in layout.buckets])
    assert sorted(tokens.tolist()) == list(range(23))
    assert layout.offsets.tolist() == [0, 1, 2, 0, *range(8), *range(9), 0, 1]
    assert len(layout.buckets) < 5


def test_mean_states_are_the_mean_over_real_tokens() -> None:
    model = tiny_model("qwen2")
    sequences = [[4, 5, 6], [7], [8, 9, 10, 11, 12]]
    with torch.inference_mode():
        expected = [
            model.base_model(torch.tensor([ids]), use_cache=False).last_hidden_state[0].mean(0) for ids in sequences
        ]
    got = mean_states(causal_lm(model), sequences, max_batch_tokens=6)
    np.testing.assert_allclose(got, torch.stack(expected).numpy(), atol=2e-5)
