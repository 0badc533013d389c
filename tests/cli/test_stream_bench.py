"""`toolkit stream bench recall`: its files, its table, going on, and what it refuses."""

import json

import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from pyllm.stream.recall import ROW_COLUMNS
from tests.support.tiny_models import save_tiny_model

SMALL = ["--facts", "2", "--tokens", "600", "--cache", "120", "--recent", "10", "--dialogues", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def command(model, tmp_path):
    """Where results would be, and the words of a command that would write them."""
    out = tmp_path / "bench"
    return out, ["stream", "bench", "recall", "--model", model, "--out", str(out), *SMALL]


def run(model, out, *words):
    return main(["stream", "bench", "recall", "--model", model, "--out", str(out), *SMALL, *words])


def test_files_and_table(model, tmp_path, capsys):
    out, arms = tmp_path / "bench", ["full", "streaming", "random+4", "sirllm", "sirllm+8"]
    report = tmp_path / "report.json"
    assert run(model, out, "--policies", ",".join(arms), "--report", str(report)) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2 facts each, cache 120; differences from `sirllm`" in shown.err
    first_words = [line.split()[0] for line in shown.err.splitlines() if line.strip()]
    assert first_words[-9:] == ["policy", *arms, "chance", "frequency", "unseen"]
    table, steps = read_table(out / "recall.parquet")
    assert dict(table.schema) == ROW_COLUMNS
    assert table["arm"].to_list() == [*arms, "unseen"] * 2
    bounded = table.filter(~pl.col("arm").is_in(["full", "unseen"]))
    assert bounded["cache_tokens"].max() <= 120
    assert bounded["evictions"].min() > 0
    assert steps[-1]["command"] == "stream bench recall"
    assert steps[-1]["settings"]["cache"] == 120
    numbers = json.loads((out / "recall.json").read_text())
    assert numbers == json.loads(report.read_text())
    assert [row["arm"] for row in numbers["arms"]] == arms
    assert numbers["context"][0] == {"arm": "chance", "recall": 0.5, "choice": 0.5, "answer_nats": None, "nats": None}
    assert {"weights_sha256", "tokenizer_sha256", "dtype", "version"} <= numbers.keys()
    means = table.filter(arm="sirllm+8").select(pl.col("nats").sum() / pl.col("scored_tokens").sum()).item()
    assert numbers["arms"][4]["nats"] == pytest.approx(means)
    low, high = numbers["arms"][4]["intervals"]["nats"]
    assert low <= means <= high
    # Once more: nothing is read again, and the same is written.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(model, out, "--policies", ",".join(arms)) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Another seed is other work, which does not touch what is there.
    assert run(model, out, "--policies", ",".join(arms), "--seed", "1") == 2
    assert "belongs to other work: settings.seed: 0 there, 1 here" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--policies", "full,newest"], 2, "policy `newest` is unknown"),
        (["--policies", ","], 2, "no policies are given"),
        (["--policies", "sirllm+"], 2, "policy `sirllm+`: `` is no number of tokens"),
        (["--baseline", "h2o"], 2, "baseline `h2o` is not among the policies"),
        (["--cache", "12"], 2, "a cache of 12 tokens has no place"),
        (["--facts", "1"], 2, "facts is 1: it must be from 2 to 32"),
        (["--facts", "20"], 2, "20 facts do not fit into the first third of 600 tokens"),
        (["--dialogues", "0"], 2, "invalid value for '--dialogues'"),
        (["--model", "no/where/at/all"], 4, "model folder `no/where/at/all` does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings(command, capsys, words, code, message):
    out, start = command
    assert main([*start, *words]) == code
    assert message in capsys.readouterr().err
    assert not (out / "recall.parquet").exists()


def test_a_folder_that_cannot_be(model, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert run(model, tmp_path / "file") == 4
    assert "cannot write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_the_group_alone_shows_its_help(capsys):
    assert main(["stream", "bench"]) == 2
    assert "recall" in capsys.readouterr().err
