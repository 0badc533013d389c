"""What is shown before a run is what the run trains, character by character."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.cli import _pipes, _plans
from pyllm.cli._plans import masked_text
from pyllm.cli.app import main
from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.tokens import MASKED
from pyllm.finetune.job import Request, prepare
from pyllm.finetune.mask import Part, ShownExample, decoder, first_examples, parts_of
from pyllm.finetune.settings import FinetuneSettings
from pyllm.lm.tokenizing import find_tokenizer
from tests.support.tiny_models import write_jsonl

ROWS = [
    {"instruction": "No answer", "output": ""},
    {"instruction": "Name a colour.", "output": "Red, 红 and é"},
    {"instruction": "Count.", "output": "one two three four five six seven eight nine ten"},
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
]


def job_of(source, **chosen):
    given_settings = {"model": "nano", "template": "nuggets"} | chosen
    return prepare(Request(str(source), FinetuneSettings(**given_settings), template=given_settings["template"]))


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


def test_the_first_examples_are_those_of_the_first_rows_with_an_answer(rows, tmp_path):
    shown = first_examples(job_of(rows), 2, tmp_path)
    assert [each.text for each in shown] == [
        "<s>Instruction:\nName a colour.\nResponse:\nRed, 红 and é</s>",
        "<s>Instruction:\nCount.\nResponse:\none two three four five six seven eight nine ten</s>",
    ]
    assert [[part.text for part in each.parts if part.trained] for each in shown] == [
        ["Red, 红 and é</s>"],
        ["one two three four five six seven eight nine ten</s>"],
    ]
    assert len(first_examples(job_of(rows), 9, tmp_path)) == 3


def test_what_was_cut_says_so_and_what_just_fits_does_not(rows, tmp_path):
    whole = first_examples(job_of(rows), 3, tmp_path)
    longest = max(each.tokens for each in whole)
    assert [each.cut for each in whole] == [False, False, False]
    assert [each.cut for each in first_examples(job_of(rows, max_length=longest), 3, tmp_path)] == [False, False, False]
    cut = first_examples(job_of(rows, max_length=longest - 1), 3, tmp_path)
    assert [each.cut for each in cut] == [each.tokens == longest for each in whole]
    assert all(each.tokens <= longest - 1 for each in cut)


def test_rows_without_answers_in_front_are_passed_over(tmp_path):
    many = [{"instruction": f"No answer {number}", "output": None} for number in range(700)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*many, ROWS[1]])
    (only,) = first_examples(job_of(path), 1, tmp_path)
    assert "Name a colour" in only.text


def test_packs_are_shown_as_they_stand(rows, tmp_path):
    tokenizer = find_tokenizer("nano")
    pack_examples([rows], tmp_path / "packed", tokenizer, PackSettings(length=64, rows_per_shard=1))
    shown = first_examples(job_of(tmp_path / "packed"), 3, tmp_path)
    plain = first_examples(job_of(rows), 3, tmp_path)
    assert {(each.row_id, each.parts) for each in shown} == {(each.row_id, each.parts) for each in plain}
    assert [each.cut for each in shown] == [None, None, None]
    assert len(first_examples(job_of(tmp_path / "packed"), 1, tmp_path)) >= 1


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).flatmap(
        lambda text: st.tuples(
            st.just(text), st.lists(st.booleans(), min_size=len(text.encode()), max_size=len(text.encode()))
        )
    )
)
def test_a_border_inside_a_character_splits_no_character(drawn):
    text, trained = drawn
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
    labels = np.where(trained, ids.astype(np.int32), MASKED).astype(np.int32)
    parts = parts_of(ids, labels, lambda tokens: bytes(tokens).decode(errors="replace"))
    assert "".join(part.text for part in parts) == text
    assert all(part.text for part in parts)
    start = 0
    for part in parts:
        # Each character goes with the stretch that its last byte is in, or with one that ends inside it.
        first, end = (len(text[:place].encode()) for place in (start, start + len(part.text)))
        assert part.trained in trained[first:end]
        start += len(part.text)


def test_special_tokens_are_shown():
    tokenizer = find_tokenizer("nano")
    assert decoder(tokenizer)([tokenizer.start_id, tokenizer.end_id]) == "<s></s>"


def example(*parts, cut=False, row_id="0" * 32):
    return ShownExample(row_id, 7, 3, cut, tuple(Part(text, trained) for text, trained in parts))


def test_marks_stand_around_each_trained_stretch():
    shown = [example(("a", False), ("b\nc", True), ("d", False), ("e", True)), example(("f", True), cut=True)]
    assert masked_text(shown, marks=("⟦", "⟧"), coloured=False) == (
        f"# 1: row {'0' * 32}, 7 tokens, 3 trained, whole\na⟦b\nc⟧d⟦e⟧\n\n"
        f"# 2: row {'0' * 32}, 7 tokens, 3 trained, cut\n⟦f⟧\n\n"
    )
    assert "trained\n" in masked_text([example(("f", True), cut=None)], marks=("⟦", "⟧"), coloured=False)


def test_colour_begins_anew_on_each_line():
    text = masked_text([example(("a", False), ("b\n\nc", True))], marks=("[[", "]]"), coloured=True)
    assert text.endswith("a\x1b[32m[[b\x1b[0m\n\n\x1b[32mc]]\x1b[0m\n\n")


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(monkeypatch, terminal, environment, coloured):
    monkeypatch.setattr(_pipes, "stdout_is_terminal", lambda: terminal)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _plans._is_coloured() == coloured


def test_marks_are_plain_where_stdout_knows_no_others(monkeypatch):
    assert _plans._marks() == ("⟦", "⟧")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert _plans._marks() == ("[[", "]]")


def test_text_cannot_steer_the_terminal():
    text = masked_text([example(("\x1b[31m\u202ea\tb\r", True), row_id="x\n\x1b")], marks=("⟦", "⟧"), coloured=False)
    assert "\x1b" not in text
    assert "row x \ufffd, " in text
    assert "⟦\ufffd[31m\ufffda\tb\ufffd⟧" in text


def test_the_command_writes_text_and_nothing_else(rows, tmp_path, capfd):
    report, run = tmp_path / "report.json", tmp_path / "run"
    words = ["finetune", str(rows), "--model", "nano", "--out", str(run), "--template", "alpaca"]
    assert main([*words, "--show-mask", "1", "--report", str(report)]) == 0
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("# 1: row ")
    assert lines[0].endswith(" trained, whole")
    assert out.endswith("### Response:⟦Red, 红 and é</s>⟧\n\n")
    (numbers,) = json.loads(report.read_text())["examples"]
    assert numbers["id"] == lines[0].split()[3].removesuffix(",")
    assert not run.exists()


def test_a_run_that_is_there_is_no_hindrance(rows, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert main(["finetune", str(rows), "--model", "nano", "--out", str(run), "--show-mask", "2"]) == 0
    assert capfd.readouterr().out.count("# ") == 2
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_the_command_refuses_what_it_cannot_show(rows, tmp_path, capfd):
    words = ["finetune", "--model", "nano", "--out", str(tmp_path / "run")]
    assert main([*words, str(rows), "--show-mask", "1", "--plan"]) == 2
    assert "`--plan` and `--show-mask` contradict each other" in capfd.readouterr().err
    empty = write_jsonl(tmp_path / "empty.jsonl", ROWS[:1])
    assert main([*words, str(empty), "--show-mask", "1"]) == 3
    captured = capfd.readouterr()
    assert "no row can be packed: 1 left out, without an answer" in captured.err
    assert not captured.out
