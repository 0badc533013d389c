"""Data files of the experiments: what is asked, and what is refused; arms, and what each is compared with."""

import json

import pytest

from pyllm.errors import InputError, SettingError
from pyllm.stream.bench.arms import Grid, baseline_of
from pyllm.stream.bench.choices import context_rows
from pyllm.stream.bench.tasks import read_task
from pyllm.stream.bench.texts import first_tokens, read_texts, token_stream
from tests.support.bench_data import dailydialog, grocery, grocery_rows, line, player
from tests.support.tiny_models import tiny_tokenizer, write_jsonl


def test_grocery(tmp_path):
    first, second = read_task("grocery", [grocery(tmp_path / "keys.jsonl")])
    assert (first.name, second.name) == ("0", "1")
    told, question, _, recall = first.items
    assert (told.text, told.answers, told.part, told.fact) == ("Buy the [salt].", ("OK",), "told", "salt")
    assert question.text == "What is 0 and 0? Choices:  (A) ink 0 (B) sand 0 (C) a dog"
    assert (question.answers, question.gold, question.part) == (("A", "B", "C"), 0, "question")
    assert recall.text == "Which one was it? Choices:  (A) salt (B) rice (C) plum (D) milk"
    assert (recall.part, recall.gold, second.items[-1].gold) == ("recall", 0, 1)
    assert first.digest != second.digest


def test_dailydialog(tmp_path):
    path = dailydialog(tmp_path / "dd.jsonl")
    first, _ = read_task("dailydialog", [path])
    start = "Choose the best response for the input: Is it 0 or 1 ? Choices:  (A)  yes .  (B)  no . "
    assert first.items[0].text.startswith(start)
    assert first.items[0].has_duplicates
    assert [len(each.items) for each in read_task("dailydialog", [path], lines=3)] == [2, 1]


def test_rounds_tell_what_was_played_before(tmp_path):
    (game,) = read_task("rps", [player(tmp_path / "rock.jsonl")], rounds=3)
    listed = "(A) rock (B) paper (C) scissors"
    assert game.name == "rock"
    assert game.items[0].text == f"Let's play a game of Rock-Paper-Scissors. Choose one option from: {listed}. "
    after = f"to the next round. Choices: {listed}. You choose:"
    assert game.items[2].text.startswith("I chose [rock]. Analyze my preferences")
    assert game.items[2].text.endswith(after)
    assert [(item.played, item.gold) for item in game.items] == [(0, 1), (0, 1), (1, 2)]


def test_dialogues_of_one_name_are_told_apart(tmp_path):
    path = grocery(tmp_path / "keys.jsonl", dialogues=1)
    assert [each.name for each in read_task("grocery", [path, path])] == ["0", "0 (2)"]


BAD = {
    "no JSON": ("{", "line 2 is no JSON"),
    "no object": ("[1]", "line 2 is no JSON object"),
    "no stem": ('{"id": 1, "question": {}}', "line 2, field `question.stem`: it is no text"),
    "no choices": ('{"id": 1, "question": {"stem": "x", "choices": []}}', "field `question.choices`: it is no list"),
    "no label": (
        json.dumps(line(1, "x", ("a",), "E")),
        "line 2, field `answerKey`: `E` is not among the labels A",
    ),
    "no id": (json.dumps(line(None, "x", ("a",), "A")), "field `id`: it is neither a text nor a whole number"),
    "twice": (
        '{"id": 1, "question": {"stem": "x", "choices": [{"label": "A", "text": "a"}, {"label": "A", "text": "b"}]}}',
        "a label is there twice: A, A",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_lines(tmp_path, text, message):
    path = grocery(tmp_path / "keys.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], text, *lines[2:]]))
    with pytest.raises(InputError) as caught:
        read_task("grocery", [path])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        read_task("grocery", [tmp_path / "none.jsonl"])
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="empty holds no lines"):
        read_task("grocery", [tmp_path / "empty"])
    (tmp_path / "latin").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="it is not UTF-8"):
        read_task("grocery", [tmp_path / "latin"])
    rows = [line(0, "Play.", ("rock", "paper", "scissors"), "B", user_choice="D")]
    with pytest.raises(InputError, match="field `user_choice`: `D` is not among the labels"):
        read_task("rps", [write_jsonl(tmp_path / "p.jsonl", rows)])
    with pytest.raises(InputError, match="4 choices are there, and the game has 3"):
        read_task("rps", [dailydialog(tmp_path / "dd.jsonl")])


def test_what_needs_no_model(tmp_path):
    rows = {row["arm"]: row for row in context_rows("grocery", read_task("grocery", [grocery(tmp_path / "k", 4, 3)]))}
    assert rows["always A"] == {"arm": "always A", "accuracy": pytest.approx(4 / 12), "recall": 0.25}
    assert rows["chance"] == {"arm": "chance", "accuracy": pytest.approx(1 / 3), "recall": 0.25}
    games = read_task("rps", [player(tmp_path / "p.jsonl", "AABCABAA")])
    rows = {row["arm"]: row for row in context_rows("rps", games)}
    # Rock wins against scissors, loses to paper, and ties with itself.
    assert rows["always rock"] == {"arm": "always rock", "win": 1 / 8, "tie": 5 / 8, "lose": 2 / 8}
    # Nothing was counted in the first round; rock leads from then on, so paper is played throughout.
    assert rows["frequency counter"]["win"] == rows["counter to the preferred move"]["win"] == 5 / 8


def test_the_grid_has_every_difference_once():
    grid = Grid(
        policies=("full", "streaming", "random", "sirllm+4", "sirllm"), caches=(64, 128), recents=(0, 8), spans=(0, 4),
        decays=(1.0, "auto"), horizons=(5, 9), scores=("surprisal", "as-published"), seed=3,
    )  # fmt: skip
    arms = {arm.label: arm for arm in grid.arms()}
    # full 1, streaming 2, random 2 x 2 x 2, sirllm 2 caches x 2 recents x 2 spans x 2 scores x (1 + 2 horizons)
    assert len(arms) == 1 + 2 + 8 + 48
    made = arms["sirllm+4 cache 64 recent 8 decay auto 9 as-published"].settings
    assert (made.budget.tokens, made.budget.recent, made.span_after, made.horizon_turns) == (64, 8, 4, 9)
    assert (made.score, made.seed) == ("as-published", 3)
    assert {arm.settings.budget.tokens for arm in grid.arms() if arm.cache == 64} == {64}
    assert arms["streaming cache 128"].settings.budget.tokens == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ("sirllm+x",)}, "policy `sirllm\\+x`: `x` is no number of tokens"),
        ({"caches": (36,)}, "a cache of 36 tokens has no place beside 4 sinks and 32 recent"),
        ({"caches": ()}, "no cache sizes are given"),
        ({"decays": (1.5,)}, "decay is 1.5: it must be from 0 to 1"),
        ({"decays": ("auto",), "horizons": (0,)}, "horizon turns is 0"),
    ],
)
def test_grids_that_cannot_be(changes, message):
    with pytest.raises(SettingError, match=message):
        Grid(**{"policies": ("sirllm",), "caches": (64,), **changes}).arms()


