"""Win rates against a plain twin, and what planted judges must come out as."""

import random
import time
from collections import defaultdict

import polars as pl
import pytest

from pyllm.judge.grades import summarize_grades
from pyllm.judge.pairs import strengths, summarize_pairs, whole_pairs

COLUMNS = {"a": pl.String, "b": pl.String, "prompt_id": pl.String, "category": pl.String, "turn": pl.UInt32,
           "repeat": pl.UInt32, "order": pl.String, "verdict": pl.String, "parse": pl.String,
           "a_characters": pl.UInt32, "b_characters": pl.UInt32}  # fmt: skip


def verdicts_of(judge, *, prompts=60, turns=(1,), seed=0, a="one", b="two"):
    """A table of verdicts: `judge(generator, prompt, order, a_length, b_length)` gives a, b, tie or None."""
    generator = random.Random(seed)
    rows = []
    for prompt in range(prompts):
        for turn in turns:
            lengths = generator.randrange(10, 400), generator.randrange(10, 400)
            for order in ("ab", "ba"):
                verdict = judge(generator, prompt, order, *lengths)
                rows.append((a, b, f"p{prompt}", ("maths", "prose", None)[prompt % 3], turn, 0, order, verdict,
                             "ok" if verdict else "missing", *lengths))  # fmt: skip
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def slow_win_rate(table):
    """The obvious twin: one pair after the other."""
    verdicts = defaultdict(dict)
    for row in table.iter_rows(named=True):
        verdicts[row["prompt_id"], row["turn"], row["repeat"]][row["order"]] = row["verdict"]
    points = []
    for both in verdicts.values():
        if None in both.values() or len(both) < 2:
            continue
        points.append({"a": 1.0, "b": 0.0, "tie": 0.5}[both["ab"]] if both["ab"] == both["ba"] else 0.5)
    return points


def noisy(generator, prompt, order, a_length, b_length):
    return generator.choice(["a", "a", "b", "tie", None])


class TestWinRates:
    def test_as_the_plain_twin_counts(self):
        table = verdicts_of(noisy, turns=(1, 2))
        summary = summarize_pairs(table, seed=0)[0]
        points = slow_win_rate(table)
        assert summary.overall.rate == pytest.approx(sum(points) / len(points))
        assert summary.overall.wins == points.count(1.0)
        assert summary.overall.ties == points.count(0.5)
        assert summary.overall.losses == points.count(0.0)
        assert summary.unparsed == {"missing": table["verdict"].is_null().sum()}
        assert sum(each.pairs for each in summary.by_category.values()) == len(points)
        assert sum(each.pairs for each in summary.by_turn.values()) == len(points)

    def test_a_judge_that_takes_the_first_gives_ties_and_is_found_out(self):
        table = verdicts_of(lambda *given: "a" if given[2] == "ab" else "b")
        summary = summarize_pairs(table, seed=0)[0]
        assert summary.overall.rate == 0.5
        assert summary.place.first_share == 1.0
        assert summary.place.agreement == 0.0
        assert summary.length is not None
        assert summary.length.win_rate == pytest.approx(0.5, abs=0.02)
        assert summary.length.place > 3

    def test_a_judge_of_lengths_is_set_right(self):
        """It prefers the longer answer and, at equal length, the first side with log-odds of 0.7."""

        def judge(generator, prompt, order, a_length, b_length):
            odds = 0.7 + 3.0 * ((a_length - b_length) / 300)
            return "a" if generator.random() < 1 / (1 + 2.718281828**-odds) else "b"

        table = verdicts_of(judge, prompts=1500).with_columns(pl.col("a_characters") + 0)
        summary = summarize_pairs(table, seed=0)[0]
        assert summary.length is not None
        assert summary.length.interval.low < 0.668 < summary.length.interval.high
        assert summary.length.length_interval.low > 1
        assert summary.place.first_share == pytest.approx(0.5, abs=0.04)

    def test_a_pair_with_one_verdict_is_no_pair(self):
        table = verdicts_of(lambda *given: "a" if given[2] == "ab" else None)
        summary = summarize_pairs(table, seed=0)[0]
        assert summary.overall.rate is None
        assert summary.length is None
        assert not whole_pairs(table).height

    def test_prompts_are_drawn_and_not_turns(self):
        once = verdicts_of(noisy, prompts=40)
        twice = pl.concat([once, once.with_columns(turn=pl.lit(2, pl.UInt32))])
        first, second = (summarize_pairs(table, seed=0)[0].overall.interval for table in (once, twice))
        assert first == second

    def test_ten_thousand_verdicts_take_less_than_two_seconds(self):
        table = verdicts_of(noisy, prompts=5000)
        assert table.height == 10_000
        summarize_pairs(table.head(100), seed=0)
        began = time.process_time()
        summarize_pairs(table, seed=0, resamples=10_000)
        assert time.process_time() - began < 2.0


class TestStrengths:
    def test_the_order_of_three_and_their_middle(self):
        tables = [
            verdicts_of(lambda g, *_: "a" if g.random() < 0.75 else "b", a="strong", b="middle"),
            verdicts_of(lambda g, *_: "a" if g.random() < 0.75 else "b", a="middle", b="weak", seed=1),
            verdicts_of(lambda g, *_: "a" if g.random() < 0.9 else "b", a="strong", b="weak", seed=2),
        ]
        found = strengths(pl.concat(tables), ["weak", "strong", "middle"], seed=0)
        assert [each.label for each in found] == ["strong", "middle", "weak"]
        assert sum(each.strength for each in found) == pytest.approx(0)
        assert all(each.interval.low < each.strength < each.interval.high for each in found)
        assert found[0].interval.low > found[2].interval.high


class TestGrades:
    def table(self, grades, model="one"):
        rows = [(model, f"p{place}", "maths" if place % 2 else "prose", 1, 0, grade, "ok" if grade else "invalid")
                for place, grade in enumerate(grades)]  # fmt: skip
        columns = {"model": pl.String, "prompt_id": pl.String, "category": pl.String, "turn": pl.UInt32,
                   "repeat": pl.UInt32, "grade": pl.Float64, "parse": pl.String}  # fmt: skip
        return pl.DataFrame(rows, schema=columns, orient="row")

    def test_planted_grades_come_out_by_category(self):
        summary = summarize_grades(self.table([8.0, 3.0, 9.0, 4.0, None]), ["one"], seed=0)[0]
        assert summary.overall.mean == 6.0
        assert summary.by_category["prose"].mean == 8.5
        assert summary.by_category["maths"].mean == 3.5
        assert summary.unparsed == {"invalid": 1}
        assert summary.difference is None

    def test_differences_are_between_the_same_prompts(self):
        table = pl.concat([self.table([2.0, 5.0, 9.0, 6.0]), self.table([3.0, 6.0, None, 7.0], "two")])
        first, second = summarize_grades(table, ["one", "two"], seed=0)
        assert first.difference is None
        assert second.difference is not None
        assert second.difference.difference == pytest.approx(1.0)  # the prompt without a grade is left out of both
        assert second.difference.rows == 3
