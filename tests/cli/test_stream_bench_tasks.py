"""The benches of the paper's experiments through the command line: files, tables, going on, and what is refused."""

import json
import re

import pytest

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from tests.support import bench_data
from tests.support.tiny_models import save_tiny_model, write_jsonl

ARMS = ["--policies", "full,streaming,sirllm", "--cache", "100", "--recent", "8"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def run(model, tmp_path):
    """Runs a bench; gives its exit code."""

    def start(bench, *words, out="bench"):
        return main(["stream", "bench", bench, "--model", model, "--out", str(tmp_path / out), *map(str, words)])

    return start


def test_grocery(run, tmp_path, capsys):
    data = bench_data.grocery(tmp_path / "keys.jsonl", 2, 1)
    words = [*ARMS, "--spans", "0,4", "--decay", "1", "--decay", "auto", "--horizon-turns", "2"]
    assert run("grocery", data, *words, "--limit", "1") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "partial results: grocery: the first 1 of 2 dialogues" in shown.err
    assert "only a part" not in shown.err
    # More dialogues and more arms take up what is there.
    before = (tmp_path / "bench" / "dialogues.jsonl").read_bytes()
    assert run("grocery", data, *words, "--report", tmp_path / "r.json") == 0
    assert (tmp_path / "bench" / "dialogues.jsonl").read_bytes().startswith(before)
    table, steps = read_table(tmp_path / "bench" / "grocery.parquet")
    arms = [
        "full", "streaming cache 100", "sirllm cache 100 recent 8", "sirllm cache 100 recent 8 decay auto 2",
        "sirllm+4 cache 100 recent 8", "sirllm+4 cache 100 recent 8 decay auto 2",
    ]  # fmt: skip
    assert table["arm"].to_list() == arms * 2
    assert table.filter(arm=arms[1])["cache_tokens"].max() <= 100
    assert steps[-1]["command"] == "stream bench grocery"
    numbers = json.loads((tmp_path / "bench" / "grocery.json").read_text())
    assert numbers == json.loads((tmp_path / "r.json").read_text())
    assert numbers["partial"] is None
    assert numbers["data"][0]["name"] == "keys.jsonl"
    (task,) = numbers["tasks"]
    assert [row["arm"] for row in task["arms"]] == arms
    assert (task["dialogues"], task["turns"], task["budget_held"]) == (2, 6, True)
    assert {row["compared_with"] for row in task["arms"]} == {"streaming cache 100"}
    assert [row["arm"] for row in task["context"]] == ["always A", "always B", "always C", "always D", "chance"]
    assert task["arms"][0]["retention"] == 1.0
    assert task["arms"][3]["ratio"] <= 1.0
    page = (tmp_path / "bench" / "page.html").read_text()
    assert all(arm in page for arm in arms)
    assert not re.search(r"https?:|src=|<script", page)
    # Once more: nothing is played again, and the same is written.
    files = {path.name: path.read_bytes() for path in (tmp_path / "bench").iterdir()}
    assert run("grocery", data, *words, "-q") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "bench").iterdir()} == files
    capsys.readouterr()
    # The right answers in the cache are other work.
    assert run("grocery", data, *words, "--history", "gold") == 2
    assert "belongs to other work: settings.history: self there, gold here" in capsys.readouterr().err


def test_decay_on_two_tasks(run, tmp_path, capsys):
    player = bench_data.player(tmp_path / "rock.jsonl", "AAB")
    dialogues = bench_data.dailydialog(tmp_path / "dd.jsonl", 2)
    words = ["--policies", "sirllm", "--cache", "120", "--recent", "8", "--spans", "0", "--decay", "1,0.5,auto"]
    assert run("decay", "--rps", player, "--dailydialog", dialogues, *words, "--horizon-turns", "1,3") == 0
    numbers = json.loads((tmp_path / "bench" / "decay.json").read_text())
    assert [task["task"] for task in numbers["tasks"]] == ["dailydialog", "rps"]
    for task in numbers["tasks"]:
        assert [row["decay"] for row in task["arms"]] == ["1.0", "0.5", "auto", "auto"]
        assert {row["compared_with"] for row in task["arms"]} == {"sirllm cache 120 recent 8"}
        assert all(0 < row["ratio"] <= 1 for row in task["arms"][2:])
    assert numbers["tasks"][0]["turns_with_duplicate_choices"] == 4
    assert "beyond" in capsys.readouterr().err
    assert run("decay", out="none") == 2
    assert "no data is given" in capsys.readouterr().err


