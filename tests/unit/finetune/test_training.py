"""Training against a plain loop, packed against padded, and what is told on the way."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.finetune import job as jobs
from pyllm.finetune.events import read_events
from pyllm.finetune.folder import CHECKPOINTS, EVENTS, checkpoint_steps, locked
from pyllm.finetune.job import Request, prepare
from pyllm.finetune.packing_check import choose_packed_attention
from pyllm.finetune.run import FinetuneResult, finetune
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FinetuneSettings, LoraSettings
from pyllm.lm.attention import PACKED_ATTENTION_NAME
from tests.support.tiny_models import save_tiny_model, tiny_model, write_jsonl

ROWS = [
    {"instruction": f"Say {word} {count} times", "input": "", "output": " ".join([word] * count)}
    for count in range(1, 7)
    for word in ("yes", "no", "cat", "apple")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


def settings_of(model: Path, **changes: object) -> FinetuneSettings:
    values: dict[str, object] = {
        "model": str(model), "template": "alpaca", "max_length": 256, "epochs": 1.0, "batch_examples": 8,
        "learning_rate": 1e-3, "warmup": 0.0, "schedule": "constant", "device": "cpu",
    }  # fmt: skip
    return FinetuneSettings(**(values | changes))  # type: ignore[arg-type]


def run(rows: Path, out: Path, settings: FinetuneSettings, **options: object) -> FinetuneResult:
    eval_share = options.pop("eval_share", None)
    request = Request(str(rows), settings, template=settings.template, eval_share=eval_share)  # type: ignore[arg-type]
    with locked(out):
        return finetune(prepare(request), out, **options)  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = (out / "final").glob("*.safetensors")
    return load_file(file)


def train_plainly(model: Path, steps: list[list[list[int]]], labels: list[list[list[int]]]) -> tuple[list[float], dict]:
    """The slow twin: one example at a time, Adam at a constant rate, the mean over all trained tokens of a step."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for examples, wanted in zip(steps, labels, strict=True):
        optimizer.zero_grad()
        trained = sum(label != -100 for row in wanted for label in row[1:])
        total = torch.zeros(())
        for ids, row in zip(examples, wanted, strict=True):
            logits = net(torch.tensor([ids])).logits[0, :-1]
            total = total + cross_entropy(logits, torch.tensor(row[1:]), reduction="sum") / trained
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(total.detach()))
    return losses, dict(net.state_dict())


def steps_of(sequences: Sequences, settings: FinetuneSettings) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    schedule = jobs.make_schedule(sequences, settings, on_gpu=False)
    ids, labels = [], []
    for first in range(0, len(schedule.passes), schedule.passes_per_step):
        step = [place for each in schedule.passes[first : first + schedule.passes_per_step] for place in each]
        examples = [sequences.example(place) for place in step]
        ids.append([each.tolist() for each, _ in examples])
        labels.append([each.tolist() for _, each in examples])
    return ids, labels


