"""Measures on marks small enough to count by hand."""

import json

import polars as pl
import pytest

from pyllm.errors import InputError, SettingError
from pyllm.mti.agree import agreement
from pyllm.mti.compare import differences, discordant, mode_differences, side_of
from pyllm.mti.costs import costs, latency
from pyllm.mti.metrics import association, check_marks, coverage, metrics
from pyllm.mti.scoring import MARKS_SCHEMA
from pyllm.mti.tasks import Instance, Task, TaskMeta


def marks_of(*instances, mode="mti", repeat=0, subset="multi-step"):
    """Marks of instances given as `(uid, task, verdicts)`; a verdict is a bool, a ROUGE score or a state of parsing."""
    rows = []
    for uid, task, verdicts in instances:
        for step, verdict in enumerate(verdicts, start=1):
            if verdict is None:
                continue
            text = isinstance(verdict, float)
            state = verdict if isinstance(verdict, str) else "ok"
            rows.append(
                {
                    "uid": uid,
                    "mode": mode,
                    "repeat": repeat,
                    "step": step,
                    "correct": None if text else verdict is True,
                    "score": verdict if text else None,
                    "parse": state,
                    "parsed": None if state in ("missing", "unclosed") else "x",
                    "gold": f"{step}",
                    "task": task,
                    "subset": subset,
                    "steps": len(verdicts),
                    "answer_type": "text" if text else "int",
                }
            )
    return pl.DataFrame(rows, schema=MARKS_SCHEMA)


def value(table, metric, step=None, *, of="value", scope="all", name="all", mode="mti"):
    found = table.filter(
        (pl.col("metric") == metric)
        & pl.col("step").eq_missing(step)
        & (pl.col("scope") == scope)
        & (pl.col("name") == name)
        & pl.col("mode").eq_missing(mode)
    )
    return found[of].item()


EXAMPLE = marks_of(
    ("a1", "a", (True, True, True)),
    ("a2", "a", (True, False, True)),
    ("a3", "a", (False, True, "missing")),
    ("b1", "b", (True, "ambiguous")),
    ("b2", "b", (False, "unclosed")),
)


def test_step_conditional_and_final_accuracy():
    table = metrics(EXAMPLE)
    assert value(table, "step_accuracy", 1) == pytest.approx(3 / 5)
    assert value(table, "step_accuracy", 2) == pytest.approx(2 / 5)
    assert value(table, "step_accuracy", 3) == pytest.approx(2 / 3)
    assert value(table, "step_accuracy") == pytest.approx(7 / 13)
    # Published rule, on answers 1,2,3 against 1,x,3: step (1,0,1), conditional (1,0,0).
    assert value(table, "conditional_accuracy", 1) == pytest.approx(3 / 5)
    assert value(table, "conditional_accuracy", 2) == pytest.approx(1 / 5)
    assert value(table, "conditional_accuracy", 3) == pytest.approx(1 / 3)
    assert value(table, "final_accuracy") == pytest.approx(1 / 5)
    assert value(table, "final_accuracy", of="macro") == pytest.approx((1 / 3 + 0) / 2)
    assert value(table, "final_accuracy", scope="task", name="a") == pytest.approx(1 / 3)
    assert value(table, "final_accuracy", scope="steps", name="2") == 0
    assert value(table, "final_accuracy", scope="subset", name="multi-step") == pytest.approx(1 / 5)
    assert value(table, "final_accuracy", of="instances") == 5


def test_right_after_wrong_and_failures_of_form():
    table = metrics(EXAMPLE)
    assert value(table, "right_after_wrong", 2) == pytest.approx(1 / 2)  # a3, b2
    assert value(table, "right_after_wrong", 3) == 1  # a2 alone was wrong before
    assert value(table, "format_failures") == pytest.approx(2 / 13)
    assert value(table, "missing") == value(table, "unclosed") == value(table, "ambiguous") == pytest.approx(1 / 13)
    assert value(table, "accuracy_when_found") == pytest.approx(7 / 11)


