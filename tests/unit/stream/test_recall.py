"""The recall task, what is measured on it against plain forward passes, and a run that is cut off."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from pyllm.data.lines import open_lines
from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.recall import DEFAULT_ARMS, RecallSettings, _report, measure_recall, starts_with_name
from pyllm.stream.recall_task import NAMES, THINGS, recall_dialogue
from tests.support.stream_models import streaming
from tests.support.tiny_models import VOCABULARY, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

CHATML = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SMALL = {"facts": 2, "tokens": 600, "cache": 150, "sinks": 2, "recent": 10}


@pytest.fixture(scope="module")
def model():
    return streaming()


def task(number=0, *, template="auto", chat_template=None, facts=3, tokens=1200, seed=0):
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    made = recall_dialogue(
        tokenizer, facts=facts, tokens=tokens, seed=seed, number=number, template=template, vocabulary=VOCABULARY
    )
    return tokenizer, made


@pytest.mark.parametrize("chat_template", [None, CHATML], ids=["vicuna", "chat"])
def test_facts_are_told_early_and_asked_for_at_the_end(chat_template):
    tokenizer, made = task(chat_template=chat_template)
    assert 1200 <= made.tokens < 1200 * 1.15
    assert len(set(made.names)) == 3
    texts = [tokenizer.decode(turn) for turn in made.history]
    last = max(made.fact_turns)
    # Small talk of one turn more than a third may stand among the facts.
    assert sum(map(len, made.history[: last + 1])) < 1200 / 3 + 150
    for fact, name, question in zip(made.fact_turns, made.names, made.questions, strict=True):
        assert name in texts[fact]
        assert sum(name in text for text in texts) == 1
        asked = tokenizer.decode(question.ids)
        thing = next(thing for thing in THINGS if f"What is my {thing} called?" in asked)
        assert thing in texts[fact]
        assert asked.endswith(f"Your {thing} is called")
        assert tokenizer.decode(question.names[question.told]) == f" {name}"
        assert question.ids[-20:] == question.alone[-20:]
    if chat_template is None:
        assert texts[0].startswith("USER: ")
        assert asked.startswith("USER: What is my")
        assert f"\n\nASSISTANT: Your {thing}" in asked
    else:
        assert texts[0].startswith("[user]")
        assert f"\n[assistant]Your {thing}" in asked


def test_dialogues_are_made_of_their_seed_and_number_alone():
    assert task(1)[1] == task(1)[1]
    assert len({task(number, seed=seed)[1].history for number in range(2) for seed in range(2)}) == 4


def test_words_do_not_meet():
    tokenizer, made = task(facts=2, tokens=5000)
    talk = "".join(tokenizer.decode(turn) for turn in made.history)
    words = set(talk.replace(".", " ").replace("?", " ").split())
    assert words & set(NAMES) == set(made.names)
    assert len(words & set(THINGS)) == 2


@pytest.mark.parametrize(
    ("facts", "tokens", "message"),
    [
        (1, 1200, "facts is 1: it must be from 2 to 32"),
        (33, 90_000, "facts is 33: it must be from 2 to 32"),
        (6, 1200, "6 facts do not fit into the first third of 1,200 tokens"),
    ],
)
def test_tasks_that_cannot_be_made(facts, tokens, message):
    with pytest.raises(SettingError, match=message):
        task(facts=facts, tokens=tokens)


def measured(model, path, *, progress=None, **changes):
    tokenizer = tiny_tokenizer()
    settings = RecallSettings(**{**SMALL, "dialogues": 2, "arms": ("full", "sirllm", "sirllm+4"), **changes})
    extra = {} if progress is None else {"progress": progress}
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    return measure_recall(model, tokenizer, settings, path, identity={"weights": "x"}, decode=decode, **extra)


@torch.inference_mode()
def plain_nats(model, ids):
    logits = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()


def test_the_full_cache_against_plain_forward_passes(model, tmp_path):
    table = measured(model, tmp_path / "lines.jsonl", arms=("full",), dialogues=1).table
    tokenizer, made = task(facts=2, tokens=600)
    history = [token for turn in made.history for token in turn]
    row, unseen = table.to_dicts()
    assert row["tokens"] == row["cache_tokens"] == len(history)
    assert row["nats"] == pytest.approx(plain_nats(model, history).sum(), rel=1e-5)
    assert row["scored_tokens"] == len(history) - 1
    for kept, found, start in ((history, row, "ids"), ([], unseen, "alone")):
        sums = np.array(
            [
                [
                    plain_nats(model, [*kept, *getattr(question, start), *name])[-len(name) :].sum()
                    for name in question.names
                ]
                for question in made.questions
            ]
        )
        assert found["answer_nats"] == pytest.approx(sums.diagonal().sum(), rel=1e-5)
        assert found["choices"] == [made.names[place] for place in sums.argmin(1)]
        assert found["chosen"] == (sums.argmin(1) == np.arange(2)).sum()
        answer = []
        for _ in range(1 + max(len(name) for name in made.questions[0].names)):
            ids = torch.tensor([[*kept, *getattr(made.questions[0], start), *answer]])
            answer.append(int(model.model(input_ids=ids).logits[0, -1].argmax()))
        assert found["answers"][0] == " ".join(tokenizer.decode(answer, skip_special_tokens=True).split())


def test_every_question_is_asked_of_the_same_memory(model, tmp_path):
    row = measured(model, tmp_path / "lines.jsonl", arms=("sirllm+4",), dialogues=1).table.to_dicts()[0]
    made = task(facts=2, tokens=600)[1]
    settings = RecallSettings(**SMALL, arms=("sirllm+4",)).of_arm("sirllm+4")
    assert (settings.budget.tokens, settings.span_after, settings.policy) == (150, 4, "sirllm")
    nats = 0.0
    for question in made.questions:
        dialogue = Dialogue(model, settings)  # all of it anew, nothing restored
        for turn in made.history:
            dialogue.read_turn(turn)
        assert dialogue.memory.evictions == row["evictions"] > 0
        dialogue.begin_turn()
        dialogue.reserve(len(question.ids) + max(map(len, question.names)) + 1)
        dialogue.feed(question.ids)
        nats += dialogue.feed(question.names[question.told]).sum()
    assert row["answer_nats"] == pytest.approx(nats, rel=1e-5)
    assert row["cache_tokens"] <= 150


def test_a_cache_with_hardly_room_for_a_question(model, tmp_path):
    table = measured(model, tmp_path / "lines.jsonl", arms=("sirllm", "window"), dialogues=1, cache=20).table
    assert table["cache_tokens"].to_list()[:2] == [20, 20]
    assert table["answer_nats"].is_finite().all()


def test_what_goes_past_the_model_is_said(model, tmp_path, caplog):
    measured(model, tmp_path / "lines.jsonl", dialogues=1, arms=("full", "window"), cache=300)
    assert "`full` goes past the 256 positions that model `llama` was made for" in caplog.text
    assert caplog.text.count("a cache of 300 tokens is larger than the 256 positions") == 1


class BrokenError(Exception):
    """A crash."""


class BreaksAfter:
    """Progress that ends the work after some units."""

    def __init__(self, units):
        self.left = units

    def start(self, stage, total, *, done=0, unit="rows"):
        self.began = (total, done)

    def advance(self, units, *, tokens=0):
        self.left -= units
        if self.left <= 0:
            raise BrokenError

    def note(self, text):
        pass

    def finish(self):
        pass


def test_a_run_goes_on_where_it_was_cut_off(model, tmp_path):
    whole = measured(model, tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    with pytest.raises(BrokenError):
        measured(model, path, progress=BreaksAfter(3))
    with path.open("ab") as file:
        file.write(b'{"unit":"0/unseen","value":{"arm')  # a line that was being written
    rest = BreaksAfter(99)
    again = measured(model, path, progress=rest)
    assert rest.began == (8, 3)
    assert rest.left == 99 - 5
    assert again.table.equals(whole.table)
    assert again.report == whole.report
    assert sorted(path.read_bytes().splitlines()) == sorted((tmp_path / "whole.jsonl").read_bytes().splitlines())
    # More dialogues and more policies are other work on the same task: what is there is taken up.
    more = BreaksAfter(99)
    wider = measured(model, path, progress=more, dialogues=3, arms=("full", "sirllm", "window"))
    assert more.began == (12, 6)
    assert wider.table.filter(pl.col("arm") == "full").head(2).equals(whole.table.filter(pl.col("arm") == "full"))


def test_a_damaged_line_is_worked_out_again(model, tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    whole = measured(model, path, dialogues=1).table
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"facts":2', b'"facts":3'), *lines[2:]]))
    assert measured(model, path, dialogues=1).table.equals(whole)
    assert "damaged lines are dropped (1)" in caplog.text
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_other_work_is_refused(model, tmp_path):
    path = tmp_path / "lines.jsonl"
    measured(model, path, dialogues=1, arms=("full",))
    before = path.read_bytes()
    with pytest.raises(SettingError, match=r"belongs to other work: settings\.cache: 150 there, 160 here"):
        measured(model, path, dialogues=1, arms=("full",), cache=160)
    path.write_text("something else\n")
    with pytest.raises(SettingError, match="is not the record of a run"):
        measured(model, path, dialogues=1)
    assert path.read_text() == "something else\n"
    assert len(before.splitlines()) == 3


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "lines.jsonl"
    with open_lines(path, {"a": 1}) as lines:
        lines.add("u", {"x": [1, None]})
        with pytest.raises(PrerequisiteError, match="is in use by another process"), open_lines(path, {"a": 1}):
            pass
    with open_lines(path, {"a": 1}) as lines:
        assert lines.done == {"u": {"x": [1, None]}}
    assert json.loads(path.read_text().splitlines()[0]) == {"format": 1, "key": {"a": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("sirllm+x",)}, "policy `sirllm\\+x`: `x` is no number of tokens"),
        ({"arms": ("newest",)}, "policy `newest` is unknown"),
        ({"arms": ("full", "full")}, "policies are given twice"),
        ({"arms": ()}, "no policies are given"),
        ({"baseline": "random"}, "baseline `random` is not among the policies full, sirllm, sirllm\\+4"),
        ({"cache": 12}, "a cache of 12 tokens has no place beside 2 sinks and 10 recent tokens"),
        ({"tokens": 0}, "tokens is 0"),
        ({"dialogues": 0}, "dialogues is 0"),
    ],
)
def test_wrong_settings(model, tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        measured(model, tmp_path / "lines.jsonl", **changes)
    assert not list(tmp_path.iterdir())


def test_what_counts_as_a_recalled_name():
    assert starts_with_name(" Anna.", "Anna")
    assert starts_with_name("anna", "Anna")
    assert not starts_with_name("Annabel", "Anna")
    assert not starts_with_name("is Anna", "Anna")
    assert not starts_with_name("", "Anna")


def test_the_report_of_known_numbers():
    names = [["Anna", "Bruno"], ["Anna", "Clara"], ["David", "Emma"]]
    rows = [
        {
            "dialogue": number, "arm": arm, "tokens": 100, "cache_tokens": 50, "evictions": 2, "facts": 2,
            "recalled": recalled, "chosen": 1, "answer_nats": 3.0, "nats": nats, "scored_tokens": 10,
            "names": names[number], "answers": [], "choices": [],
        }
        for arm, counts in {"sirllm": (0, 1, 0), "sirllm+8": (2, 2, 1), "unseen": (0, 0, 0)}.items()
        for number, (recalled, nats) in enumerate(zip(counts, (10.0, 20.0, 30.0), strict=True))
    ]  # fmt: skip
    settings = RecallSettings(arms=("sirllm", "sirllm+8"), facts=2, dialogues=3)
    report = _report(pl.DataFrame(rows), settings)
    own, spans = report["arms"]
    assert own["recall"] == pytest.approx(1 / 6)
    assert spans["recall"] == pytest.approx(5 / 6)
    assert (own["choice"], own["answer_nats"], own["nats"]) == (0.5, 1.5, 2.0)
    assert own["differences"] == {}
    apart = spans["differences"]["recall"]
    # Every dialogue gains one fact of two, or both: so does every draw of them.
    assert (apart["difference"], apart["low"], apart["high"], apart["is_shown"]) == (
        pytest.approx(4 / 6), 0.5, pytest.approx(5 / 6, abs=0.2), True,
    )  # fmt: skip
    assert spans["differences"]["nats"]["difference"] == 0.0
    assert spans["intervals"]["recall"][0] <= 5 / 6 <= spans["intervals"]["recall"][1]
    chance, frequency, unseen = report["context"]
    assert (chance["choice"], chance["recall"]) == (0.5, 0.5)
    # Elsewhere Anna is told most, for the first two dialogues once, by the other; ties go by the alphabet.
    assert frequency["recall"] == pytest.approx(2 / 6)
    assert unseen["arm"] == "unseen"


def test_the_policies_that_every_run_reports():
    assert {"sirllm", "sirllm+2", "sirllm+4", "sirllm+8", "random", "random+4", "random+8"} <= set(DEFAULT_ARMS)
    budgets = {RecallSettings().of_arm(arm).budget.tokens for arm in DEFAULT_ARMS}
    assert budgets == {250}
