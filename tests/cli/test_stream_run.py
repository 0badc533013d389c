"""`toolkit stream run`: answers against a plain conversation, going on after a stop, and what it refuses."""

import json

import polars as pl
import pytest
import torch

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from pyllm.lm.loading import load_tokenizer
from pyllm.lm.sources import find_model
from pyllm.stream.batch_run import ANSWER_COLUMNS, Answering, answer_conversations, read_conversations
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, Voice, generate, generator_of
from pyllm.stream.model import load_stream_model
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.shell import bash
from tests.support.tiny_models import save_tiny_model, write_jsonl

SMALL = ["--cache", "60", "--sinks", "2", "--recent", "10", "--max-new-tokens", "7"]
SETTINGS = StreamSettings(budget=Budget(2, 48, 10))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ROWS = [
    {"dialogue_id": "b", "messages": [user("Hi"), assistant("not fed"), user("How are you?"), user("And now?")]},
    {"dialogue_id": "a", "messages": [{"role": "system", "content": "Be brief."}, user("Who?"), user("Where is it?")]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    source = find_model(str(folder))
    model = load_stream_model(source, device=torch.device("cpu"), dtype=torch.float32)
    return model, Voice(load_tokenizer(source), model)


@pytest.fixture
def command(folder, tmp_path):
    """Where answers would be written, and the words of a command that would write them."""
    source = write_jsonl(tmp_path / "chats.jsonl", ROWS)
    out = tmp_path / "answers.parquet"
    return out, ["stream", "run", str(source), "--model", str(folder), "--out", str(out), *SMALL]


def answered(loaded, path, rows=ROWS, *, check=None, sampling=None, seed=0):
    answering = Answering(SETTINGS, sampling or Sampling(max_new_tokens=7), seed)
    conversations = read_conversations(pl.DataFrame(rows), "rows")
    return answer_conversations(
        *loaded, conversations, answering, path, identity={"weights": "x"}, source="rows", check=check
    ).table


def test_one_row_a_question(command, tmp_path):
    out, words = command
    report = tmp_path / "report.json"
    assert main([*words, "--report", str(report), "-q"]) == 0
    table, steps = read_table(out)
    assert dict(table.schema) == {"dialogue_id": pl.String, **ANSWER_COLUMNS}
    assert table.select("dialogue_id", "turn").rows() == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1)]
    assert table["cache_tokens"].max() <= 60
    assert table["answer_tokens"].max() <= 7
    assert (table["surprisal_max_nats"] >= table["surprisal_mean_nats"]).all()
    assert table["tokens_per_second"].min() > 0
    # The system text is pinned, and what is held at the end is what was read less what went.
    assert table["kept"].to_list()[4][:11] == list(range(11))
    assert (table["evicted"] > 0).to_list() == table["kept"].is_not_null().to_list()
    numbers = json.loads(report.read_text())
    assert numbers["turns"] == 5
    assert numbers["taken_up"] == 0
    assert numbers["evicted"] == table["evicted"].sum() > 0
    assert steps[-1]["command"] == "stream run"
    assert steps[-1]["settings"]["budget"] == {"sinks": 2, "entropy": 48, "recent": 10}
    # Once more: everything is there already, even the speed that was measured.
    before = out.read_bytes()
    assert main([*words, "--report", str(report), "-q"]) == 0
    assert json.loads(report.read_text())["taken_up"] == 2
    assert out.read_bytes() == before


def test_answers_are_those_of_a_dialogue_by_hand(loaded, tmp_path):
    model, voice = loaded
    table = answered(loaded, tmp_path / "lines.jsonl").filter(dialogue_id="b")
    dialogue = Dialogue(model, SETTINGS)
    for row, text in zip(table.to_dicts(), ["Hi", "How are you?", "And now?"], strict=True):
        before = dialogue.memory.positions.tolist()
        seen = dialogue.memory.seen
        dialogue.begin_turn()
        dialogue.feed(voice.question(text))
        said = list(generate(dialogue, Sampling(max_new_tokens=7), generator_of(0, 0), end_ids=voice.end_ids))
        dialogue.feed(voice.ending(said[-1]), block=32)
        held = dialogue.memory.positions.tolist()
        assert row["content"] == voice.decode(said).lstrip(" ")
        assert row["answer_tokens"] == len(said)
        assert row["cache_tokens"] == len(held)
        assert row["evicted"] == len({*before, *range(seen, dialogue.memory.seen)} - {*held})
        nats = dialogue.trace().nats
        assert row["surprisal_mean_nats"] == pytest.approx(nats.mean())
        assert row["surprisal_max_nats"] == pytest.approx(nats.max())


