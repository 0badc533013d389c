"""`toolkit stream replay`: flags, columns, the published code's runs from the shell, and what it refuses."""

import json
import sys

import numpy as np
import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from tests.support.shell import bash
from tests.support.stream_models import STREAM_CONFIGS, model_of
from tests.support.tiny_models import CONFIGS, save_tiny_model, tiny_tokenizer, write_jsonl

COLUMNS = {
    "dialogue_id": pl.String,
    "turn": pl.Int64,
    "cache_tokens_before": pl.UInt32,
    "kept": pl.List(pl.UInt32),
    "entropy_nats": pl.List(pl.Float64),
    "cache_tokens_after": pl.UInt32,
}
SMALL = ["--sinks", "2", "--entropy-tokens", "20", "--recent", "10"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def turns(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {"dialogue_id": name, "turn": turn, "token_ids": random.integers(3, 320, int(count)).tolist()}
        for turn in range(5)
        for name, count in (("a", 12), ("b", 40))
    ]
    return str(write_jsonl(tmp_path / "turns.jsonl", rows[::-1]))


@pytest.fixture
def command(model, turns, tmp_path):
    """Where a trace would be written, and the words of a command that would write it."""
    out = tmp_path / "trace.parquet"
    return out, ["stream", "replay", turns, "--model", model, "--out", str(out)]


def replayed(tmp_path, *words):
    out = tmp_path / "trace.parquet"
    assert main(["stream", "replay", *map(str, words), "--out", str(out), "-q"]) == 0
    return pl.read_parquet(out)


@pytest.mark.parametrize("run_id", ["00_mha", "06_gqa", "15_mha", "21_mha", "24_gqa"])
def test_runs_of_the_published_code(shared_dir, tmp_path, run_id):
    folder = shared_dir / "reference" / "sirllm"
    if not folder.is_dir():
        pytest.skip("needs the numbers of the published code in ../shared/reference/sirllm, which are not here")
    runs = json.loads((folder / "expected.json").read_text())["runs"]
    run = next(run for run in runs if run["run_id"].startswith(run_id))
    dialogue, rows = -1, []
    for turn in run["turns"]:
        dialogue += turn["num_coming"] is None
        rows.append({"dialogue_id": dialogue, "turn": turn["turn"], "token_ids": turn["fed_ids"]})
    words = ["--sinks", run["start_size"], "--entropy-tokens", run["entropy_size"], "--recent", run["recent_size"]]
    if run["method"] == "streamllm":
        words += ["--policy", "streaming", "--compat", "reference"]
    elif run["score"] == "as_coded":
        words += ["--score", "as-published", "--ties", "older", "--decay", run["decay"]]
    else:
        words += ["--first-token", "max", "--ties", "older", "--decay", run["decay"]]
    source = write_jsonl(tmp_path / "turns.jsonl", rows)
    table = replayed(tmp_path, source, "--model", folder / "model" / run["model"], *words)
    assert table["kept"].to_list() == [turn["kept"] for turn in run["turns"]]
    assert table["cache_tokens_before"].to_list() == [turn["cache_len_before"] for turn in run["turns"]]
    if run["score"] is not None:
        for got, turn in zip(table["entropy_nats"], run["turns"], strict=True):
            np.testing.assert_allclose(got, turn["entropy"], rtol=0, atol=1e-4)


def test_one_row_a_turn_in_the_order_of_the_input(model, turns, tmp_path):
    table = replayed(tmp_path, turns, "--model", model, *SMALL, "--report", tmp_path / "report.json")
    given = pl.read_ndjson(turns)
    assert dict(table.schema) == COLUMNS
    assert table.select("dialogue_id", "turn").equals(given.select("dialogue_id", "turn"))
    assert table["entropy_nats"].list.len().to_list() == given["token_ids"].list.len().to_list()
    assert table["cache_tokens_after"].max() <= 32
    of_a = table.filter(dialogue_id="a").sort("turn")
    assert of_a["cache_tokens_before"].to_list() == [0, 12, 24, 32, 32]
    assert of_a["kept"].is_null().to_list() == [True, True, False, False, False]
    assert of_a["kept"].list.len().to_list() == [None, None, 20, 20, 20]
    # A turn of 40 does not fit beside two sinks: it goes in pieces of 30 and 10, also when it is the first.
    assert table.filter(dialogue_id="b")["kept"].list.len().to_list() == [22] * 5
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {"dialogues": 2, "turns": 10, "tokens": 260, "evictions": 12, "most_cache_tokens": 32}
    # Dialogues do not know of each other.
    alone = write_jsonl(tmp_path / "a.jsonl", given.filter(dialogue_id="a").to_dicts())
    assert replayed(tmp_path, alone, "--model", model, *SMALL).sort("turn").equals(of_a)


@pytest.mark.parametrize(
    "words",
    [
        *(["--policy", name] for name in ("window", "streaming", "random", "interval", "h2o", "tova", "keydiff")),
        ["--policy", "snapkv", "--span-after", "4"],
        ["--policy", "random", "--seed", "5", "--span-after", "3", "--span-before", "2"],
        ["--positions", "rebase"],
        ["--decay", "0"],
        ["--score", "as-published", "--compat", "reference", "--decay", "0.7"],
        ["--dtype", "bfloat16"],
    ],
    ids=" ".join,
)
def test_every_policy_stays_within_its_budget(model, turns, tmp_path, words):
    table = replayed(tmp_path, turns, "--model", model, *SMALL, *words)
    assert table["cache_tokens_after"].max() == 32
    assert table["kept"].null_count() == 2
    again = replayed(tmp_path, turns, "--model", model, *SMALL, *words)
    assert again.equals(table)


def test_full_and_the_overflow_of_the_published_baseline(model, turns, tmp_path):
    table = replayed(tmp_path, turns, "--model", model, *SMALL, "--policy", "full")
    assert table["cache_tokens_after"].max() == 200
    assert table["kept"].null_count() == 10
    words = ["--policy", "streaming", "--sinks", "2", "--entropy-tokens", "0", "--recent", "30"]
    table = replayed(tmp_path, turns, "--model", model, *words, "--compat", "reference").filter(dialogue_id="b")
    assert table.sort("turn")["cache_tokens_after"].to_list() == [40, 42, 42, 42, 42]
    table = replayed(tmp_path, turns, "--model", model, *words).filter(dialogue_id="b")
    assert table["cache_tokens_after"].to_list() == [32] * 5


def test_presets_and_what_is_given_in_their_place(model, turns, tmp_path):
    words = ["--preset", "paper-dailydialog"]
    table = replayed(tmp_path, turns, "--model", model, *words, "--entropy-tokens", "30")
    assert table["cache_tokens_after"].max() == 34
    steps = read_table(tmp_path / "trace.parquet")[1]
    settings = steps[-1]["settings"]
    assert steps[-1]["command"] == "stream replay"
    assert settings["budget"] == {"sinks": 4, "entropy": 30, "recent": 0}
    assert settings["decay"] == 0.7


def test_texts_and_conversations(model, tmp_path):
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"dialogue_id": 1, "turn": 0, "text": "Hi"}])
    spoken = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    talks = write_jsonl(tmp_path / "talks.jsonl", [{"dialogue_id": 1, "messages": spoken}])
    length = len(tiny_tokenizer()(["USER: Hi\n\nASSISTANT:"])["input_ids"][0])
    assert replayed(tmp_path, texts, "--model", model)["entropy_nats"].list.len().to_list() == [length]
    assert replayed(tmp_path, texts, "--model", model, "--template", "none")["cache_tokens_after"].to_list() == [2]
    assert replayed(tmp_path, talks, "--model", model)["entropy_nats"].list.len().to_list() == [length + 3]