def test_intervals_of_single_runs_are_wilsons():
    table = metrics(EXAMPLE)
    # Wilson 1927 for 1 of 5.
    assert value(table, "final_accuracy", of="low") == pytest.approx(0.0362, abs=1e-4)
    assert value(table, "final_accuracy", of="high") == pytest.approx(0.6245, abs=1e-4)


def test_instances_that_lack_a_step_are_no_part_of_whole_ones():
    marks = pl.concat([EXAMPLE, marks_of(("c1", "c", (True, True, None)), ("c2", "c", (True, None, True)))])
    table = metrics(marks)
    assert value(table, "final_accuracy", of="instances") == 5
    assert value(table, "conditional_accuracy", 2, scope="task", name="c") == 1
    assert value(table, "conditional_accuracy", 1, scope="task", name="c") == 1
    found = coverage(marks, instances=9)
    assert (found.instances, found.marked, found.complete, found.incomplete) == (9, {"mti": 7}, {"mti": 5}, {"mti": 2})


def test_free_text_stays_out_of_accuracy():
    marks = marks_of(("a1", "a", (True, 0.5)), ("a2", "a", (False, 1.0)), ("b1", "b", (0.25, 0.75)))
    table = metrics(marks)
    assert value(table, "final_accuracy") == pytest.approx(1 / 2)
    assert value(table, "rouge_l", 2) == pytest.approx((0.5 + 1.0 + 0.75) / 3)
    assert value(table, "step_accuracy", 1) == pytest.approx(1 / 2)


def test_repeats_are_averaged_and_their_spread_is_given():
    second = marks_of(("a1", "a", (True, False)), ("a2", "a", (True, True)), repeat=1)
    table = metrics(pl.concat([marks_of(("a1", "a", (True, True)), ("a2", "a", (True, True))), second]))
    assert value(table, "final_accuracy") == pytest.approx((1 + 0.5) / 2)
    assert value(table, "final_accuracy", of="spread") == pytest.approx(0.5 / 2**0.5)
    assert value(table, "final_accuracy", of="repeats") == 2
    assert value(table, "final_accuracy", of="instances") == 2


def test_floors_are_those_of_the_commonest_golds():
    marks = marks_of(*((f"a{n}", "a", (True, True)) for n in range(4))).with_columns(
        gold=pl.Series(["1", "x", "1", "x", "1", "y", "2", "y"])
    )
    table = metrics(marks)
    assert value(table, "majority_floor", 1, mode=None) == pytest.approx(3 / 4)
    assert value(table, "majority_floor", 2, mode=None) == pytest.approx(2 / 4)
    assert value(table, "joint_majority_floor", mode=None) == pytest.approx(2 / 4)


def test_association_pairs_neighbouring_steps_within_tasks():
    """Two tasks, one easy and one hard, in which steps have nothing to do with each other: pooled they seem to."""
    easy = (
        [("e", (True, True))] * 81 + [("e", (True, False))] * 9 + [("e", (False, True))] * 9 + [("e", (False, False))]
    )
    hard = (
        [("h", (False, False))] * 81 + [("h", (True, False))] * 9 + [("h", (False, True))] * 9 + [("h", (True, True))]
    )
    marks = marks_of(*((f"{task}{place}", task, verdicts) for place, (task, verdicts) in enumerate(easy + hard)))
    row = association(marks).filter(pl.col("scope") == "all").row(0, named=True)
    assert (row["both"], row["first_only"], row["second_only"], row["neither"]) == (82, 18, 18, 82)
    assert row["chi_squared"] == pytest.approx(200 * (82 * 82 - 18 * 18) ** 2 / 100**4)
    assert row["odds_ratio"] == pytest.approx((82 / 18) ** 2)
    assert row["cmh"] == pytest.approx(0)
    assert row["cmh_odds_ratio"] == pytest.approx(1)
    assert row["tasks"] == 2


