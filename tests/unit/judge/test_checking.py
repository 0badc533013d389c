"""Judges whose faults are known are found out by the probes."""

import random
import re

import polars as pl
import pytest

from pyllm.data.lines import open_lines
from pyllm.errors import InputError
from pyllm.judge.answers import Place, read_answers
from pyllm.judge.calls import Caller
from pyllm.judge.checking import padded, probes_of, read_labels, summarize_probes
from pyllm.judge.judging import compare, grade
from pyllm.lm.backends.contract import Decoding
from tests.support.scripted_backend import ScriptedBackend

_SHOWN = re.compile(r"answer of assistant [AB] begins >>>\n(.*?)\n<<<", re.DOTALL)


def file_of(label, prompts=30):
    rows = [{"prompt_id": f"p{place}", "prompt": f"Q{place}?", "answer": f"{label} says {'so ' * place}"}
            for place in range(prompts)]  # fmt: skip
    return read_answers(pl.DataFrame(rows), label, label=label)


def check(tmp_path, script, *, labels=None, repeats=3):
    files = [file_of("one"), file_of("two")]
    probes = probes_of(files, {}, repeats=repeats, labels=labels)
    with open_lines(tmp_path / "calls.jsonl", {"x": 1}) as lines:
        caller = Caller(ScriptedBackend(script), lines, Decoding(temperature=1.0))
        choices = [probe for probe in probes if not probe.grades]
        table = compare(caller, [probe.task for probe in choices], "judge")
        table = table.with_columns(probe=pl.Series([probe.kind for probe in choices]))
        grades = grade(caller, [probe.task for probe in probes if probe.grades], "judge")
    return summarize_probes(table, grades, labels, seed=0)


def answers_in(request):
    return _SHOWN.findall(request.prompt[-1].content)


def test_a_judge_that_takes_the_first_and_grades_at_random(tmp_path):
    generator = random.Random(0)

    def script(request):
        return "[[A]]" if answers_in(request) else f"[[{generator.choice([4, 8])}]]"

    report = check(tmp_path, script)
    assert report["identical"]["first"] == 30
    assert report["identical"]["first_share"] == 1.0
    assert report["padded"]["place"]["first_share"] == 1.0
    assert report["padded"]["overall"]["rate"] == 0.5
    assert report["repeated"]["answers"] == 30
    assert report["repeated"]["equal_share"] == pytest.approx(0.5, abs=0.15)
    assert report["repeated"]["mean_distance"] == pytest.approx(2.0, abs=0.6)


def test_a_judge_that_takes_the_longer(tmp_path):
    def script(request):
        shown = answers_in(request)
        if not shown:
            return "[[5]]"
        return "[[C]]" if len(shown[0]) == len(shown[1]) else f"[[{'A' if len(shown[0]) > len(shown[1]) else 'B'}]]"

    report = check(tmp_path, script)
    assert report["identical"]["ties"] == 30
    assert report["identical"]["first_share"] is None
    assert report["padded"]["overall"]["rate"] == 1.0
    assert report["repeated"]["equal_share"] == 1.0


def test_agreement_with_people(tmp_path):
    labels = {Place(f"p{place}", 0, 1): ("a", "b", "tie")[place % 3] for place in range(30)}

    def script(request):
        """Says what people said of all but the last six."""
        shown = answers_in(request)
        if not shown:
            return "[[5]]"
        place = int(re.search(r"Q(\d+)\?", request.prompt[-1].content).group(1))
        label = labels[Place(f"p{place}", 0, 1)] if place < 24 else "tie"
        if label == "tie":
            return "[[C]]"
        first_is_a = shown[0].startswith("one")
        return "[[A]]" if (label == "a") == first_is_a else "[[B]]"

    report = check(tmp_path, script, labels=labels)["labelled"]
    assert report["items"] == 30
    assert report["observed"] == pytest.approx(26 / 30)
    assert report["kappa"] == pytest.approx((26 / 30 - 1 / 3) / (2 / 3))
    assert report["interval"]["low"] < report["kappa"] < report["interval"]["high"]


def test_padding_says_nothing_and_doubles_the_length():
    for answer in ("", "No.", "x" * 3000):
        longer = padded(answer)
        assert longer.startswith(answer)
        assert len(longer) >= 2 * len(answer)
        assert len(longer) > len(answer) + 50


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt_id": "p0", "label": "A"}], "row 0, field `label`"),
        ([{"prompt_id": "zz", "label": "a"}], "does not stand in one"),
        ([{"prompt_id": "p0", "label": "a"}, {"prompt_id": "p0", "label": "b"}], "row 1: prompt `p0`, turn 1 stood"),
    ],
)
def test_bad_labels_are_named(rows, said):
    with pytest.raises(InputError, match=said):
        read_labels(pl.DataFrame(rows), "labels", [file_of("one"), file_of("two")])
