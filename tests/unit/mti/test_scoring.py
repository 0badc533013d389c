"""Outputs to marks: the published figures on real instances, the rules for rows, and what exits with which error."""

import dataclasses
import json
import re

import polars as pl
import pytest

from pyllm.errors import InputError
from pyllm.mti.metrics import metrics
from pyllm.mti.parsing import read_tags
from pyllm.mti.scoring import MARKS_SCHEMA, answer_types, score_outputs, subset_of
from pyllm.mti.tasks import Instance, Task, TaskMeta, read_tasks


def task(*answers, types=(), subset="", name="t", instances=1, instructions=None):
    instructions = instructions or tuple(f"Do it. Return <task{n}>N<task{n}/>." for n in range(1, len(answers) + 1))
    return Task(
        name,
        tuple(
            Instance(f"{name}_{number}", name, "Do:", instructions, ((),) * len(answers), answers)
            for number in range(instances)
        ),
        "",
        TaskMeta(answer_types=types, subset=subset) if types or subset else None,
    )


def rows(*outputs, uid="t_0", mode="mti", **columns):
    return pl.DataFrame({"uid": [uid] * len(outputs), "mode": [mode] * len(outputs), "output": outputs, **columns})


def scored(tasks, outputs, scoring="typed"):
    return score_outputs(tasks, outputs, scoring)


@pytest.fixture(scope="module")
def sample(shared_dir):
    return read_tasks(shared_dir / "data/mti/real/mti_bench_sample.json")


def answered(tasks, write):
    """One output an instance, every step answered by `write(instance, step)`."""
    everything = [
        {
            "uid": instance.uid,
            "mode": "mti",
            "output": "\n".join(write(instance, n) for n in range(1, instance.steps + 1)),
        }
        for each in tasks
        for instance in each.instances
    ]
    return pl.DataFrame(everything)


def asked_tag(instance, step):
    return int(re.search(r"<task(\d+)>", instance.instructions[step - 1])[1])


def natural(gold):
    if isinstance(gold, list):
        return str(sorted(gold))
    return f"{gold:.4g}" if isinstance(gold, float) else str(gold)


@pytest.mark.parametrize(
    ("scoring", "closing", "right"),
    [
        ("strict", "<task{}/>", 438),
        ("strict", "</task{}>", 0),
        ("typed", "<task{}/>", 439),
        ("typed", "</task{}>", 439),
    ],
)
def test_golds_of_the_real_sample(sample, scoring, closing, right):
    def write(instance, step):
        return f"<task{step}>{instance.answers[step - 1]}{closing.format(step)}"

    marks = scored(sample, answered(sample, write), scoring)
    assert marks.height == 439
    assert marks["correct"].sum() == right
    if right == 438:
        assert marks.filter(~pl.col("correct"))["uid"].to_list() == ["023_678"]


@pytest.mark.parametrize(
    ("scoring", "repaired", "closing", "macro"),
    [
        ("strict", False, "<task{}/>", 0.836),
        ("strict", False, "</task{}>", 0.0),
        ("typed", False, "<task{}/>", 0.920),
        ("typed", True, "<task{}/>", 1.0),
    ],
)
def test_an_oracle_that_obeys_each_instruction(sample, scoring, repaired, closing, macro):
    """It knows every gold, closes the tag that the instruction asks for, and writes numbers as people do."""

    def write(instance, step):
        tag = step if repaired and instance.task in ("011", "013") else asked_tag(instance, step)
        return f"<task{tag}>{natural(instance.answers[step - 1])}{closing.format(tag)}"

    measured = metrics(scored(sample, answered(sample, write), scoring))
    final = measured.filter((pl.col("metric") == "final_accuracy") & (pl.col("scope") == "all"))
    assert final["macro"].item() == pytest.approx(macro, abs=1e-12)


def test_real_outputs_have_one_answer_each(shared_dir):
    lines = (shared_dir / "data/mti/real/gpt4omini_freeform_031.jsonl").read_text(encoding="utf-8").splitlines()
    answers = []
    for line in lines:
        tags = read_tags(json.loads(line)["generation"])
        assert list(tags.spans) == [2]
        assert not tags.unclosed
        assert len(tags.contents(2)) == 1
        answers += tags.contents(2)
    assert answers == ["3", "3", "1", "4", "2", "1", "3", "1", "4", "2", "1", "4"]