def test_training_equals_a_plain_loop(model: Path, rows: Path, tmp_path: Path) -> None:
    settings = settings_of(model, micro_batch_tokens=500)
    result = run(rows, tmp_path, settings)
    job = prepare(Request(str(rows), settings, template="alpaca"))
    sequences = jobs.sequences_of(tmp_path, "train", settings, job.config)
    losses, expected = train_plainly(model, *steps_of(sequences, settings))
    assert [each["loss"] for each in result.report["loss"]] == pytest.approx(losses, abs=1e-5)
    for name, found in weights(tmp_path).items():
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch", [{"batch_examples": 8}, {"batch_examples": 7, "micro_batch_tokens": 300}])
def test_packed_and_padded_runs_have_the_same_loss(
    model: Path, rows: Path, tmp_path: Path, batch: dict[str, int]
) -> None:
    packed = run(rows, tmp_path / "packed", settings_of(model, **batch))
    padded = run(rows, tmp_path / "padded", settings_of(model, padded=True, **batch))
    losses = [[each["loss"] for each in result.report["loss"]] for result in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == math.ceil(len(ROWS) / batch["batch_examples"])


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma2", "gemma3", "gpt_neox", "gpt2"])
def test_other_architectures_keep_packed_examples_apart(kind: str) -> None:
    net = tiny_model(kind)
    assert choose_packed_attention(net, kind) == PACKED_ATTENTION_NAME
    assert net.config._attn_implementation == PACKED_ATTENTION_NAME


def test_a_model_that_mixes_examples_is_refused() -> None:
    net = tiny_model("llama")
    forward = net.forward
    net.forward = lambda **inputs: forward(input_ids=inputs["input_ids"], use_cache=False)  # type: ignore[method-assign]
    with pytest.raises(PrerequisiteError, match="does not keep packed examples apart") as refused:
        choose_packed_attention(net, "mixer")
    assert refused.value.hint == "give --padded"


def test_packs_make_steps_of_tokens(model: Path, rows: Path, tmp_path: Path) -> None:
    result = run(rows, tmp_path, settings_of(model, batch_examples=None, batch_tokens=512, epochs=2.0))
    tokens = [each["tokens"] for each in read_events(tmp_path / EVENTS) if each["event"] == "step"]
    assert max(tokens) <= 512
    assert sum(tokens) == result.report["tokens"] == 2 * result.report["data"]["train"]["tokens"]


def test_held_out_loss_is_the_mean_over_tokens_and_falls(model: Path, rows: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = settings_of(model, epochs=4.0, learning_rate=3e-3)
    result = run(rows, tmp_path, settings, eval_share=0.25, save_every=3)
    losses = [each["loss"] for each in result.report["held_out_loss"]]
    assert losses[-1] < losses[0]
    job = prepare(Request(str(rows), settings, template="alpaca", eval_share=0.25))
    held_out = jobs.sequences_of(tmp_path, "eval", settings, job.config)
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    nats, tokens = 0.0, 0
    for place in range(len(held_out)):
        ids, labels = (torch.tensor(each.astype("int64")) for each in held_out.example(place))
        with torch.no_grad():
            nats += float(cross_entropy(net(ids[None]).logits[0, :-1], labels[1:], reduction="sum"))
        tokens += int((labels[1:] != -100).sum())
    assert losses[-1] == pytest.approx(nats / tokens, abs=1e-5)


def test_early_stop_keeps_the_best(model: Path, rows: Path, tmp_path: Path) -> None:
    settings = settings_of(model, epochs=40.0, learning_rate=0.05)
    result = run(rows, tmp_path, settings, eval_share=0.25, save_every=2, patience=2)
    losses = {each["step"]: each["loss"] for each in result.report["held_out_loss"]}
    assert result.report["step"] < result.report["steps"]
    best = min(losses, key=lambda step: losses[step])
    kept = tmp_path / CHECKPOINTS / f"checkpoint-{best}" / "model.safetensors"
    assert kept.read_bytes() == (tmp_path / "final" / "model.safetensors").read_bytes()


def test_checkpoints_are_kept_as_asked(model: Path, rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path, settings_of(model, epochs=2.0), save_every=1, keep=3)
    assert checkpoint_steps(tmp_path / CHECKPOINTS) == [4, 5, 6]


def test_an_adapter_leaves_the_model_alone(model: Path, rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path, settings_of(model, lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-2))
    names = weights(tmp_path)
    assert names
    assert all("lora_" in name for name in names)
    assert any(bool(tensor.abs().max() > 0) for name, tensor in names.items() if "lora_B" in name)
    assert not (tmp_path / "final" / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_ends_the_run(model: Path, rows: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingError, match="the loss of step 1 is not finite"):
        run(rows, tmp_path / "run", settings_of(broken, padded=True))


def test_learning_rate_rises_and_falls(model: Path, rows: Path, tmp_path: Path) -> None:
    settings = settings_of(model, epochs=3.0, schedule="cosine", warmup=0.25, batch_examples=6)
    result = run(rows, tmp_path, settings)
    rates = [each["learning_rate"] for each in result.report["loss"]]
    # The rate of a step is that with which it was taken; the warm-up of 3 of 12 steps begins at 0.
    expected = [step / 3 for step in range(3)] + [(1 + math.cos(math.pi * step / 9)) / 2 for step in range(9)]
    assert rates == pytest.approx([1e-3 * each for each in expected], abs=1e-9)
