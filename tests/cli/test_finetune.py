"""`toolkit finetune` as a user meets it: pipes, several processes, bad input."""

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pyllm.cli.app import main
from tests.support.shell import bash
from tests.support.tiny_models import save_tiny_model, write_jsonl
from tests.support.warm import WarmToolkit

ROWS = [
    {"instruction": f"Say {word}", "input": "", "output": f"{word} {word}"}
    for word in ("red", "green", "blue", "one", "two", "three", "cat", "dog", "fox", "owl", "ant", "bee")
]
# One thread an operation: two cores that other tests use too are faster so.
CALM = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    save_tiny_model(folder / "model")
    write_jsonl(folder / "rows.jsonl", ROWS)
    write_jsonl(folder / "others.jsonl", [{**row, "output": "no"} for row in ROWS[:3]])
    return folder


def refused(capfd: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Exit code and messages of a command that runs in this process."""
    capfd.readouterr()
    code = main(["finetune", *map(str, words)])
    out, err = capfd.readouterr()
    assert out == ""
    return code, err


@pytest.mark.slow
def test_score_select_finetune_in_one_pipe(folder: Path, warm: WarmToolkit) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = bash(
        "toolkit score rows.jsonl --anchors random:4 --model model -q"
        " | toolkit select --top 75% -q"
        " | toolkit finetune --model model --out run --epochs 8 --batch-size 4 --learning-rate 3e-3"
        " --eval-data others.jsonl --report report.json && toolkit verify run",
        cwd=folder,
        env=CALM,
        warm=warm,
    )
    assert done.code == 0, done.stderr
    assert done.stdout == b""
    report = json.loads((folder / "report.json").read_bytes())
    assert report["examples"] == 9
    assert report["held_out_loss"][-1]["loss"] < report["held_out_loss"][0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(folder / "run" / "final")
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "final")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say red"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.startswith("<s>Below is an instruction")
    assert prompt.endswith("### Instruction:\nSay red\n\n### Response:")
    assert torch.isfinite(model(**tokenizer(prompt, return_tensors="pt", add_special_tokens=False)).logits).all()
    steps = json.loads((folder / "run" / "run.json").read_bytes())["steps"]
    assert [step["command"] for step in steps] == ["score", "select", "finetune"]
    kept = pl.read_parquet(folder / "run" / "data" / "train.parquet")
    assert kept.height == 9


@pytest.mark.slow
def test_two_processes_train_what_one_trains(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # As accurate as sums in another order are: the gradients of two processes are added last.
    options = "rows.jsonl --model model --epochs 2 --batch-size 6 --learning-rate 1e-3 --micro-batch-tokens 450 -q"
    torchrun = Path(sys.executable).parent / "torchrun"
    done = bash(
        f"{torchrun} --standalone --nproc-per-node 2 --no-python"
        f" toolkit finetune {options} --out {tmp_path / 'two'} --report {tmp_path / 'two.json'}",
        cwd=folder,
        env=CALM,
    )
    assert done.code == 0, done.stderr
    one = ["finetune", *options.split(), "--out", str(tmp_path / "one"), "--report", str(tmp_path / "one.json")]
    one[1], one[3] = str(folder / "rows.jsonl"), str(folder / "model")
    assert main(one) == 0
    reports = [json.loads((tmp_path / f"{name}.json").read_bytes()) for name in ("one", "two")]
    assert [report["key"]["processes"] for report in reports] == [1, 2]
    losses = [[each["loss"] for each in report["loss"]] for report in reports]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    found, expected = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("two", "one"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rows.jsonl", "--model", "gone", "--out", "x"], 4, "gone"),
        (["gone.jsonl", "--model", "model", "--out", "x"], 3, "gone.jsonl"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--batch-size", "2", "--batch-tokens", "9"], 2, "contradict"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--epochs", "0"], 2, "epochs"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--template", "chat"], 4, "no chat template"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--early-stop", "2"], 2, "needs held-out rows"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--eval-split", "1.5"], 2, "cannot be held out"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--eval-data", "rows.jsonl"], 3, "nothing is held out"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--device", "cuda"], 4, "no GPU is visible"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--fsdp", "--device", "cpu"], 2, "over GPUs"),
        (["rows.jsonl", "--model", "model", "--out", "model"], 2, "holds other files"),
        (["rows.jsonl", "--model", "model", "--out", "x", "--padded", "--batch-tokens", "99"], 2, "contradict"),
    ],
)
def test_bad_settings_and_data(folder, monkeypatch, capfd, words, code, message):  # noqa: PLR0917
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("a GPU is there, so asking for one is right")
    monkeypatch.chdir(folder)
    found, err = refused(capfd, *words)
    assert (found, message in err) == (code, True), err
    assert not (folder / "x").exists() or not any((folder / "x").iterdir())


def test_rows_without_answers_leave_nothing(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = write_jsonl(tmp_path / "empty.jsonl", [{"instruction": "Say", "input": "", "output": ""}])
    code, err = refused(capfd, rows, "--model", folder / "model", "--out", tmp_path / "run")
    assert code == 3
    assert "without an answer" in err
    assert not (tmp_path / "run").exists()


def test_an_adapter_needs_peft(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_peft(name: str, *rest: Any, **more: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    code, err = refused(capfd, folder / "rows.jsonl", "--model", folder / "model", "--out", tmp_path / "run", "--lora")
    assert code == 4
    assert "pip install 'pyllm[peft]'" in err


def test_packs_of_another_tokenizer_are_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed"
    words = ["pack", folder / "rows.jsonl", "--tokenizer", "nano", "--length", "64", "--out", packed, "-q"]
    assert main([str(word) for word in words]) == 0
    code, err = refused(capfd, packed, "--model", folder / "model", "--out", tmp_path / "run")
    assert code == 2
    assert "another tokenizer" in err


def test_packs_train_what_their_rows_train(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack = ["pack", folder / "rows.jsonl", "--tokenizer", folder / "model", "--length", "256", "--template", "alpaca"]
    assert main([*map(str, pack), "--out", str(packed), "-q"]) == 0
    reports = []
    for source in (packed, folder / "rows.jsonl"):
        words = [
            "finetune",
            source,
            "--model",
            folder / "model",
            "--out",
            tmp_path / f"run-{source.name}",
            "--epochs",
            "1",
        ]
        report = tmp_path / f"{source.name}.json"
        more = ["--max-length", "256", "--batch-tokens", "512", "--report", str(report), "-q"]
        assert main([*map(str, words), *more]) == 0
        reports.append(json.loads(report.read_bytes()))
    assert [each["loss"] for each in reports[0]["loss"]] == [each["loss"] for each in reports[1]["loss"]]
    assert reports[0]["key"]["settings"]["template"] == "alpaca"