def test_rebuilt_golds_are_right_under_their_stated_types(shared_dir):
    whole = read_tasks(shared_dir / "data/mti/rebuilt/mti_rebuild_v0.json")
    tasks = [dataclasses.replace(each, instances=each.instances[::10]) for each in whole]

    def write(instance, step):
        return f"<task{step}>{instance.answers[step - 1]}</task{step}>"

    marks = scored(tasks, answered(tasks, write))
    text = marks.filter(pl.col("answer_type") == "text")
    assert marks.height == 580
    assert marks["correct"].sum() == 560
    assert text.height == text["score"].sum() == 20
    assert text["correct"].null_count() == 20


def test_one_output_answers_all_steps_and_columns_are_as_named():
    marks = scored([task(4, "B", [1, 2])], rows("<task1>4<task1/> <task2>c</task2> <task3>2, 1"))
    assert dict(marks.schema) == MARKS_SCHEMA
    assert marks.select("uid", "mode", "repeat", "step", "correct", "parse", "parsed", "gold").rows() == [
        ("t_0", "mti", 0, 1, True, "ok", "4", "4"),
        ("t_0", "mti", 0, 2, False, "ok", "c", "B"),
        ("t_0", "mti", 0, 3, False, "unclosed", None, "[1, 2]"),
    ]
    assert marks.select("task", "subset", "steps").rows() == [("t", None, 3)] * 3
    assert marks["answer_type"].to_list() == ["int", "letter", "set"]


def test_a_step_of_its_own_reads_its_own_tag_alone():
    outputs = rows("<task1>4</task1>", "<task2>4</task2>", mode="sti", step=[1, 2])
    assert scored([task(4, 4)], outputs)["correct"].to_list() == [True, True]
    assert scored([task(4, 4)], outputs.reverse())["step"].to_list() == [2, 1]
    assert scored([task(4, 4)], outputs.with_columns(step=pl.Series([2, 1])))["parse"].to_list() == ["missing"] * 2


def test_batch_rows_name_the_tag_to_read():
    text = "<task1>4</task1> <task2>5</task2>"
    tasks = [task(4, 1, name="a"), task(5, 1, name="b")]
    outputs = pl.DataFrame(
        {"uid": ["a_0", "b_0"], "mode": ["batch"] * 2, "step": [1, 1], "tag": [1, 2], "output": [text, text]}
    )
    assert scored(tasks, outputs).select("uid", "step", "correct", "parsed").rows() == [
        ("a_0", 1, True, "4"),
        ("b_0", 1, True, "5"),
    ]
    assert scored(tasks, outputs, "strict")["parse"].to_list() == ["unclosed", "unclosed"]


def test_an_echo_in_a_batch_is_skipped_under_its_own_tag():
    text = "Return <task3>N<task3/>. So <task3>5</task3>"
    outputs = rows(text, mode="batch", step=[1], tag=[3])
    assert scored([task(5, 1)], outputs).select("correct", "parse").rows() == [(True, "ok")]


def test_repeats_are_marked_apart_and_default_to_zero():
    outputs = rows("<task1>4</task1>", "<task1>5</task1>", repeat=[0, 1])
    marks = scored([task(4)], outputs)
    assert marks.select("repeat", "correct").rows() == [(0, True), (1, False)]
    assert scored([task(4)], rows("<task1>4</task1>", repeat=[None]))["repeat"].to_list() == [0]


def test_null_outputs_and_instances_without_output_have_no_mark():
    tasks = [task(4, 5, instances=3)]
    outputs = pl.DataFrame({"uid": ["t_0", "t_1"], "mode": ["mti", "mti"], "output": ["<task1>4</task1>", None]})
    marks = scored(tasks, outputs)
    assert marks["uid"].unique().to_list() == ["t_0"]
    assert marks["parse"].to_list() == ["ok", "missing"]


def test_free_text_has_a_score_and_no_verdict():
    tasks = [task("a small dog", 4, types=("text", "int"))]
    marks = scored(tasks, rows("<task1>A dog.</task1> <task2>4</task2>"))
    assert marks["correct"].to_list() == [None, True]
    assert marks["score"].to_list() == [pytest.approx(2 * 2 / 5), None]
    assert scored(tasks, rows("nothing"))["score"].to_list() == [0.0, None]
    assert scored(tasks, rows("<task1>A dog.<task1/>"), "strict")["score"].to_list() == [pytest.approx(0.8), None]


