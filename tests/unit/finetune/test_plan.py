"""A plan counts what the run does, and its estimates are near what can be measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pyllm.cli.app import main
from pyllm.data.packing import PackSettings, pack_examples
from pyllm.errors import PrerequisiteError
from pyllm.finetune import probe as probing
from pyllm.finetune.job import Request, prepare
from pyllm.finetune.plan import Numerics, estimate_memory, make_plan, model_shape, numerics_of
from pyllm.finetune.probe import Hours, Probe, hours_of, run_probe
from pyllm.finetune.settings import FinetuneSettings, LoraSettings
from pyllm.lm.tokenizing import find_tokenizer
from tests.support.tiny_models import CONFIGS, write_jsonl

FLOATS = Numerics(weight_bytes=4, compute_bytes=4, checkpointing=False, masked_attention=True, on_gpu=False)
ROWS = [
    {"instruction": "No answer", "output": ""},
    {"instruction": "A question as long as the limit, " * 12, "output": "never seen"},
    {"instruction": "Count.", "output": "one two three four five six seven eight nine ten " * 12},
    *({"instruction": f"Say {number}.", "output": f"{number} " * (1 + number % 5)} for number in range(20)),
]


def job_of(source, eval_data=None, **chosen):
    given_settings = {"model": "nano", "template": "nuggets", "max_length": 64, "batch_examples": 8} | chosen
    request = Request(str(source), FinetuneSettings(**given_settings), template="nuggets", eval_data=eval_data)
    return prepare(request)


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "folder"
    found.mkdir()
    return found


def test_rows_tokens_and_steps_are_counted(rows, folder):
    plan = make_plan(job_of(rows, epochs=2.0), folder)
    assert plan.rows == {
        "in": 23, "trained": 21, "truncated": 2, "fully_masked": 1, "without_answer": 1, "too_long": 0, "refused": 0,
    }  # fmt: skip
    numbers = plan.numbers()
    lengths = plan.sequences.lengths
    assert len(lengths) == 21
    assert numbers["tokens"] == 2 * lengths.sum()
    assert numbers["trained_tokens"] == 2 * plan.sequences.trained_tokens.sum()
    assert numbers["steps"] == 6  # 42 examples, 8 of them a step
    assert numbers["step_tokens"]["largest"] == max(
        sum(int(lengths[place]) for examples in plan.schedule.passes[step : step + 1] for place in examples)
        for step in range(6)
    )
    assert numbers["passes"]["per_step"] == 1
    assert numbers["passes"]["limit_tokens"] == 1024
    assert numbers["passes"]["fill"] == pytest.approx(2 * lengths.sum() / (6 * 1024), abs=1e-6)
    assert numbers["passes"]["padding"] == 0


def test_less_than_an_epoch_trains_fewer_rows(rows, folder):
    plan = make_plan(job_of(rows, epochs=0.5), folder)
    assert plan.rows["trained"] == 10
    assert plan.schedule.steps == 2


def test_padding_is_computed_too(rows, folder):
    plan = make_plan(job_of(rows, padded=True), folder)
    lengths = plan.sequences.lengths
    padded = [len(examples) * max(lengths[list(examples)]) for examples in plan.schedule.passes]
    assert plan.pass_sizes.tolist() == padded
    assert plan.numbers()["passes"]["padding"] == pytest.approx(1 - plan.schedule.tokens / sum(padded), abs=1e-6)


def test_held_out_rows_are_evaluated_at_the_start_and_then_as_often_as_saved(rows, folder, tmp_path):
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [{"instruction": "Say 99.", "output": "99"}])
    job = job_of(rows, str(held_out), epochs=2.0)
    plain = make_plan(job, folder, save_every=6).evaluated_tokens
    assert plain > 0
    assert make_plan(job, folder, save_every=2).evaluated_tokens == 2 * plain
    assert make_plan(job, folder).evaluated_tokens == 7 * plain // 2


def test_packs_say_less_of_their_rows(rows, folder, tmp_path):
    pack_examples([rows], tmp_path / "packed", find_tokenizer("nano"), PackSettings(length=64))
    plan = make_plan(job_of(tmp_path / "packed", batch_examples=None, batch_tokens=128, epochs=1.0), folder)
    assert plan.rows["in"] is None
    assert plan.rows["truncated"] is None
    assert (plan.rows["trained"], plan.rows["fully_masked"]) == (21, 0)
    packs = len(plan.sequences.packs) - 1
    assert plan.schedule.steps == -(-packs // 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_are_counted(kind):
    config = CONFIGS[kind]()
    model = AutoModelForCausalLM.from_config(config)
    shape = model_shape(config, None)
    assert shape.parameters == model.num_parameters() == shape.trained
    assert (shape.hidden, shape.layers, shape.vocabulary, shape.adapter) == (32, 2, 320, 0)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shape.embeddings == 320 * 32 * (1 if tied else 2)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3"])
def test_weights_of_an_adapter_are_counted(kind):
    peft = pytest.importorskip("peft", reason="needs the extra `peft`")
    config = CONFIGS[kind]()
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules="all-linear")
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    assert model_shape(config, LoraSettings(rank=3, alpha=6)).adapter == model.get_nb_trainable_parameters()[0]


def saved_bytes(model, tokens, *, bf16):
    """What the forward pass of a model's blocks keeps for the backward pass, each storage once; its weights apart."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    positions = torch.arange(tokens)[None] % (tokens // 2)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        model.base_model(input_ids=positions % 320, position_ids=positions, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("how", ["fp32", "bf16", "checkpointing"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox"])
