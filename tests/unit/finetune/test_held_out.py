"""The loss of each held-out row against the model's own logits, one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pyllm.data.tokens import MASKED
from pyllm.errors import PrerequisiteError
from pyllm.finetune.held_out import RowLosses, load_trained, load_untrained, row_losses
from pyllm.finetune.job import Request, prepare
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FinetuneSettings, LoraSettings
from pyllm.lm.causal import CausalLM, causal_lm
from tests.support.tiny_models import VOCABULARY, save_tiny_model, tiny_model, write_jsonl

LENGTHS = (7, 30, 2, 12, 1, 19, 30)


def rows(seed=0):
    """Rows with answers in one or two pieces, one with its first token marked, one with nothing to predict."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, VOCABULARY, sum(LENGTHS)).astype(np.uint32)
    trained = random.random(len(ids)) < 0.4
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    trained[starts[1] : starts[1] + 3] = True
    trained[starts[4]] = True  # the only token of its row
    labels = np.where(trained, ids.astype(np.int32), MASKED).astype(np.int32)
    count = len(LENGTHS)
    return Sequences(ids, labels, starts, np.array([0, 3, count]), tuple(f"row {n}" for n in range(count)))


def slow_losses(model, sequences):
    """The obvious twin: all logits of each row alone."""
    nats, tokens = [], []
    for place in range(len(sequences)):
        ids, labels = sequences.example(place)
        with torch.no_grad():
            logits = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0].float()
        log_probabilities = logits.log_softmax(-1)
        predicted = [(at, int(label)) for at, label in enumerate(labels) if label != MASKED and at > 0]
        nats.append(-sum(float(log_probabilities[at - 1, label]) for at, label in predicted))
        tokens.append(len(predicted))
    return np.array(nats), np.array(tokens)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral", "gpt2"])
def test_equals_full_logits_of_each_row_alone(kind):
    sequences = rows()
    nats, tokens = slow_losses(tiny_model(kind), sequences)
    lm = causal_lm(tiny_model(kind))
    for pass_tokens in (1, 40, 10_000):
        found = row_losses(lm, sequences, pass_tokens=pass_tokens)
        np.testing.assert_allclose(found.nats, nats, rtol=1e-4, atol=2e-4)
        np.testing.assert_array_equal(found.tokens, tokens)
    assert found.nats[4] == 0
    assert found.tokens[4] == 0


def test_the_head_sees_trained_positions_only(monkeypatch):
    sequences = rows()
    asked = []
    original = CausalLM.target_nats

    def counted(self, states, targets):
        asked.append(len(states))
        return original(self, states, targets)

    lm = causal_lm(tiny_model("llama"))
    monkeypatch.setattr(CausalLM, "target_nats", counted)
    found = row_losses(lm, sequences)
    assert sum(asked) == found.tokens.sum() < sequences.tokens


def test_per_token_and_per_row_means():
    losses = RowLosses(np.array([2.0, 9.0]), np.array([1, 3]))
    assert losses.per_token == 11 / 4
    assert losses.per_row == (2.0 + 3.0) / 2


@pytest.fixture
def job(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    table = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Say a", "output": "a"}])
    return prepare(Request(str(table), FinetuneSettings(str(model), "nuggets", device="cpu"), template="nuggets"))


def test_a_finished_model_is_loaded_as_it_was_trained(job, tmp_path):
    trained = tiny_model("llama", seed=5)
    trained.save_pretrained(tmp_path / "final")
    expected, _ = slow_losses(trained, rows())
    found = row_losses(load_trained(job, tmp_path / "final"), rows())
    np.testing.assert_allclose(found.nats, expected, rtol=1e-4)
    untrained, _ = slow_losses(tiny_model("llama"), rows())
    np.testing.assert_allclose(row_losses(load_untrained(job), rows()).nats, untrained, rtol=1e-4)
    assert abs(untrained - expected).max() > 0.1


def test_an_adapter_is_put_on_the_model_it_was_trained_on(job, tmp_path):
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(job.source.folder, attn_implementation="eager")
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "final")
    # A fresh adapter does nothing: give it something to do.
    weights = load_file(tmp_path / "final" / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    changed = {name: torch.randn(value.shape, generator=generator) * 0.1 for name, value in weights.items()}
    save_file(changed, tmp_path / "final" / "adapter_model.safetensors", metadata={"format": "pt"})
    peft.set_peft_model_state_dict(adapted, changed)
    expected, _ = slow_losses(adapted.eval(), rows())
    lora_job = replace(job, settings=replace(job.settings, lora=LoraSettings(4)))
    found = row_losses(load_trained(lora_job, tmp_path / "final"), rows())
    np.testing.assert_allclose(found.nats, expected, rtol=1e-4)
    assert abs(found.nats - row_losses(load_untrained(lora_job), rows()).nats).max() > 0.1


def test_a_folder_without_an_adapter_is_refused(job, tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "final").mkdir()
    lora_job = replace(job, settings=replace(job.settings, lora=LoraSettings(4)))
    with pytest.raises(PrerequisiteError, match="cannot be loaded"):
        load_trained(lora_job, tmp_path / "final")