def test_a_policy_of_ones_own_stands_in_the_working_folder(model, turns, tmp_path, monkeypatch):
    code = "import numpy as np\nclass Oldest:\n    def keep(self, tokens):\n        return np.arange(tokens.room)\n"
    (tmp_path / "replay_policies.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    table = replayed(tmp_path, turns, "--model", model, *SMALL, "--policy", "replay_policies:Oldest")
    assert sys.path == before
    assert table.filter(dialogue_id="a").sort("turn")["kept"].to_list()[-1] == list(range(20))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--policy", "newest"], 2, "policy `newest` is unknown"),
        (["--entropy-tokens", "0", "--recent", "0"], 2, "entropy tokens and recent are both 0"),
        (["--positions", "native-sliding"], 2, "the model has no sliding layers"),
        (["--model", "no/where/at/all"], 4, "model folder `no/where/at/all` does not exist"),
        (["--decay", "1.5"], 2, "invalid value for '--decay'"),
        (["--ties", "oldest"], 2, "invalid value for '--ties'"),
        (["--preset", "paper"], 2, "invalid value for '--preset'"),
        (["--device", "tpu"], 2, "device `tpu` is unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings(command, capsys, words, code, message):
    out, start = command
    assert main([*start, *words]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_wrong_rows_are_named(model, tmp_path, capsys):
    rows = [{"dialogue_id": "a", "turn": 0, "token_ids": [5]}, {"dialogue_id": "a", "turn": 1, "token_ids": [5, 999]}]
    source = write_jsonl(tmp_path / "turns.jsonl", rows)
    assert main(["stream", "replay", str(source), "--model", model, "--out", str(tmp_path / "trace.parquet")]) == 3
    expected = "row 1, field `token_ids`: 999 at place 1 is no token of the model, which has 320"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "trace.parquet").exists()


def test_models_that_cannot_be_streamed(turns, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "gpt2", "gpt2")
    assert main(["stream", "replay", turns, "--model", str(model), "--out", str(tmp_path / "trace.parquet")]) == 4
    assert "learned or absolute positions" in capsys.readouterr().err
    assert "gpt2" in CONFIGS


def test_what_deserves_a_warning(tmp_path, turns, capsys):
    folder = tmp_path / "model"
    model_of(STREAM_CONFIGS["llama"]).save_pretrained(folder)
    out = ["--out", str(tmp_path / "trace.parquet")]
    words = ["--policy", "streaming", "--decay", "0.5", "--span-after", "3"]
    assert main(["stream", "replay", turns, "--model", str(folder), *words, *out]) == 0
    shown = capsys.readouterr().err
    assert "a cache of 1,024 tokens is larger than the 256 positions that model" in shown
    assert "`--decay` has no part in policy `streaming`" in shown
    assert "spans have no part in policy `streaming`" in shown


def test_the_group_alone_shows_its_help(capsys):
    assert main(["stream"]) == 2
    assert "replay" in capsys.readouterr().err


def test_in_a_pipe(model, turns, tmp_path, warm):
    line = f"cat {turns} | toolkit stream replay --model {model} --format jsonl | head -n 3"
    finished = bash(line, cwd=tmp_path, warm=warm)
    assert finished.code == 0
    rows = [json.loads(line) for line in finished.text.splitlines()]
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    assert "stream: replayed 10 turns of 2 dialogues" in finished.stderr
