"""`toolkit generate` and `toolkit judge` through their command lines: tables, columns, messages, exit codes."""

import json
import re

import polars as pl
import pytest

from pyllm.cli import _backend_options
from pyllm.cli.app import main
from pyllm.data.tables import read_table
from tests.support.scripted_backend import ScriptedBackend

_SHOWN = re.compile(r"answer(?: 2)? of assistant ([AB]) begins >>>\n(.*?)\n<<<", re.DOTALL)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def answer_with(monkeypatch):
    """Has a function of the request answer in place of models; gives the backend."""

    def put(script, **settings):
        backend = ScriptedBackend(script, **settings)
        monkeypatch.setattr(_backend_options.BackendOptions, "open", lambda _: backend)
        return backend

    return put


def write_prompts(path, count=4):
    rows = [{"question_id": place, "category": ("maths", "prose")[place % 2], "turns": [f"Q{place}?", f"And {place}?"]}
            for place in range(count)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_answers(path, model, count=6, **changes):
    columns = {
        "prompt_id": [f"p{place}" for place in range(count)],
        "category": [("maths", "prose")[place % 2] for place in range(count)],
        "turn": [1] * count,
        "repeat": [0] * count,
        "prompt": [f"Q{place}?" for place in range(count)],
        "answer": [f"{model} says {place}" for place in range(count)],
        "answer_tokens": [3] * count,
        "model": [model] * count,
    }
    pl.DataFrame({**columns, **changes}).write_parquet(path)


class TestGenerate:
    def test_one_row_a_prompt_turn_and_repeat(self, tmp_path, answer_with, capsys):
        write_prompts(tmp_path / "prompts.jsonl")
        answer_with(lambda request: f"{len(request.prompt)} messages")
        words = [
            "generate",
            "prompts.jsonl",
            "--model",
            "m",
            "--repeats",
            "2",
            "--out",
            "a.parquet",
            "--report",
            "r.json",
        ]
        assert main(words) == 0
        table, steps = read_table("a.parquet")
        assert table.columns[:8] == ["prompt_id", "category", "turn", "repeat", "prompt", "answer", "answer_tokens",
                                     "model"]  # fmt: skip
        assert table.select("prompt_id", "repeat", "turn", "answer").rows()[:3] == [
            ("0", 0, 1, "1 messages"), ("0", 0, 2, "3 messages"), ("0", 1, 1, "1 messages"),
        ]  # fmt: skip
        assert table.height == 16
        assert steps[-1]["command"] == "generate"
        assert json.loads((tmp_path / "r.json").read_text())["spent"]["calls"] == 16
        assert "16 calls, 0 replies were there already" in capsys.readouterr().err

    def test_what_was_answered_is_not_asked_again(self, tmp_path, answer_with, capsys):
        write_prompts(tmp_path / "prompts.jsonl")
        script = lambda request: f"to {request.prompt[-1].content}"  # noqa: E731
        gone = answer_with(script, fails_after=3)
        words = ["generate", "prompts.jsonl", "--model", "m", "--out", "a.parquet"]
        assert main(words) == 4
        assert "the backend is gone" in capsys.readouterr().err
        assert not (tmp_path / "a.parquet").exists()
        back = answer_with(script)
        assert main(words) == 0
        assert len(gone.asked) + len(back.asked) == 8
        unbroken = answer_with(script)
        assert main([*words[:-1], "b.parquet", "--run", "elsewhere"]) == 0
        assert len(unbroken.asked) == 8
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()

    def test_failed_calls_are_rows_without_answers(self, tmp_path, answer_with, capsys):
        write_prompts(tmp_path / "prompts.jsonl", 1)
        answer_with(lambda request: ValueError("too long") if len(request.prompt) > 1 else "yes")
        assert main(["generate", "prompts.jsonl", "--out", "a.jsonl"]) == 0
        rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert [row["answer"] for row in rows] == ["yes", None]
        assert rows[1]["error"] == "too long"
        assert "1 failed, and the next run asks them again (the first: too long)" in capsys.readouterr().err

    def test_bad_prompts(self, tmp_path, answer_with, capsys):
        (tmp_path / "prompts.jsonl").write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n')
        answer_with(lambda _: "")
        assert main(["generate", "prompts.jsonl", "--out", "a.parquet"]) == 3
        assert "prompts.jsonl: row 1, field `id`: `a` stood in row 0" in capsys.readouterr().err

    def test_a_budget(self, tmp_path, answer_with, capsys):
        write_prompts(tmp_path / "prompts.jsonl")
        backend = answer_with(lambda _: "yes")
        assert main(["generate", "prompts.jsonl", "--budget", "calls=3", "--out", "a.parquet"]) == 2
        assert "the budget of 3 calls is used up" in capsys.readouterr().err
        assert len(backend.asked) == 3

    def test_a_plan_asks_nothing(self, tmp_path, answer_with, capsys):
        write_prompts(tmp_path / "prompts.jsonl")
        backend = answer_with(lambda _: "yes")
        assert main(["generate", "prompts.jsonl", "--model", "nano", "--max-new-tokens", "10", "--plan"]) == 0
        assert "8 calls: " in capsys.readouterr().err
        assert not backend.asked


class TestPair:
    def test_rows_and_table(self, tmp_path, answer_with, capsys):
        write_answers(tmp_path / "a.parquet", "one")
        write_answers(tmp_path / "b.parquet", "two")

        def judge(request):
            shown = dict(_SHOWN.findall(request.prompt[-1].content))
            return "[[A]]" if shown["A"].startswith("one") else "[[B]]"

        answer_with(judge)
        words = ["judge", "pair", "a.parquet", "b.parquet", "--judge", "j", "--out", "v.parquet", "--report", "r.json"]
        assert main(words) == 0
        table = read_table("v.parquet")[0]
        assert {"prompt_id", "turn", "repeat", "order", "verdict", "a", "b"} <= set(table.columns)
        assert table.height == 12
        assert set(table["verdict"]) == {"a"}
        assert table["order"].to_list()[:2] == ["ab", "ba"]
        assert set(table["a"]) == {"one"}
        shown = capsys.readouterr().err
        assert "100.0 %" in shown
        assert "6/0/0" in shown
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["pairs"][0]["place"]["first_share"] == 0.5
        assert report["prompt_version"] == 1

    def test_round_robin_gives_strengths(self, tmp_path, answer_with, capsys):
        for name in ("one", "two", "three"):
            write_answers(tmp_path / f"{name}.parquet", name)
        order = ["three", "one", "two"]

        def judge(request):
            shown = {
                letter: order.index(text.split()[0]) for letter, text in _SHOWN.findall(request.prompt[-1].content)
            }
            return "[[A]]" if shown["A"] < shown["B"] else "[[B]]"

        answer_with(judge)
        files = [f"{name}.parquet" for name in ("one", "two", "three")]
        assert main(["judge", "pair", *files, "--judge", "j", "--out", "v.parquet", "--report", "r.json"]) == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert [each["label"] for each in report["strengths"]] == order
        assert read_table("v.parquet")[0].height == 3 * 12
        assert "strength (log-odds)" in capsys.readouterr().err

    def test_stored_answers_of_others(self, tmp_path, answer_with):
        write_answers(tmp_path / "a.parquet", "one", 2)
        theirs = [{"instruction": f"Q{place}?", "output": "III", "generator": "davinci"} for place in range(2)]
        (tmp_path / "theirs.json").write_text(json.dumps(theirs))
        answer_with(lambda _: "[[C]]")
        assert main(["judge", "pair", "a.parquet", "theirs.json", "--judge", "j", "--out", "v.parquet"]) == 0
        table = read_table("v.parquet")[0]
        assert set(table["b"]) == {"davinci"}
        assert set(table["verdict"]) == {"tie"}

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"prompt_id": ["p0", "p1", "p2", "p3", "p4", "p9"]}, "row 5: prompt `p5`, turn 1 does not stand in"),
            (
                {"prompt_id": ["p0", "p1", "p2", "p3", "p4", "p4"]},
                "row 5, field `prompt_id`: prompt `p4`, turn 1 stood",
            ),
            ({"answer": ["x", "x", "x", "", "x", "x"]}, "row 3, field `answer`: the answer is empty"),
            ({"turn": [1, 1, 1, 1, 1, 2]}, "row 5, field `turn`: prompt `p5`, turn 2 has no turn 1"),
            ({"prompt": ["Q0?", "Q1?", "Q2?", "other", "Q4?", "Q5?"]}, "row 3, field `prompt`"),
        ],
    )
    def test_files_that_do_not_match(self, tmp_path, answer_with, capsys, changes, said):
        write_answers(tmp_path / "a.parquet", "one")
        write_answers(tmp_path / "b.parquet", "two", **changes)
        backend = answer_with(lambda _: "[[A]]")
        assert main(["judge", "pair", "a.parquet", "b.parquet", "--judge", "j", "--out", "v.parquet"]) == 3
        assert said in capsys.readouterr().err
        assert not backend.asked

    def test_one_file_is_not_enough(self, tmp_path, capsys):
        write_answers(tmp_path / "a.parquet", "one")
        assert main(["judge", "pair", "a.parquet", "--judge", "j", "--out", "v.parquet"]) == 2
        assert "2 are needed" in capsys.readouterr().err


