"""Judges with planted tastes and faults, from answers to tables; and calls that are never made twice."""

import random
import re

import polars as pl
import pytest

from pyllm.data.lines import open_lines
from pyllm.errors import PrerequisiteError, SettingError
from pyllm.judge.answers import AnswerFile, read_answers
from pyllm.judge.calls import Budget, Caller
from pyllm.judge.generation import generate_answers
from pyllm.judge.grades import summarize_grades
from pyllm.judge.judging import compare, grade, grade_tasks, pair_tasks
from pyllm.judge.pairs import summarize_pairs
from pyllm.judge.questions import Question
from pyllm.lm.backends.contract import Decoding
from tests.support.scripted_backend import ScriptedBackend

_SHOWN = re.compile(r"answer(?: 2)? of assistant ([AB]) begins >>>\n(.*?)\n<<<", re.DOTALL)


@pytest.fixture
def caller_of(tmp_path):
    """Makes a caller over a scripted backend; one file of calls for all of a test."""
    opened = []

    def make(script, **settings):
        backend = script if isinstance(script, ScriptedBackend) else ScriptedBackend(script)
        context = open_lines(tmp_path / f"calls{len(opened)}.jsonl", {"x": 1})
        opened.append(context)
        return Caller(backend, context.__enter__(), Decoding(), **settings)

    yield make
    for context in opened:
        context.__exit__(None, None, None)


def answer_file(label: str, answers: dict[str, str], category: str = "c") -> AnswerFile:
    rows = [{"prompt_id": name, "prompt": f"Question {name}?", "answer": text, "category": category, "model": label}
            for name, text in answers.items()]  # fmt: skip
    return read_answers(pl.DataFrame(rows), label, label=label)


def many(label, length, prompts=80, seed=0):
    generator = random.Random(f"{label}{seed}")
    return answer_file(
        label, {f"p{place}": f"{label} " + "x" * generator.randrange(*length) for place in range(prompts)}
    )


def shown(request) -> dict[str, str]:
    return dict(_SHOWN.findall(request.prompt[-1].content))


def judged(caller, files):
    return summarize_pairs(compare(caller, pair_tasks(files, {}), "judge"), seed=0)


class TestPlantedJudges:
    def test_always_the_first(self, caller_of):
        files = [many("one", (50, 90)), many("two", (50, 90))]
        summary = judged(caller_of(lambda _: "Hm. [[A]]"), files)[0]
        assert summary.overall.rate == 0.5
        assert summary.overall.ties == 80
        assert summary.place.first_share == 1.0
        assert summary.place.interval.low == 1.0

    def test_the_better_one_whatever_the_place(self, caller_of):
        files = [many("good", (50, 90)), many("bad", (50, 90))]

        def judge(request):
            return "[[A]]" if shown(request)["A"].startswith("good") else "[[B]]"

        summary = judged(caller_of(judge), files)[0]
        assert summary.overall.rate == 1.0
        assert summary.place.first_share == 0.5
        assert summary.place.agreement == 1.0

    def test_a_judge_of_length_and_place_that_likes_one_side_a_little(self, caller_of):
        """Log-odds: 0.5 for `one`, 0.8 for the first place, and 1 for each 100 characters more."""
        files = [many("one", (50, 250), 300), many("two", (150, 350), 300)]
        generator = random.Random(0)

        def judge(request):
            first, second = shown(request)["A"], shown(request)["B"]
            odds = (0.5 if first.startswith("one") else -0.5) + 0.8 + (len(first) - len(second)) / 100
            return "[[A]]" if generator.random() < 1 / (1 + 2.718281828**-odds) else "[[B]]"

        summary = judged(caller_of(judge), files)[0]
        truth = (1 / (1 + 2.718281828**-1.3) + 1 / (1 + 2.718281828**0.3)) / 2
        assert summary.overall.rate < 0.45  # length makes the better side lose
        assert summary.length.interval.low < truth < summary.length.interval.high
        assert summary.length.interval.low > 0.5
        assert summary.place.interval.low > 0.5

    def test_what_cannot_be_read_is_counted_and_no_verdict(self, caller_of):
        files = [many("one", (50, 90)), many("two", (50, 90))]

        def judge(request):
            place = int(re.search(r"Question p(\d+)", request.prompt[-1].content).group(1))
            return ("[[A]]", "I cannot say", "[[A]] or [[B]]", "[[E]]")[place % 4]

        table = compare(caller_of(judge), pair_tasks(files, {}), "judge")
        summary = summarize_pairs(table, seed=0)[0]
        assert summary.unparsed == {"ambiguous": 40, "invalid": 40, "missing": 40}
        assert summary.overall.pairs == 20
        assert table.filter(pl.col("parse") != "ok")["verdict"].null_count() == 120

    def test_calls_that_fail_are_no_verdicts_either(self, caller_of):
        files = [many("one", (50, 90), 4), many("two", (50, 90), 4)]
        table = compare(caller_of(lambda _: ValueError("too busy")), pair_tasks(files, {}), "judge")
        summary = summarize_pairs(table, seed=0)[0]
        assert summary.failed == 8
        assert summary.unparsed == {}
        assert table["error"].unique().to_list() == ["too busy"]

    def test_planted_grades(self, caller_of):
        planted = {"maths": "3", "prose": "8.5"}
        files = [answer_file("m", {f"{name}{place}": "x" for place in range(3)}, name) for name in planted]
        answers = {**files[0].answers, **files[1].answers}
        file = AnswerFile("m", "m", answers)

        def judge(request):
            name = re.search(r"Question (maths|prose)", request.prompt[-1].content).group(1)
            return f"Well. Rating: [[{planted[name]}]]"

        table = grade(caller_of(judge), grade_tasks([file], {}), "judge")
        summary = summarize_grades(table, ["m"], seed=0)[0]
        assert {name: each.mean for name, each in summary.by_category.items()} == {"maths": 3.0, "prose": 8.5}


