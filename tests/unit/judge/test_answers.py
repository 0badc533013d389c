"""Prompts, answers and right answers: every shape that exists, and bad rows by name."""

import polars as pl
import pytest

from pyllm.errors import InputError
from pyllm.judge.answers import Place, distinct_labels, matched, read_answers
from pyllm.judge.questions import Question, read_questions, read_references


class TestQuestions:
    @pytest.mark.parametrize(
        ("row", "question"),
        [
            ({"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
             Question("81", ("Write.", "Again."), "writing")),
            ({"question_id": 1, "turns": ["Add 2 and 2."], "reference": ["4"]},
             Question("1", ("Add 2 and 2.",), None, ("4",))),
            ({"id": "koala_0", "prompt": "Name films."}, Question("koala_0", ("Name films.",))),
            ({"question_id": 3, "text": "Why?", "category": "generic"}, Question("3", ("Why?",), "generic")),
            ({"idx": 1, "Skill": "Math", "Difficulty": 1, "Instruction": "How fast?"},
             Question("1", ("How fast?",), "Math")),
            ({"id": "x", "instruction": "Sort.", "input": "3 1 2"}, Question("x", ("Sort.\n\n3 1 2",))),
            ({"prompt_id": "m", "messages": [{"role": "user", "content": "One"}, {"role": "assistant", "content": "1"},
                                             {"role": "user", "content": "Two"}]}, Question("m", ("One", "Two"))),
        ],
    )  # fmt: skip
    def test_shapes(self, row, question):
        assert read_questions(pl.DataFrame([row]), "prompts") == [question]

    def test_prompts_without_names_are_known_by_their_text(self):
        first, second = read_questions(pl.DataFrame({"conversations": ["One?", "Two?"]}), "prompts")
        assert first.prompt_id != second.prompt_id
        assert read_questions(pl.DataFrame({"prompt": ["Two?"]}), "other")[0].prompt_id == second.prompt_id

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "row 1, field `id`: `a` stood in row 0"),
            ([{"id": "a", "prompt": "x"}, {"id": "b", "prompt": " "}], "row 1, field `prompt`: the prompt is empty"),
            ([{"id": "a", "turns": ["x", "y", "z"]}], "it has 3 turns"),
            ([{"id": "a", "turns": ["x", ""]}], "turn 2 is empty"),
            ([{"id": "a", "answer": "x"}], "no column with prompts"),
            ([{"id": "a", "turns": ["x"], "reference": ["1", "2"]}], "2 right answers of 1 turns"),
        ],
    )
    def test_bad_rows_are_named(self, rows, said):
        with pytest.raises(InputError, match=said):
            read_questions(pl.DataFrame(rows), "prompts")


class TestReferences:
    def test_mt_bench_and_plain_tables(self):
        theirs = pl.DataFrame([{"question_id": 101, "choices": [{"index": 0, "turns": ["second", "last"]}]}])
        assert read_references(theirs, "references") == {"101": ("second", "last")}
        plain = pl.DataFrame({"prompt_id": ["a", "a", "b"], "turn": [2, 1, 1], "answer": ["y", "x", "z"]})
        assert read_references(plain, "references") == {"a": ("x", "y"), "b": ("z",)}

    def test_two_answers_to_one_question_are_refused(self):
        with pytest.raises(InputError, match=r"row 1.*another right answer"):
            read_references(pl.DataFrame({"prompt_id": ["a", "a"], "reference": ["x", "y"]}), "references")


def answers(**changes):
    columns = {"prompt_id": ["a", "a", "b"], "category": ["c", "c", None], "turn": [1, 2, 1], "repeat": [0, 0, 0],
               "prompt": ["One?", "And?", "Two?"], "answer": ["1", "2", "3"], "model": ["m"] * 3}  # fmt: skip
    return pl.DataFrame({**columns, **changes})


class TestAnswers:
    def test_reads_what_generate_writes(self):
        file = read_answers(answers(), "answers", label="file")
        assert file.label == "m"
        second = file.answers[Place("a", 0, 2)]
        assert file.said_before(second) == (("One?", "1"),)
        assert second.category == "c"

    def test_reads_stored_answers_of_others(self):
        theirs = pl.DataFrame(
            {"instruction": ["Two?"], "output": ["III"], "generator": ["davinci"], "dataset": ["koala"]}
        )
        other = read_answers(theirs, "theirs", label="file")
        assert other.label == "davinci"
        ours = read_answers(answers().filter(pl.col("prompt_id") == "b"), "ours", label="x")
        first, second = matched([ours, other])
        assert [each.answer for each in first.answers.values()] == ["3"]
        assert first.answers.keys() == second.answers.keys()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"turn": [1, 1, 1]}, "row 1, field `prompt_id`: prompt `a`, turn 1 stood in row 0"),
            ({"answer": ["1", "  ", "3"]}, "row 1, field `answer`: the answer is empty"),
            ({"answer": ["1", None, "3"]}, "row 1, field `answer`: it is missing"),
            ({"turn": [1, 3, 1]}, "row 1, field `turn`: 3 is no turn"),
            ({"turn": [2, 2, 1], "repeat": [0, 1, 0]}, "row 0, field `turn`: prompt `a`, turn 2 has no turn 1"),
            ({"prompt": ["One?", "And?", None]}, "row 2, field `prompt`: it is missing"),
            ({"repeat": [0, -1, 0]}, "row 1, field `repeat`"),
        ],
    )
    def test_bad_rows_are_named(self, changes, said):
        with pytest.raises(InputError, match=said):
            read_answers(answers(**changes), "answers", label="x")

    def test_empty_answers_pass_when_allowed(self):
        file = read_answers(answers(answer=["", "2", "3"]), "answers", label="x", allow_empty=True)
        assert file.answers[Place("a", 0, 1)].answer == ""

    def test_files_that_do_not_match_are_refused_by_row(self):
        first = read_answers(answers(), "first", label="x")
        fewer = read_answers(answers().head(2), "second", label="y")
        with pytest.raises(InputError, match=r"first: row 2: prompt `b`, turn 1 does not stand in second"):
            matched([first, fewer])
        other = read_answers(answers(prompt=["One?", "And?", "Three?"]), "third", label="y")
        with pytest.raises(InputError, match=r"third: row 2, field `prompt`: .* reads otherwise in first, row 2"):
            matched([first, other])

    def test_labels_tell_files_apart(self):
        file = read_answers(answers(), "x", label="x")
        assert [each.label for each in distinct_labels([file, file], ["before", "after"])] == ["before", "after"]
        assert [each.label for each in distinct_labels([file, file], ["same", "same"])] == ["same#1", "same#2"]