class TestGrade:
    def test_grades_by_category_and_difference(self, tmp_path, answer_with, capsys):
        write_answers(tmp_path / "a.parquet", "one")
        write_answers(tmp_path / "b.parquet", "two")

        def judge(request):
            text = request.prompt[-1].content
            place = int(re.search(r"Q(\d)\?", text).group(1))
            return f"Rating: [[{(3, 8)[place % 2] + ('two says' in text)}]]" if place != 5 else "no idea"

        answer_with(judge)
        words = ["judge", "grade", "a.parquet", "b.parquet", "--judge", "j", "--out", "g.parquet", "--report", "r.json"]
        assert main(words) == 0
        table = read_table("g.parquet")[0]
        assert table["grade"].dtype == pl.Float64
        assert table.filter(pl.col("prompt_id") == "p5")["grade"].null_count() == 2
        assert set(table["parse"]) == {"ok", "missing"}
        first, second = json.loads((tmp_path / "r.json").read_text())["models"]
        assert first["by_category"]["maths"]["mean"] == 3.0
        assert first["by_category"]["prose"]["mean"] == 8.0
        assert second["difference"]["difference"] == 1.0
        assert first["unparsed"] == {"missing": 1}
        assert "+1.00" in capsys.readouterr().err

    def test_right_answers_are_shown_to_the_judge(self, tmp_path, answer_with):
        write_answers(tmp_path / "a.parquet", "one", 2)
        (tmp_path / "right.jsonl").write_text('{"prompt_id": "p1", "reference": "the right one"}\n')
        backend = answer_with(lambda _: "[[5]]")
        words = ["judge", "grade", "a.parquet", "--judge", "j", "--references", "right.jsonl", "--out", "g.parquet"]
        assert main(words) == 0
        shown = ["the right one" in request.prompt[-1].content for request in backend.asked]
        assert sorted(shown) == [False, True]

    def test_the_prompt_can_be_read(self, capfd):
        assert main(["judge", "grade", "--show-prompt"]) == 0
        shown = capfd.readouterr().out
        assert "=== version 1, one turn ===" in shown
        assert "[[5]]" in shown


class TestCheck:
    def test_finds_a_judge_of_places_out(self, tmp_path, answer_with, capsys):
        write_answers(tmp_path / "a.parquet", "one")
        answer_with(lambda request: "[[A]]" if "assistant A" in request.prompt[-1].content else "[[4]]")
        assert main(["judge", "check", "a.parquet", "--judge", "j", "--out", "p.parquet", "--report", "r.json"]) == 0
        report = json.loads((tmp_path / "r.json").read_text())["probes"]
        assert report["identical"]["first_share"] == 1.0
        assert report["repeated"]["equal_share"] == 1.0
        assert read_table("p.parquet")[0].group_by("probe").len().sort("probe").rows() == [
            ("identical", 6), ("padded", 12), ("repeated", 18),
        ]  # fmt: skip
        assert "identical" in capsys.readouterr().err

    def test_labels_need_two_files(self, tmp_path, capsys):
        write_answers(tmp_path / "a.parquet", "one")
        assert main(["judge", "check", "a.parquet", "--judge", "j", "--labels", "l.jsonl", "--out", "p.parquet"]) == 2
        assert "2 are needed" in capsys.readouterr().err