class TestPrompts:
    def test_the_second_turn_shows_the_first_and_right_answers(self):
        rows = [
            {"prompt_id": "a", "turn": 1, "prompt": "First?", "answer": "one"},
            {"prompt_id": "a", "turn": 2, "prompt": "Second?", "answer": "two"},
        ]
        file = read_answers(pl.DataFrame(rows), "x", label="x")
        first, second = grade_tasks([file], {"a": ("right one", "right two")})
        for text in ("First?", "one", "right one"):
            assert text in first.prompt
            assert text in second.prompt
        assert "Second?" not in first.prompt
        assert "right two" not in first.prompt
        assert "right two" in second.prompt
        pair = pair_tasks([file, read_answers(pl.DataFrame(rows), "y", label="y")], {})
        assert pair[2].prompt.count("Second?") == 2


class TestGeneration:
    questions = (Question("a", ("One?", "And then?"), "c"), Question("b", ("Two?",)))

    def script(self, request):
        return f"{len(request.prompt)} messages, last {request.prompt[-1].content}"

    def test_turns_repeats_and_columns(self, caller_of):
        made = generate_answers(caller_of(self.script), self.questions, model="m", repeats=2, system="Be short.")
        rows = made.table.select("prompt_id", "repeat", "turn", "answer").rows()
        assert rows[:3] == [
            ("a", 0, 1, "2 messages, last One?"),
            ("a", 0, 2, "4 messages, last And then?"),
            ("a", 1, 1, "2 messages, last One?"),
        ]
        assert made.table.height == 6
        assert made.table.columns[:8] == ["prompt_id", "category", "turn", "repeat", "prompt", "answer",
                                          "answer_tokens", "model"]  # fmt: skip
        assert not made.failed

    def test_a_failed_first_turn_leaves_the_second_unasked(self, caller_of):
        made = generate_answers(
            caller_of(lambda request: ValueError("no") if request.prompt[-1].content == "One?" else "yes"),
            self.questions, model="m",
        )  # fmt: skip
        assert made.failed == 2
        assert made.table["error"].to_list() == ["no", "the turn before has no answer", None]

    def test_nothing_is_asked_twice_after_the_backend_went_away(self, tmp_path):
        path = tmp_path / "calls.jsonl"
        asked = []
        for fails_after in (1, 1, None):
            backend = ScriptedBackend(self.script, fails_after=fails_after)
            with open_lines(path, {"x": 1}) as lines:
                caller = Caller(backend, lines, Decoding())
                if fails_after is None:
                    made = generate_answers(caller, self.questions, model="m")
                else:
                    with pytest.raises(PrerequisiteError):
                        generate_answers(caller, self.questions, model="m")
            asked += [request.id for request in backend.asked]
        assert len(asked) == len(set(asked)) == 3
        with open_lines(tmp_path / "other.jsonl", {"x": 1}) as lines:
            unbroken = generate_answers(
                Caller(ScriptedBackend(self.script), lines, Decoding()), self.questions, model="m"
            )
        assert made.table.equals(unbroken.table)

    def test_failed_calls_are_asked_again(self, tmp_path):
        path = tmp_path / "calls.jsonl"
        for script, failed in ((lambda _: ValueError("no"), 3), (self.script, 0)):
            with open_lines(path, {"x": 1}) as lines:
                caller = Caller(ScriptedBackend(script), lines, Decoding())
                assert generate_answers(caller, self.questions, model="m").failed == failed

    def test_a_budget_of_calls_is_never_exceeded(self, tmp_path):
        backend = ScriptedBackend(self.script)
        with open_lines(tmp_path / "calls.jsonl", {"x": 1}) as lines:
            caller = Caller(backend, lines, Decoding(), budget=Budget(calls=2))
            with pytest.raises(SettingError, match="budget of 2 calls is used up"):
                generate_answers(caller, self.questions, model="m", repeats=3)
            assert len(backend.asked) == 2
            assert len(lines.done) == 2

    def test_a_budget_of_tokens_stops(self, tmp_path):
        with open_lines(tmp_path / "calls.jsonl", {"x": 1}) as lines:
            caller = Caller(ScriptedBackend(self.script), lines, Decoding(), budget=Budget(tokens=5))
            with pytest.raises(SettingError, match="budget of 5 tokens is used up"):
                generate_answers(caller, self.questions, model="m", repeats=3)
            assert len(lines.done) == 1