def test_baselines():
    arms = Grid(policies=("full", "streaming", "sirllm"), caches=(64, 128), spans=(0,), decays=(1.0, 0.5)).arms()
    own = baseline_of(arms, None)
    assert own["sirllm cache 128 recent 32 decay 0.5"] == "streaming cache 128"
    assert own["full"] == "streaming cache 64"
    kind = baseline_of(arms, "sirllm")
    assert kind["sirllm cache 128 recent 32 decay 0.5"] == "sirllm cache 128 recent 32"
    exact = baseline_of(arms, "sirllm cache 64 recent 32 decay 0.5")
    assert set(exact.values()) == {"sirllm cache 64 recent 32 decay 0.5"}
    with pytest.raises(SettingError, match="baseline `h2o` is not among the arms"):
        baseline_of(arms, "h2o")
    assert set(baseline_of(arms[-1:], None).values()) == {arms[-1].label}


def test_texts(tmp_path):
    (first, _) = read_texts(dailydialog(tmp_path / "dd.jsonl"))
    # Each turn's utterance and its right answer, a line each.
    assert first == "Is it 0 or 1 ?\nno .\nIs it 0 or 3 ?\n0 o'clock ."
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\n\nthree\n")
    assert read_texts(tmp_path / "a.txt") == ["one\ntwo", "three"]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}]
    assert read_texts(write_jsonl(tmp_path / "m.jsonl", [{"messages": said}])) == ["Hi\nOh"]
    assert read_texts(write_jsonl(tmp_path / "t.jsonl", [{"text": "abc"}])) == ["abc"]
    with pytest.raises(InputError, match="a column `question`, `text` or `messages` is missing"):
        read_texts(write_jsonl(tmp_path / "x.jsonl", [{"other": 1}]))
    with pytest.raises(InputError, match="holds no text"):
        read_texts(write_jsonl(tmp_path / "n.jsonl", [{"text": " "}]))
    tokenizer = tiny_tokenizer()
    ids = token_stream(["ab", "cd"], tokenizer, 100, vocabulary=320, source=tmp_path)
    assert tokenizer.decode(ids) == "<s>ab\n\ncd\n\n"
    assert token_stream(["ab", "cd"], tokenizer, 4, vocabulary=320, source=tmp_path) == ids[:4]
    with pytest.raises(InputError, match="the tokenizer gives token"):
        token_stream(["ab"], tokenizer, 4, vocabulary=3, source=tmp_path)
    assert [len(each) for each in first_tokens(["abc", "abcdef", "abcdefg"], tokenizer, sentences=5, tokens=5)] == [
        5,
        5,
    ]


def test_the_data_are_as_made():
    assert [row["id"] for row in grocery_rows(1, 1)] == ["key_0", "0", "answer_0"]