def test_activations_are_about_what_a_forward_pass_keeps(kind, how):
    config = CONFIGS[kind]()
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_config(config).train()
    if how == "checkpointing":
        model.activation_checkpointing_enable()
    numerics = replace(FLOATS, compute_bytes=2 if how == "bf16" else 4, checkpointing=how == "checkpointing")
    memory = estimate_memory(model_shape(config, None), numerics, largest_pass=128)
    measured = saved_bytes(model, 128, bf16=how == "bf16")
    estimated = memory.activations + memory.copies
    if how == "checkpointing":
        # The one layer that is computed again is there later.
        ends = 2 * 128 * 32 * 4
        plain = estimate_memory(model_shape(config, None), FLOATS, largest_pass=128)
        estimated -= (plain.activations - ends) // 2
    assert 0.6 < estimated / measured < 1.8


def test_the_formula_of_memory():
    shape = replace(model_shape(CONFIGS["llama"](), None), parameters=1000, embeddings=200, layers=2)
    gpu = Numerics(weight_bytes=4, compute_bytes=2, checkpointing=False, masked_attention=False, on_gpu=True)
    plain = estimate_memory(shape, gpu, largest_pass=10)
    assert (plain.weights, plain.gradients, plain.moments, plain.copies) == (4000, 4000, 8000, 2000)
    ends = 2 * 10 * 32 * 4
    assert plain.activations == ends + 2 * 10 * (5 * 32 * 4 + 2 * (5 * 32 + 2 * 16 + 4 * 48) + 2 * 32 * 2)
    assert plain.head == 10 * 32_768 * 2 + 4 * 10 * 32 + 4 * 320 * 32
    assert plain.total == 4000 + 4000 + 8000 + 2000 + plain.activations + plain.head
    both = estimate_memory(shape, gpu, largest_pass=10, processes=2)
    assert (both.weights, both.gradients, both.moments) == (4000, 8000, 8000)
    sharded = estimate_memory(shape, gpu, largest_pass=10, processes=2, sharded=True)
    assert (sharded.weights, sharded.gradients, sharded.moments) == (2000, 2000, 4000)
    assert sharded.copies == 2 * (200 + 2 * 400)
    half = replace(gpu, weight_bytes=2)
    adapter = estimate_memory(replace(shape, adapter=10), half, largest_pass=10)
    assert (adapter.weights, adapter.gradients, adapter.moments, adapter.copies) == (2040, 40, 80, 0)
    assert adapter.head == 10 * 32_768 * 2 + 4 * 10 * 32
    kept = estimate_memory(shape, replace(gpu, checkpointing=True), largest_pass=10)
    assert kept.activations == ends + 2 * 10 * 32 * 4 + (plain.activations - ends) // 2
    masked = replace(gpu, masked_attention=True)
    assert estimate_memory(shape, masked, largest_pass=10).activations == plain.activations + 2 * 2 * 10 * 10
    eager = estimate_memory(replace(shape, eager=True), masked, largest_pass=10)
    assert eager.activations == plain.activations + 2 * 4 * (4 + 4) * 10 * 10


def test_numerics_follow_the_settings(rows):
    assert numerics_of(job_of(rows, device="cpu")) == replace(FLOATS, masked_attention=False)
    assert numerics_of(job_of(rows, device="cpu", padded=True)) == FLOATS
    chosen = numerics_of(job_of(rows, device="cpu", precision="bf16", activation_checkpointing=True))
    assert chosen == replace(FLOATS, masked_attention=False, compute_bytes=2, checkpointing=True)