def test_rows_do_not_know_of_each_other(loaded, tmp_path):
    sampling = Sampling(temperature=1.0, max_new_tokens=7)
    twin = {**ROWS[0], "dialogue_id": "c"}
    both = answered(loaded, tmp_path / "one.jsonl", [*ROWS, twin], sampling=sampling).drop("tokens_per_second")
    turned = answered(loaded, tmp_path / "two.jsonl", [twin, *ROWS[::-1]], sampling=sampling).drop("tokens_per_second")
    assert both.sort("dialogue_id", "turn").equals(turned.sort("dialogue_id", "turn"))
    # The same questions have a chance of their own in every conversation, and with every seed.
    contents = {name: both.filter(dialogue_id=name)["content"].to_list() for name in ("b", "c")}
    assert contents["b"] != contents["c"]
    other = answered(loaded, tmp_path / "three.jsonl", sampling=sampling, seed=1)
    assert other.filter(dialogue_id="b")["content"].to_list() != contents["b"]


class StopError(Exception):
    """A stop from outside."""


def test_a_run_goes_on_where_it_was_stopped(loaded, tmp_path):
    whole = answered(loaded, tmp_path / "whole.jsonl").drop("tokens_per_second")
    path = tmp_path / "cut.jsonl"
    turns = []

    def stop_in_the_second():
        turns.append(1)
        if len(turns) == 4:
            raise StopError

    with pytest.raises(StopError):
        answered(loaded, path, check=stop_in_the_second)
    first = path.read_bytes()
    assert len(first.splitlines()) == 2
    path.write_bytes(first + b'{"sha256":"00","unit"')
    again = answered(loaded, path, check=lambda: turns.append(1))
    assert len(turns) == 4 + 2
    assert path.read_bytes().startswith(first)
    assert again.drop("tokens_per_second").equals(whole)
    # A longer table takes up what is there.
    longer = [*ROWS, {"dialogue_id": "z", "messages": [user("More?")]}]
    answered(loaded, path, longer, check=lambda: turns.append(1))
    assert len(turns) == 6 + 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"dialogue_id": "b"}, "field `dialogue_id`: `b` stood in row 0"),
        ({"dialogue_id": 1.5}, "field `dialogue_id`: it is neither text nor a whole number"),
        ({"messages": []}, "field `messages`: a dialogue needs a message"),
        ({"messages": [assistant("Yes")]}, "field `messages`: nothing is asked"),
        ({"messages": [user("")]}, "field `messages`: message 0 has no text as its `content`"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 0 has no role among system, user, assistant"),
        (
            {"messages": [user("a"), {"role": "system", "content": "x"}]},
            "a system message stands behind another message",
        ),
        ({"messages": "[{"}, "field `messages`: it is neither a list nor JSON text of one"),
        ({"messages": [{"role": "system", "content": "long " * 20}, user("a")]}, "leaves no room in a cache of 60"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_wrong_rows_are_named(command, tmp_path, capsys, row, message):
    out, words = command
    second = {"dialogue_id": "x", "messages": [user("Hi")], **row}
    path = tmp_path / "rows.jsonl"
    # Columns have one type: a row of another type comes alone.
    alone = isinstance(second["messages"], str) or isinstance(second["dialogue_id"], float)
    write_jsonl(path, [second] if alone else [ROWS[0], second])
    assert main([*words[:2], str(path), *words[3:]]) == 3
    shown = capsys.readouterr().err
    assert message in shown
    assert "row " in shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--policy", "newest"], 2, "policy `newest` is unknown"),
        (["--cache", "11"], 2, "a cache of 11 tokens cannot hold 2 sinks and 10 recent tokens"),
        (["--top-p", "0"], 2, "top-p is 0.0: it must be above 0"),
        (["--max-new-tokens", "0"], 2, "invalid value for '--max-new-tokens'"),
        (["--template", "chat"], 4, "chat template"),
        (["--model", "no/where/at/all"], 4, "model folder `no/where/at/all` does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings(command, capsys, words, code, message):
    out, start = command
    assert main([*start, *words]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_table_without_messages(command, tmp_path, capsys):
    out, words = command
    source = write_jsonl(tmp_path / "other.jsonl", [{"dialogue_id": "a", "text": "Hi"}])
    assert main([*words[:2], str(source), *words[3:]]) == 3
    assert "column `messages` is missing from" in capsys.readouterr().err
    assert not out.exists()


def test_in_a_pipe(folder, tmp_path, warm):
    write_jsonl(tmp_path / "chats.jsonl", ROWS)
    finished = bash(
        f"cat chats.jsonl | toolkit stream run --model {folder} {' '.join(SMALL)} --run kept --format jsonl",
        cwd=tmp_path,
        warm=warm,
    )
    assert finished.code == 0
    rows = [json.loads(line) for line in finished.text.splitlines()]
    assert [list(row) for row in rows] == [["dialogue_id", *ANSWER_COLUMNS]] * 5
    assert "assistant messages are left out (1)" in finished.stderr
    assert (tmp_path / "kept" / "answers.jsonl").is_file()