def test_three_steps_are_paired_as_neighbours():
    table = association(EXAMPLE).filter(pl.col("scope") == "all")
    assert table.select("step", "next_step", "both", "first_only", "second_only", "neither").rows() == [
        (1, 2, 1, 2, 1, 1),
        (2, 3, 1, 1, 1, 0),
    ]


def test_what_is_no_finite_number_is_null():
    marks = marks_of(("a1", "a", (True, True)), ("a2", "a", (False, False)), ("b1", "b", (True, True)))
    row = association(marks).filter(pl.col("scope") == "all").row(0, named=True)
    assert row["cmh_odds_ratio"] is None
    assert row["odds_ratio"] == pytest.approx(2.5 * 1.5 / 0.25)
    always = association(marks.filter(pl.col("uid") != "a2")).filter(pl.col("scope") == "all").row(0, named=True)
    assert (always["chi_squared"], always["odds_ratio"], always["cmh_odds_ratio"]) == (None, None, None)
    json.dumps(row, allow_nan=False)


def other_mode():
    return marks_of(
        ("a1", "a", (True, True, True)),
        ("a2", "a", (True, True, True)),
        ("a3", "a", (True, True, True)),
        ("b1", "b", (False, False)),
        ("b9", "b", (True, True)),
        mode="sti",
    )


def test_differences_are_paired():
    table = differences(EXAMPLE, other_mode(), names=("mti", "sti"))
    row = table.filter((pl.col("metric") == "final_accuracy") & (pl.col("scope") == "all")).row(0, named=True)
    assert row["instances"] == 4  # b2 and b9 are on one side only
    assert row["difference"] == pytest.approx((1 - 3) / 4)
    assert (row["both"], row["first_only"], row["second_only"], row["neither"]) == (1, 0, 2, 1)
    assert row["p_value"] == pytest.approx(0.5)  # two of two: 2 * 1/4
    assert row["p_exact"]
    assert row["macro"] == pytest.approx((-2 / 3 + 0) / 2)
    assert row["low"] < row["difference"] < row["high"] <= 0
    step = table.filter((pl.col("metric") == "step_accuracy") & (pl.col("scope") == "all") & (pl.col("step") == 1))
    assert step["difference"].item() == pytest.approx((3 - 3) / 4)


def test_modes_of_one_run_are_compared_with_single_task_inference_first():
    batch = EXAMPLE.with_columns(mode=pl.lit("batch"))
    table = mode_differences(pl.concat([batch, other_mode(), EXAMPLE]))
    pairs = table.select("first", "second").unique(maintain_order=True).rows()
    assert pairs == [("mti", "sti"), ("batch", "sti"), ("mti", "batch")]


def test_the_same_seed_gives_the_same_differences():
    first = differences(EXAMPLE, other_mode(), seed=3)
    assert first.equals(differences(EXAMPLE, other_mode(), seed=3))


def test_instances_that_one_side_solves_stand_side_by_side():
    outputs = pl.DataFrame(
        {
            "uid": ["a2", "a2", "a3"],
            "mode": ["sti", "sti", "mti"],
            "repeat": [0, 0, 0],
            "step": [2, 1, None],
            "output": ["two", "one", "all"],
        }
    )
    table = discordant(EXAMPLE, other_mode(), names=("mti", "sti"), outputs=(outputs, outputs))
    assert table.select("uid", "solved_by", "note").rows() == [("a2", "sti", ""), ("a3", "sti", "")]
    assert table["first_correct"].to_list() == [[True, False, True], [False, True, False]]
    assert table["second_correct"].to_list() == [[True] * 3] * 2
    assert table["first_pattern"].to_list() == ["", "no output"]
    assert table["second_pattern"].to_list() == ["", ""]
    assert table["second_output"].to_list() == [["one", "two"], None]
    assert table["first_output"].to_list() == [None, ["all"]]
    assert table["gold"].to_list() == [["1", "2", "3"]] * 2