def test_shots(run, tmp_path, capsys):
    data = bench_data.grocery(tmp_path / "keys.jsonl", 1, 1)
    assert run("fewshot", data, "--shots", "0,1") == 0
    numbers = json.loads((tmp_path / "bench" / "fewshot.json").read_text())
    assert [row["arm"] for row in numbers["tasks"][0]["arms"]] == ["0 shots", "1 shot"]
    assert run("fewshot", data, "--shots", "x", out="other") == 2
    assert "--shots: `x` is no whole number" in capsys.readouterr().err


def test_long_text(run, tmp_path, capsys):
    data = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"Number {number} of many."} for number in range(20)])
    words = [*ARMS, "--spans", "0", "--decay", "1", "--tokens", "300", "--turn-tokens", "30"]
    assert run("ppl", data, *words) == 0
    assert "300 tokens in turns of 30, by turn; memory flat" in capsys.readouterr().err
    numbers = json.loads((tmp_path / "bench" / "ppl.json").read_text())
    (made,) = numbers["protocols"]
    assert [row["arm"] for row in made["arms"]] == ["full", "streaming cache 100", "sirllm cache 100 recent 8"]
    assert made["arms"][1]["cache_bytes"] < made["arms"][0]["cache_bytes"]
    assert made["arms"][0]["most_cache_tokens"] == 300
    assert "<polyline" in (tmp_path / "bench" / "page.html").read_text()
    assert run("ppl", data, *words[:-4], "--tokens", "9000", "--protocol", "word", out="x") == 2
    assert "--protocol: `word` is not among turn, token" in capsys.readouterr().err


def test_attention(run, tmp_path, capsys):
    data = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"Number {number} of many."} for number in range(3)])
    assert run("attention", data, "--sentences", "2", "--tokens", "12") == 0
    assert "Attention by quarter of surprisal, 2 sentences" in capsys.readouterr().err
    table, _ = read_table(tmp_path / "bench" / "attention.parquet")
    assert table.height == 2 * 2 * 4
    assert "<polyline" in (tmp_path / "bench" / "page.html").read_text()
    assert run("attention", data, "--tokens", "400", out="x") == 3
    assert "holds no text of 400 tokens or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--policies", "newest"], 2, "policy `newest` is unknown"),
        (["--policies", ","], 2, "--policies is given without a value"),
        (["--cache", "12"], 2, "a cache of 12 tokens has no place beside 4 sinks and 8 recent tokens"),
        (["--cache", "many"], 2, "--cache: `many` is no whole number"),
        (["--decay", "fast"], 2, "--decay: `fast` is neither a number nor `auto`"),
        (["--decay", "2"], 2, "decay is 2.0: it must be from 0 to 1"),
        (["--score", "length"], 2, "--score: `length` is not among surprisal, as-published"),
        (["--baseline", "h2o"], 2, "baseline `h2o` is not among the arms"),
        (["--model", "no/where/at/all"], 4, "model folder `no/where/at/all` does not exist"),
        (["--template", "chat"], 4, "the model's tokenizer has no chat template"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings(run, tmp_path, capsys, *, words, code, message):
    data = bench_data.grocery(tmp_path / "keys.jsonl", 1, 1)
    assert run("grocery", data, *ARMS, *words) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()


def test_data_that_is_none(run, tmp_path, capsys):
    (tmp_path / "keys.jsonl").write_text('{"id": 1}\n')
    assert run("grocery", tmp_path / "keys.jsonl") == 3
    assert "keys.jsonl: line 1, field `question.stem`: it is no text" in capsys.readouterr().err
    assert run("rps", tmp_path / "none.jsonl") == 3
    assert "none.jsonl cannot be read" in capsys.readouterr().err


def test_decay_that_follows_from_a_horizon_in_a_replay(model, tmp_path, capsys):
    turns = [{"dialogue_id": "a", "turn": turn, "token_ids": [5 + turn, 9, 40 + 3 * turn] * 5} for turn in range(12)]
    data = write_jsonl(tmp_path / "turns.jsonl", turns)
    words = ["stream", "replay", str(data), "--model", model, "--entropy-tokens", "60", "--recent", "4"]
    out = ["--out", str(tmp_path / "trace.parquet"), "--report", str(tmp_path / "report.json")]
    assert main([*words, *out, "--decay", "auto", "--horizon-turns", "3"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert 0 < report["mean_decay_ratio"] <= 1
    assert 0 <= report["share_beyond_horizon"] <= 1
    _, steps = read_table(tmp_path / "trace.parquet")
    assert steps[-1]["settings"]["horizon_turns"] == 3
    capsys.readouterr()
    assert main([*words, "--horizon-turns", "3"]) == 2
    assert "`--horizon-turns 3` has no part in a fixed decay" in capsys.readouterr().err
    assert main([*words, "--decay", "sometimes"]) == 2
    assert "sometimes is neither `auto` nor a number from 0 to 1" in capsys.readouterr().err