def test_hours_follow_from_tokens_and_steps(rows, folder):
    plan = replace(make_plan(job_of(rows, epochs=2.0), folder), evaluated_tokens=600)
    measured = Probe("cpu", (100, 200), (1.0, 2.0), 0.5, None)
    tokens = int(plan.pass_sizes.sum())
    assert hours_of(plan, measured) == Hours((tokens / 100 + 6 * 0.5) / 3600, 2 / 3600)
    twice = replace(plan, processes=2, numerics=replace(FLOATS, checkpointing=True))
    assert hours_of(twice, measured).evaluation == pytest.approx(600 / 200 / 4 / 3600)
    assert hours_of(twice, measured).total == pytest.approx((tokens / 200 + 3 + 0.75) / 3600)


def test_the_command_tells_the_plan_and_leaves_no_run(rows, tmp_path, capfd):
    report, run = tmp_path / "report.json", tmp_path / "run"
    words = ["finetune", str(rows), "--model", "nano", "--out", str(run), "--template", "nuggets", "--plan"]
    words += ["--max-length", "64", "--batch-size", "8", "--eval-split", "0.2", "--report", str(report)]
    assert main(words) == 0
    captured = capfd.readouterr()
    assert not captured.out
    assert not run.exists()
    numbers = json.loads(report.read_text())
    assert numbers["command"] == "finetune --plan"
    assert numbers["rows"]["in"] + 5 == len(ROWS)
    assert f"  rows     {numbers['rows']['trained']:,} trained of {numbers['rows']['in']:,}, " in captured.err
    assert "cut at 64 tokens" in captured.err
    assert f"{numbers['steps']} of 8 examples" in captured.err
    assert "  memory   about " in captured.err
    assert "  time     about " in captured.err
    found = numbers["probe"]
    assert found["device"] == "cpu"
    assert found["pass_tokens"][1] == numbers["passes"]["largest_tokens"] >= found["pass_tokens"][0]
    assert min(*found["pass_seconds"], found["optimizer_seconds"]) > 0
    assert found["tokens_per_second"] == pytest.approx(sum(found["pass_tokens"]) / sum(found["pass_seconds"]))
    hours = numbers["hours"]
    assert hours["total"] == pytest.approx(hours["training"] + hours["evaluation"])
    assert hours["evaluation"] > 0
    assert (
        sum(size for name, size in numbers["memory"].items() if name != "total_bytes")
        == (numbers["memory"]["total_bytes"])
    )


@pytest.mark.parametrize(
    "chosen", [{"lora": LoraSettings(rank=4)}, {"padded": True}, {"activation_checkpointing": True}]
)
def test_the_probe_runs_as_the_run_would(rows, folder, chosen):
    if "lora" in chosen:
        pytest.importorskip("peft", reason="needs the extra `peft`")
    job = job_of(rows, device="cpu", **chosen)
    plan = make_plan(job, folder)
    state = torch.random.get_rng_state()
    found = run_probe(job, plan, folder)
    assert found.pass_tokens[1] == plan.pass_sizes.max()
    assert found.pass_tokens[0] == np.sort(plan.pass_sizes)[len(plan.pass_sizes) // 2]
    assert len(found.pass_seconds) == 2
    assert state.shape == torch.random.get_rng_state().shape
    assert not list(folder.rglob("*.safetensors"))


def test_a_run_that_does_not_fit_is_refused_before_it_is_tried(rows, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(probing, "host_memory", lambda: 2**20)
    words = ["finetune", str(rows), "--model", "nano", "--out", str(tmp_path / "run"), "--plan", "--device", "cpu"]
    assert main(words) == 4
    error = capfd.readouterr().err
    assert "  memory   about " in error
    assert "a run would take about " in error
    assert "and the machine has 1 MiB" in error
    assert "hint: lower --micro-batch-tokens" in error


def test_running_out_of_memory_is_no_bug(rows, folder, monkeypatch):
    def fails(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(probing, "make_trainer", fails)
    job = job_of(rows, device="cpu")
    with pytest.raises(PrerequisiteError, match=r"memory ran out in a forward pass of [\d,]+ tokens") as caught:
        run_probe(job, make_plan(job, folder), folder)
    assert caught.value.exit_code == 4
    assert "--micro-batch-tokens" in str(caught.value.hint)
