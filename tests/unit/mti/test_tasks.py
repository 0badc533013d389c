"""Task files: what is read, in which order, and how what breaks the schema is named."""

import gzip
import json
from pathlib import Path

import pytest

from pyllm.errors import InputError
from pyllm.mti.tasks import read_tasks


def instance(**changes):
    body = {
        "query": "Do this.",
        "instruction": {"1": "First <task1>N<task1/>.", "2": "Second <task2>N<task2/>."},
        "context": {"1_0": "a", "1_1": "b"},
        "answers": [1, "two"],
    }
    return body | changes


def document(**changes):
    return {"7": {"instance": {"7_3": instance(**changes), "7_1": instance()}, "sample": "S"}}


def written(tmp_path: Path, value) -> Path:
    path = tmp_path / "tasks.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_file_keeps_its_order(tmp_path):
    body = document(
        instruction={str(step): f"do {step}" for step in (2, 1, *range(3, 12))},
        context={"10_0": "ten", "1_1": "x", "1_0": "y", "2_0": "z", "11_0": "eleven"},
        answers=list(range(11)),
    )
    del body["7"]["instance"]["7_1"]
    body["b"] = {"instance": {"u": instance()}, "sample": "T", "meta": {"name": "n", "subset": "multi-part"}}
    tasks = read_tasks(written(tmp_path, body))
    assert [task.id for task in tasks] == ["7", "b"]
    first = tasks[0].instances[0]
    assert (first.uid, first.task, first.query, first.steps) == ("7_3", "7", "Do this.", 11)
    assert first.instructions == tuple(f"do {step}" for step in range(1, 12))
    assert first.contexts == (("x", "y"), ("z",), *[()] * 7, ("ten",), ("eleven",))
    assert first.answers == tuple(range(11))
    assert (tasks[0].sample, tasks[0].meta) == ("S", None)
    assert (tasks[1].meta.name, tasks[1].meta.subset, tasks[1].meta.answer_types) == ("n", "multi-part", ())


def test_answers_keep_their_types(tmp_path):
    golds = [1, 2.0, "2", [1, 2], ["a"], [], 10**30]
    steps = {str(step): "do" for step in range(1, 8)}
    body = {"t": {"instance": {"u": instance(instruction=steps, context={}, answers=golds)}, "sample": ""}}
    answers = read_tasks(written(tmp_path, body))[0].instances[0].answers
    assert list(answers) == golds
    assert [type(each) for each in answers] == [int, float, str, list, list, list, int]


def test_packed_files_are_read(tmp_path):
    path = tmp_path / "tasks.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document()).encode()))
    assert len(read_tasks(path)[0].instances) == 2


BROKEN = [
    (instance(query=3), "field `query`: 3 is not a text"),
    (instance(query="\ud800"), "half a surrogate pair"),
    (instance(instruction={}), "holds no instructions"),
    (instance(instruction={"1": "a", "3": "b"}), "field `instruction`: step 2 is missing"),
    (instance(instruction={"one": "a", "2": "b"}), "the key `one` is not the number of a step"),
    (instance(instruction={"1": "a", "2": None}), "field `instruction.2`: null is not a text"),
    (instance(instruction=["a"]), "is not an object"),
    (instance(context={"1": "a"}), "the key `1` is not `<step>_<number>`"),
    (instance(context={"3_0": "a"}), "belongs to step 3, but there are 2 instructions"),
    (instance(context={"1_0": ["a"]}), "field `context.1_0`"),
    (instance(answers=[1]), "1 answers for 2 instructions"),
    (instance(answers=[1, True]), "field `answers.1`: true"),
    (instance(answers=[1, None]), "field `answers.1`: null"),
    (instance(answers=[1, {}]), "field `answers.1`: {}"),
    (instance(answers=[1, [1, "a"]]), "not a list of whole numbers or of texts"),
    (instance(answers=[1, [1.5]]), "not a list of whole numbers or of texts"),
    (instance(answers="12"), "is not a list"),
    ({"query": "a"}, "`instruction` is missing; it has `query`"),
    ("text", "is not an object"),
]


