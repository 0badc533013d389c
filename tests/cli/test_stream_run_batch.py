"""`toolkit stream run --batch`: the answers of one after another, going on after a stop, and errors that name a row."""

import polars as pl
import pytest
import torch

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from pyllm.errors import InputError
from pyllm.stream.batch_run import Answering, answer_conversations, read_conversations
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.stream_models import streaming
from tests.support.tiny_models import save_tiny_model, tiny_tokenizer, write_jsonl

FLOATS = ["surprisal_mean_nats", "surprisal_max_nats"]
WARM = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=5)


def user(text):
    return {"role": "user", "content": text}


def rows_of(count):
    """Conversations of unequal length and number of turns, some with a system text."""
    made = []
    for number in range(count):
        questions = [user(f"{number} what? " * (1 + (3 * number + turn) % 7)) for turn in range(1 + number % 3)]
        system = [{"role": "system", "content": f"Be {number}."}] if number % 4 == 1 else []
        made.append({"dialogue_id": f"row {number}", "messages": [*system, *questions]})
    return made


def loaded_of(kind):
    model = streaming(kind)
    return model, Voice(tiny_tokenizer(), model)


@pytest.fixture(scope="module")
def loaded():
    return loaded_of("llama")


def answered(loaded, path, rows, settings, *, batch, check=None):
    answering = Answering(settings, WARM, 3, 4)
    conversations = read_conversations(pl.DataFrame(rows), "rows")
    return answer_conversations(
        *loaded, conversations, answering, path, identity={}, source="rows", batch=batch, check=check
    ).table


def same(got, expected):
    assert got.drop("tokens_per_second", *FLOATS).equals(expected.drop("tokens_per_second", *FLOATS))
    for name in FLOATS:
        assert (got[name] - expected[name]).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", StreamSettings(budget=Budget(2, 38, 10), decay=0.8, span_after=2)),
        ("gemma3_both", StreamSettings(policy="h2o", budget=Budget(2, 38, 10))),
    ],
    ids=["sirllm", "h2o"],
)
def test_a_batch_answers_as_one_after_another(tmp_path, kind, settings):
    rows, loaded = rows_of(6), loaded_of(kind)
    alone = answered(loaded, tmp_path / "1.jsonl", rows, settings, batch=1)
    together = answered(loaded, tmp_path / "3.jsonl", rows, settings, batch=3)
    same(together, alone)
    assert together["dialogue_id"].unique(maintain_order=True).to_list() == [row["dialogue_id"] for row in rows]
    assert together["evicted"].sum() > 0


class StopError(Exception):
    """A stop from outside."""


def test_a_batch_goes_on_where_it_was_stopped(loaded, tmp_path):
    settings, rows = StreamSettings(budget=Budget(2, 48, 10)), rows_of(6)
    whole = answered(loaded, tmp_path / "whole.jsonl", rows, settings, batch=4)
    turns = []

    def stop():
        turns.append(1)
        if len(turns) == 7:
            raise StopError

    path = tmp_path / "cut.jsonl"
    with pytest.raises(StopError):
        answered(loaded, path, rows, settings, batch=3, check=stop)
    kept = len(path.read_bytes().splitlines()) - 1
    assert 1 <= kept < 6
    # The size of the batch is no part of what was done.
    again = answered(loaded, path, rows, settings, batch=5, check=lambda: turns.append(2))
    same(again, whole)
    assert turns.count(2) < len(whole) - kept + 1


def test_a_wrong_row_is_named_in_the_middle_of_a_batch(loaded, tmp_path):
    rows = rows_of(6)
    rows[4]["messages"] = [{"role": "system", "content": "long " * 20}, user("a")]
    with pytest.raises(InputError, match="rows: row 4: a system text of"):
        answered(loaded, tmp_path / "x.jsonl", rows, StreamSettings(budget=Budget(2, 48, 10)), batch=3)


def test_the_command(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model")
    source = write_jsonl(tmp_path / "chats.jsonl", rows_of(4))
    words = ["stream", "run", str(source), "--model", str(folder), "--cache", "60", "--sinks", "2", "--recent", "10"]
    tables = []
    for batch in (["--batch", "1"], ["--batch", "3"], []):
        out = tmp_path / "answers.parquet"
        kept = tmp_path / f"kept{len(tables)}"
        assert main([*words, *batch, "--max-new-tokens", "4", "--run", str(kept), "--out", str(out), "-q"]) == 0
        tables.append(read_table(out)[0])
    same(tables[1], tables[0])
    same(tables[2], tables[0])
    assert main([*words, "--batch", "0"]) == 2
    assert "invalid value for '--batch'" in capsys.readouterr().err
    assert torch.is_inference_mode_enabled() is False