def test_untagged_free_text_is_the_whole_output_or_what_stands_under_its_heading():
    untagged = ("Translate it.", "Summarise it.")
    tasks = [task("ein kleiner hund", "ein hund", types=("text", "text"), instructions=untagged)]
    alone = pl.DataFrame({"uid": ["t_0"], "mode": ["sti"], "step": [2], "output": ["Ein Hund"]})
    assert scored(tasks, alone).select("parse", "parsed", "score").rows() == [("ok", "Ein Hund", 1.0)]
    both = rows("### Instruction1:\nEin kleiner Hund\n\n### Instruction2:\nein Hund\n")
    assert scored(tasks, both)["parsed"].to_list() == ["Ein kleiner Hund", "ein Hund"]
    assert scored(tasks, rows("no headings"))["parse"].to_list() == ["missing", "missing"]
    tagged = scored(tasks, rows("<task1>Ein kleiner Hund</task1>"))
    assert tagged["parse"].to_list() == ["ok", "missing"]


def test_the_published_free_form_tasks_are_texts(shared_dir):
    tasks = read_tasks(shared_dir / "data/mti/real/free_form_sample.json")
    assert [subset_of(each) for each in tasks] == ["free-form"]
    assert answer_types(tasks[0], tasks[0].instances[0]) == ("text", "text")


def test_scoring_ignores_other_columns_and_keeps_the_order_of_rows():
    tasks = [task(4, instances=3)]
    outputs = rows("<task1>4</task1>", "", "<task1>5", tokens=[1, 2, 3]).with_columns(
        uid=pl.Series(["t_2", "t_0", "t_1"])
    )
    marks = scored(tasks, outputs)
    assert marks["uid"].to_list() == ["t_2", "t_0", "t_1"]
    assert marks["parse"].to_list() == ["ok", "missing", "unclosed"]


def test_no_rows_give_no_marks():
    empty = pl.DataFrame(schema={"uid": pl.String, "mode": pl.String, "output": pl.String})
    assert scored([task(4)], empty).shape == (0, len(MARKS_SCHEMA))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (rows("a").drop("output"), "out.jsonl: column `output` is missing (found `uid`, `mode`)"),
        (rows("a", "b"), "out.jsonl, row 2: row 1 has an output for uid `t_0`, mode `mti`, repeat 0, step 1 too"),
        (
            rows("a", "b", step=[None, 2]),
            "out.jsonl, row 2: row 1 has an output for uid `t_0`, mode `mti`, repeat 0, step 2 too",
        ),
        (rows("a", None), "out.jsonl, row 2: row 1 has an output for uid `t_0`, mode `mti`, repeat 0, step 1 too"),
        (rows("a", uid="t_9"), "out.jsonl, row 1: there is no instance `t_9` in the tasks"),
        (rows("a", None).with_columns(uid=pl.Series(["t_0", None])), "out.jsonl, row 2: `uid` is null"),
        (rows("a", mode="MTI"), "out.jsonl, row 1: there is no mode `MTI`"),
        (rows("a", mode=None).cast({"mode": pl.String}), "out.jsonl, row 1: there is no mode `None`"),
        (rows("a", step=[3]), "out.jsonl, row 1: `step` is 3, but `t_0` has the steps 1 to 2"),
        (rows("a", step=[0]), "out.jsonl, row 1: `step` is 0, but `t_0` has the steps 1 to 2"),
        (rows("a", step=["x"]), "out.jsonl, row 1: `step` is `x`, not a whole number"),
        (rows("a", step=[1.5]), "out.jsonl, row 1: `step` is `1.5`, not a whole number"),
        (rows("a", step=[[1]]), "out.jsonl: column `step` is List(Int64), not whole numbers"),
        (rows("a", repeat=[-1]), "out.jsonl, row 1: `repeat` is -1, but it counts from 0"),
        (rows("a", tag=[1]), "out.jsonl, row 1: `tag` is 1 and `step` is null, but a tag belongs to one step"),
        (rows("a", tag=[0], step=[1]), "out.jsonl, row 1: `tag` is 0, but tags count from 1"),
        (rows(4), "out.jsonl: column `output` is Int64, not text"),
    ],
)
def test_bad_rows_are_named(outputs, message):
    with pytest.raises(InputError) as caught:
        score_outputs([task(4, 5)], outputs, "typed", name="out.jsonl")
    assert caught.value.message == message


def test_numbers_of_a_csv_file_are_read():
    outputs = rows("<task2>5</task2>", step=["2"], repeat=["1"], tag=[""])
    assert scored([task(4, 5)], outputs).select("step", "repeat", "correct").rows() == [(2, 1, True)]