def test_a_side_that_is_not_there_is_named():
    with pytest.raises(SettingError, match="there are no marks of the mode `batch`"):
        side_of(EXAMPLE, "batch")


def asked(name, steps):
    """A task, as far as costs look at it."""
    return Task(
        name,
        (Instance(f"{name}0", name, "", ("",) * steps, ((),) * steps, (1,) * steps),),
        "",
        TaskMeta(subset="multi-step"),
    )


TASKS = [asked("a", 3), asked("b", 2)]
CALLS = {
    "task": ["a", "a", "b"],
    "mode": ["mti", "mti", "mti"],
    "repeat": [0, 0, 0],
    "uids": [["a1"], ["a2", "a3"], ["b1"]],
    "error": [None, None, "timeout"],
    "prompt_tokens": [100, 200, None],
    "cached_tokens": [None, 50, None],
    "generated_tokens": [10, 20, None],
    "busy_seconds": [1.5, 2.5, None],
}


def test_costs_are_sums_over_calls_and_shares_of_them():
    table = costs(pl.DataFrame(CALLS), EXAMPLE, TASKS)
    row = table.filter(pl.col("scope") == "all").row(0, named=True)
    assert (row["instances"], row["solved"], row["failed_calls"], row["calls"]) == (4, 1, 1, 2)
    assert row["prompt_tokens"] == 300
    assert row["prompt_tokens_per_solved"] == 300
    assert row["generated_tokens_per_instance"] == pytest.approx(30 / 4)
    assert row["cached_tokens"] is None  # a server did not say
    assert row["wall_seconds"] is None
    assert row["busy_seconds_per_solved"] == 4
    part = table.filter((pl.col("scope") == "task") & (pl.col("name") == "b")).row(0, named=True)
    assert (part["calls"], part["solved"], part["calls_per_solved"]) == (0, 0, None)


def test_a_task_without_marks_has_costs_of_its_own():
    table = costs(pl.DataFrame(CALLS), EXAMPLE.filter(pl.col("task") == "a"), TASKS)
    lost = table.filter((pl.col("scope") == "steps") & (pl.col("name") == "2")).row(0, named=True)
    assert (lost["instances"], lost["solved"], lost["failed_calls"], lost["final_accuracy"]) == (1, 0, 1, None)
    nothing = costs(pl.DataFrame(CALLS), EXAMPLE.clear(), TASKS)
    assert nothing["solved"].to_list() == [0] * nothing.height
    with pytest.raises(InputError, match="calls: there is no task `b` in the tasks"):
        costs(pl.DataFrame(CALLS), EXAMPLE, TASKS[:1])


def test_no_marks_make_empty_tables():
    nothing = EXAMPLE.clear()
    assert metrics(nothing).height == 0
    assert association(nothing).height == 0
    assert mode_differences(nothing).height == 0


def test_the_frontier_leaves_out_what_another_mode_beats():
    marks = pl.concat(
        [
            marks_of(("a1", "a", (True,)), ("a2", "a", (True,))),
            marks_of(("a1", "a", (True,)), ("a2", "a", (False,)), mode="sti"),
            marks_of(("a1", "a", (True,)), ("a2", "a", (False,)), mode="batch"),
        ]
    )
    modes = ["mti", "mti", "sti", "sti", "batch"]
    calls = pl.DataFrame(
        {
            "task": ["a"] * 5,
            "mode": modes,
            "repeat": [0] * 5,
            "uids": [["a1"], ["a2"], ["a1"], ["a2"], ["a1", "a2"]],
            "error": pl.Series([None] * 5, dtype=pl.String),
            "prompt_tokens": [10, 10, 20, 20, 8],
            "generated_tokens": [1, 1, 1, 1, 1],
        }
    )
    table = costs(calls, marks, TASKS).filter(pl.col("scope") == "all")
    flags = dict(table.select("mode", "on_token_frontier").rows())
    assert flags == {"mti": True, "sti": False, "batch": True}
    assert table["on_seconds_frontier"].to_list() == [None] * 3