@pytest.mark.parametrize(("body", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_instance_is_named(tmp_path, body, reason):
    path = written(tmp_path, {"7": {"instance": {"7_0": instance(), "7_9": body}, "sample": ""}})
    with pytest.raises(InputError) as caught:
        read_tasks(path)
    assert caught.value.message.startswith(f"{path}, task `7`, uid `7_9`")
    assert reason in caught.value.message


BROKEN_FILES = [
    ("[]", "is not an object"),
    ("{}", "holds no tasks"),
    ("{", "is not valid JSON"),
    ('{"a": NaN}', "`NaN` is no number of JSON"),
    ("[" * 100_000, "is not valid JSON: it is nested too deeply"),
    ('{"a": ' + "1" * 5000 + "}", "is not valid JSON"),
    ('{"a": {"instance": {}, "sample": ""}}', "task `a`, field `instance`: it holds no instances"),
    ('{"a": {"sample": ""}}', "task `a`: `instance` is missing"),
    ('{"a": 1, "a": 2}', "the key `a` stands twice"),
    ('{"a": {"instance": {"u": {}, "u": {}}}}', "task `a`, field `instance`: the key `u` stands twice"),
    ('{"a": {"instance": {"": {}}}}', "the uid is empty"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN_FILES, ids=[reason for _, reason in BROKEN_FILES])
def test_a_broken_file_is_named(tmp_path, text, reason):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_tasks(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message


def test_a_key_that_stands_twice_deep_inside_is_placed(tmp_path):
    text = json.dumps(document()).replace('"1_1": "b"', '"1_0": "b"', 1)
    with pytest.raises(InputError, match=r"task `7`, uid `7_3`, field `context`: the key `1_0` stands twice"):
        read_tasks(written(tmp_path, text))


def test_a_number_too_large_is_refused(tmp_path):
    text = json.dumps(document()).replace('"two"', "1e999", 1)
    with pytest.raises(InputError, match="too large for a float"):
        read_tasks(written(tmp_path, text))


def test_two_tasks_cannot_share_a_uid(tmp_path):
    with pytest.raises(InputError, match=r"task `b`, uid `7_3`: task `7` has this uid too"):
        read_tasks(written(tmp_path, document() | {"b": {"instance": {"7_3": instance()}, "sample": ""}}))


def test_instances_of_a_task_have_the_same_steps(tmp_path):
    shorter = instance(instruction={"1": "a"}, context={}, answers=[1])
    with pytest.raises(InputError, match=r"uid `c`: it has 1 instructions, but `b`"):
        read_tasks(written(tmp_path, {"7": {"instance": {"b": instance(), "c": shorter}, "sample": ""}}))


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"subset": "many"}, "field `meta.subset`: there is no `many`"),
        ({"answer_types": ["int"]}, "field `meta.answer_types`: it has 1 entries for 2 instructions"),
        ({"answer_types": ["int", "word"]}, "field `meta.answer_types.1`: there is no `word`"),
        ({"demo_steps": ["a", 2]}, "field `meta.demo_steps.1`: 2 is not a text"),
        ([], "field `meta`: [] is not an object"),
    ],
)
def test_broken_meta_is_named(tmp_path, meta, reason):
    body = document()
    body["7"]["meta"] = meta
    with pytest.raises(InputError) as caught:
        read_tasks(written(tmp_path, body))
    assert reason in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.json: no such file"):
        read_tasks(tmp_path / "none.json")


def test_real_files(shared_dir, tmp_path):
    sample = read_tasks(shared_dir / "data/mti/real/mti_bench_sample.json")
    assert [task.id for task in sample] == [f"{task:03}" for task in range(1, 26)]
    assert sum(len(task.instances) for task in sample) == 209
    golds = [gold for task in sample for each in task.instances for gold in each.answers]
    assert [sum(isinstance(gold, kind) for gold in golds) for kind in (int, str, list, float)] == [211, 147, 73, 8]
    assert [task.id for task in sample if task.steps == 3] == ["002", "012", "015", "016", "018"]
    whole = json.loads((shared_dir / "data/mti/rebuilt/mti_rebuild_v0.json").read_bytes())
    rebuilt = read_tasks(written(tmp_path, {task: whole[task] for task in ("101", "112")}))
    assert [len(task.instances) for task in rebuilt] == [200] * 2
    assert [task.meta.subset for task in rebuilt] == ["multi-step", "free-form"]
    assert len(read_tasks(shared_dir / "data/mti/real/free_form_sample.json")) == 1