def test_latency_is_told_apart_by_batch_size():
    calls = pl.DataFrame(CALLS).with_columns(
        batch_size=pl.Series([1, 4, None]), wall_seconds=pl.Series([2.0, 3.0, None])
    )
    calls = pl.concat([calls, calls.with_columns(wall_seconds=pl.col("wall_seconds") + 1)])
    table = latency(calls)
    assert table.select(
        "batch_size", "calls", "instances", "mean_seconds", "p90_seconds", "mean_busy_seconds"
    ).rows() == [
        (1, 2, 2, 2.5, 2.9, 1.5),
        (4, 2, 4, 3.5, 3.9, 2.5),
    ]
    assert latency(pl.DataFrame(CALLS)).height == 0
    assert costs(calls.head(3), EXAMPLE, TASKS).filter(pl.col("scope") == "all").height == 1


def test_marks_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"m\.csv: column `parse` is missing"):
        check_marks(EXAMPLE.drop("parse"), name="m.csv")
    with pytest.raises(InputError, match=r"m\.csv, row 14: an earlier row has the same uid, mode, repeat and step"):
        check_marks(pl.concat([EXAMPLE, EXAMPLE]), name="m.csv")
    with pytest.raises(InputError, match=r"m\.csv, row 1: `correct` is `yes`, not Boolean"):
        check_marks(EXAMPLE.with_columns(correct=pl.lit("yes")), name="m.csv")
    as_text = EXAMPLE.with_columns(pl.all().cast(pl.String))
    assert check_marks(as_text).equals(EXAMPLE)


def test_labels_side_by_side_and_in_long_form_agree_alike():
    wide = pl.DataFrame({"uid": [1, 2, 3, 4, 5, 6], "anna": [*"yyyny", None], "ben": list("yynnyy")})
    row = agreement(wide).row(0, named=True)
    assert (row["first"], row["second"], row["items"], row["unlabelled"]) == ("anna", "ben", 5, 1)
    # Agree on 4 of 5; by chance 4/5 * 3/5 + 1/5 * 2/5 = 0.56.
    assert row["kappa"] == pytest.approx((0.8 - 0.56) / 0.44)
    long = wide.unpivot(["anna", "ben"], index="uid", variable_name="rater", value_name="label").rename({"uid": "item"})
    again = agreement(long).row(0, named=True)
    assert again == row


def test_criteria_are_compared_by_themselves():
    table = pl.DataFrame(
        {
            "id": [1, 2, 1, 2],
            "what": ["fit", "fit", "clear", "clear"],
            "a": ["1", "2", "1", "2"],
            "b": ["1", "2", "2", "1"],
        }
    )
    result = agreement(table, by="what")
    assert result.select("criterion", "kappa").rows() == [("fit", 1.0), ("clear", -1.0)]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"uid": [1], "a": ["y"]}, {}, "labels: it is not clear which two columns hold labels (found `uid`, `a`)"),
        ({"a": ["y"], "b": ["y"]}, {"columns": ("a", "c")}, "labels: column `c` is missing (found `a`, `b`)"),
        ({"a": ["y"], "b": [None]}, {}, "labels: `a` and `b` have labelled no item both"),
        (
            {"item": [1, 1], "rater": ["a", "a"], "label": ["y", "n"]},
            {},
            "labels, row 2: `a` has labelled item `1` before",
        ),
        ({"item": [1, 2], "rater": ["a", "a"], "label": ["y", "n"]}, {}, "labels: all labels are of one person, `a`"),
        ({"item": [1, None], "rater": ["a", "b"], "label": ["y", "n"]}, {}, "labels, row 2: `item` is empty"),
    ],
)
def test_bad_labels_are_named(table, options, message):
    with pytest.raises(InputError) as caught:
        agreement(pl.DataFrame(table), **options)
    assert caught.value.message == message
