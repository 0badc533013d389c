"""Composed tasks: the language of specs, and the twelve tasks derived again from the sources by other code."""

import functools
import itertools
import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyllm.errors import InputError
from pyllm.mti.compose.build import compose, task_file
from pyllm.mti.compose.functions import overlap
from pyllm.mti.compose.rows import RowFiles
from pyllm.mti.compose.spec import read_spec
from pyllm.mti.tasks import read_tasks
from tests.support.shell import bash

TASKS = [str(task) for task in range(101, 113)]
SEED = 11


@pytest.fixture(scope="module")
def specs(repository_root):
    return repository_root / "examples" / "mti"


@pytest.fixture(scope="module")
def made(shared_dir, specs, tmp_path_factory):
    """A folder with the twelve tasks, 200 instances each: made by commands, in processes that check no types."""
    folder = tmp_path_factory.mktemp("composed")
    sources = shared_dir / "data/mti/sources"
    compose_words = f"toolkit mti compose {specs}/1??.yaml --data {sources} --seed {SEED} --quiet --out tasks.json"
    others = (
        "toolkit mti validate tasks.json -q --out found.jsonl && toolkit mti describe tasks.json -q --out told.jsonl"
    )
    finished = bash(f"{compose_words} && {others}", cwd=folder)
    assert (finished.code, finished.stdout, finished.stderr) == (0, b"", "")
    return folder


@pytest.fixture(scope="module")
def composed(made):
    return plain_tasks(made / "tasks.json")


@pytest.fixture(scope="module")
def rebuilt(shared_dir):
    return plain_tasks(shared_dir / "data/mti/rebuilt/mti_rebuild_v0.json")


def plain_tasks(path):
    """Tasks as the published code would read them."""
    tasks = {}
    for name, body in json.loads(path.read_text(encoding="utf-8")).items():
        instances = []
        for uid, each in body["instance"].items():
            steps = range(1, len(each["instruction"]) + 1)
            contexts = [[text for key, text in each["context"].items() if key.startswith(f"{step}_")] for step in steps]
            texts = [each["instruction"][str(step)] for step in steps]
            instances.append(
                SimpleNamespace(
                    uid=uid, query=each["query"], instructions=texts, contexts=contexts, answers=each["answers"]
                )
            )
        tasks[name] = SimpleNamespace(instances=instances, sample=body["sample"], meta=SimpleNamespace(**body["meta"]))
    return tasks


@pytest.fixture(scope="module")
def source(shared_dir):
    """Rows of a source file, or of one task of a source file."""
    known = {}

    def rows(name, task=None):
        if name not in known:
            text = (shared_dir / "data/mti/sources" / f"{name}.jsonl").read_text(encoding="utf-8")
            known[name] = [json.loads(line) for line in text.split("\n") if line]
        return [row for row in known[name] if task is None or row["task"].startswith(task)]

    return rows


def items(context):
    """The lines `(1) ...` of a list, in order."""
    head, body = context.split("\n", 1)
    assert head.startswith("###")
    parts = re.split(r"^\((\d+)\) ", body, flags=re.MULTILINE)
    assert parts[0] == ""
    assert parts[1::2] == [str(place) for place in range(1, len(parts) // 2 + 1)]
    return [part.removesuffix("\n") for part in parts[2:-1:2]] + [parts[-1]]


def body(context):
    return context.split("\n", 1)[1]


@functools.cache
def stories(source, task):
    """Story sentences to (titles, output), read with regular expressions."""
    found = {}
    for row in source("sni_29tasks", task):
        text, _, titles = row["input"].partition(" Choices: a. ")
        sentences = tuple(re.split(r" ?Sentence \d: ", text)[1:])
        found.setdefault(sentences, (titles.removesuffix(".").split(". b. "), row["output"]))
    return found


@functools.cache
def outputs(source, task):
    return {row["input"]: row["output"] for row in source("sni_29tasks", task)}


@functools.cache
def sick_labels(source):
    labels = {}
    for row in source("sni_29tasks", "task1612"):
        pair = re.fullmatch(r"sentence_A: (.*?) sentence_B: (.*)", row["input"], re.DOTALL).groups()
        labels.setdefault(pair, row["output"])
    return labels


@functools.cache
def squad_labels(source):
    """Passage to question to label."""
    labels = {}
    for row in source("sni_29tasks", "task349"):
        text, question = re.fullmatch(r"Passage: (.*?) Question: (.*)", row["input"], re.DOTALL).groups()
        labels.setdefault(text.strip(), {}).setdefault(question.strip(), row["output"])
    return labels


@functools.cache
def school_questions(source):
    """A question with its choices, as it is laid out, to its rows."""
    found = {}
    for row in source("mmlu_test_25subjects"):
        choices = " ".join(f"({a}){b}" for a, b in zip("ABCD", row["choices"], strict=True))
        found.setdefault(f"{row['question']}\n{choices}", []).append(row)
    return found


def bubble_swaps(values):
    values, swaps = list(values), 0
    for _ in values:
        for place in range(len(values) - 1):
            if values[place] > values[place + 1]:
                values[place], values[place + 1] = values[place + 1], values[place]
                swaps += 1
    return swaps


def order_of(gold):
    return [int(place) for place in re.findall(r"\d+", gold)]


def check_101(instance, source):
    shown = items(instance.contexts[0][0])
    places = order_of(instance.answers[0])
    titles, label = stories(source, "task220")[tuple(shown[place - 1] for place in places)]
    assert items(instance.contexts[2][0]) == titles
    assert instance.answers[1] == bubble_swaps(places)
    assert instance.answers[2] == (instance.answers[1] * 2 if label == "a" else instance.answers[1] + 10)


def check_102(instance, source):
    rows = source("cosmosqa_valid")
    passage, questions, choices = (
        body(instance.contexts[0][0]),
        items(instance.contexts[0][1]),
        items(instance.contexts[1][0]),
    )
    own = [row for row in rows if row["context"] == passage and row["question"] == questions[instance.answers[0] - 1]]
    assert any(
        sorted(row["choices"]) == sorted(choices) and row["choices"][row["label"]] == choices[instance.answers[1] - 1]
        for row in own
    )
    others = [question for question in questions if question != own[0]["question"]]
    assert len(others) == 4
    assert not {row["question"] for row in rows if row["context"] == passage} & set(others)
    assert all(overlap(question, passage) <= 1 for question in others)
    assert not choices[instance.answers[1] - 1].startswith("None of the above")


def check_103(instance, source):
    shown = items(instance.contexts[0][0])
    by_text = {}
    for row in source("com2sense_labeled"):
        by_text.setdefault(row["sent"], row)
    rows = [by_text[text] for text in shown]
    assert len(rows) == 8
    assert instance.answers[0] == [place for place, row in enumerate(rows, start=1) if row["label"]]
    assert not {row["id"] for row in rows} & {row["pair_id"] for row in rows}
    rest = 8 - len(instance.answers[0])
    assert instance.answers[1] == f"{rest}/8"
    assert instance.answers[2] == str(Decimal(rest * 125).scaleb(-3))


def check_104(instance, source):
    labels = sick_labels(source)
    pairs = [re.fullmatch(r"A: (.*?) \| B: (.*)", line).groups() for line in items(instance.contexts[0][0])]
    given = [labels[pair] for pair in pairs]
    assert len(set(pairs)) == 6
    assert instance.answers[0] == [place for place, label in enumerate(given, start=1) if label == "2"]
    assert instance.answers[1] == [place for place, label in enumerate(given, start=1) if label == "0"]
    assert instance.answers[2] == 10 * len(instance.answers[0]) + len(instance.answers[1])
    assert instance.answers[0]
    assert instance.answers[1]


def check_105(instance, source):
    answers = {row["question"]: int(row["answer"].replace(",", "")) for row in source("gsm8k_test")}
    labels = {row["sent"]: row["label"] for row in source("com2sense_labeled")}
    number = answers[body(instance.contexts[0][0])]
    chosen = items(instance.contexts[1][0])[number % 5]
    assert instance.answers[0] == number
    assert instance.answers[1] == (1 if labels[chosen] else 2)
    assert instance.answers[2] == (number + 7 if labels[chosen] else number - 7)


def check_106(instance, source):
    shown, goal = items(instance.contexts[0][0]), body(instance.contexts[0][1])
    rows = source("piqa_valid")
    right, wrong = shown[instance.answers[0] - 1], shown[instance.answers[1] - 1]
    assert any(
        row["goal"] == goal
        and [right, wrong] == [(row["sol1"], row["sol2"])[k] for k in (row["label"], 1 - row["label"])]
        for row in rows
    )
    rest = set(shown) - {right, wrong}
    assert len(rest) == 3
    rights = {(row["sol1"], row["sol2"])[row["label"]] for row in rows if row["goal"] != goal}
    assert rest <= rights


def check_107(instance, source):
    shown = items(instance.contexts[0][0])
    injected = shown.pop(instance.answers[0] - 1)
    known = stories(source, "task220")
    (own,) = [sentences for sentences in known if sorted(sentences) == sorted(shown)]
    titles, label = known[own]
    assert injected not in own
    assert any(injected in sentences for sentences in known)
    assert items(instance.contexts[1][0]) == titles
    assert instance.answers[1] == {"a": 1, "b": 2}[label]


def check_108(instance, source):
    passage, questions = body(instance.contexts[0][0]), items(instance.contexts[0][1])
    labels = squad_labels(source)[passage]
    assert len(set(questions)) == 5
    assert instance.answers[0] == [k for k, each in enumerate(questions, start=1) if labels.get(each) == "True"]
    assert instance.answers[0]
    assert all(overlap(each, passage) <= 1 for each in questions if each not in labels)
    shown = items(instance.contexts[1][0])
    assert len(set(shown)) == 4
    assert [place for place, each in enumerate(shown, start=1) if each not in passage] == [instance.answers[1]]


def check_109(instance, source):
    rows = school_questions(source)[body(instance.contexts[0][0])]
    subjects = items(instance.contexts[1][0])
    assert "ABCD"[rows[0]["label"]] == instance.answers[0]
    assert subjects[instance.answers[1] - 1] in {row["subject"].replace("_", " ") for row in rows}
    assert len(set(subjects)) == 4
    mathematics = {"abstract algebra", "college mathematics", "elementary mathematics", "high school mathematics"}
    assert len(mathematics & set(subjects)) <= 1


def check_110(instance, source):
    text, options = instance.contexts[0][0].removeprefix("###Context\n").split("\n###Options\n")
    held = dict(re.findall(r"\(([A-E])\) (.+?)(?= \([A-E]\) |$)", options))
    people = ["Alice", "Bob", "Claire", "Dave", "Eve"][: len(held)]
    has = dict(zip(people, held, strict=True))
    swaps = re.findall(r"(?:First|Then|Finally), (\w+) and (\w+) (?:swap|trade|switch) ", text)
    assert len(swaps) in {3, 5}
    for one, other in swaps:
        has[one], has[other] = has[other], has[one]
    first, second = (re.match(r"At the end, what does (\w+) have", each)[1] for each in instance.instructions[:2])
    assert first != second
    assert instance.answers == [has[first], has[second], sum(people[0] in pair for pair in swaps)]
    (row,) = [row for row in source("bbh_20tasks", "tracking") if row["id"] == instance.uid.removeprefix("110_")]
    assert row["target"] == f"({has[first]})"
    assert row["input"].startswith(text + " At the end of")


def check_111(instance, source):
    premise, (one, two) = body(instance.contexts[0][0]), items(instance.contexts[0][1])
    labels, directions = outputs(source, "task827"), outputs(source, "task828")
    label = int(labels[f"{premise}\n(1){one}(2){two}"])
    assert instance.answers[0] == label
    assert {"cause": 1, "effect": 2}[directions[f"{premise}\n{(one, two)[label - 1]}"]] == instance.answers[1]


def check_112(instance, source):
    shown = items(instance.contexts[0][0])
    story = tuple(shown[place - 1] for place in order_of(instance.answers[0]))
    assert stories(source, "task219")[story][1].strip() == instance.answers[1]
    assert len(instance.answers[1].split()) <= 3


@pytest.mark.parametrize("task", TASKS)
def test_every_instance_can_be_derived_again(composed, source, task):
    instances = composed[task].instances
    assert len(instances) == 200
    for instance in instances:
        globals()[f"check_{task}"](instance, source)


def normal(instruction):
    return re.sub(r"Alice|Bob|Claire|Dave|Eve", "NAME", instruction)


@pytest.mark.parametrize("task", TASKS)
def test_texts_are_laid_out_as_in_the_rebuilt_file(composed, rebuilt, task):
    ours, theirs = composed[task], rebuilt[task]

    def layout(instance):
        heads = tuple(tuple(text.split("\n")[0] for text in texts) for texts in instance.contexts)
        return instance.query, tuple(map(normal, instance.instructions)), heads

    assert {layout(each) for each in ours.instances} == {layout(each) for each in theirs.instances}
    assert [[type(gold) for gold in each.answers] for each in ours.instances] == [
        [type(gold) for gold in each.answers] for each in theirs.instances
    ]
    assert ours.meta.answer_types == theirs.meta.answer_types
    assert (ours.meta.name, ours.meta.subset) == (theirs.meta.name, theirs.meta.subset)


@pytest.mark.parametrize("task", TASKS)
def test_demonstrations_follow_the_rebuilt_file(composed, rebuilt, task):
    ours, theirs = composed[task], rebuilt[task]

    def frame(text):
        """All but the contexts and the golds."""
        text = re.sub(r"###(.*?)(?=\n\n### Answer:)", "###", normal(text), flags=re.DOTALL)
        return re.sub(r"(<task\d>).*?(<task\d/>)(?=$|\n\nTask)", r"\1\2", text, flags=re.DOTALL)

    assert frame(ours.sample) == frame(theirs.sample)
    assert [frame(each) for each in ours.meta.demo_steps] == [frame(each) for each in theirs.meta.demo_steps]
    # No instance is the demonstration, nor shares its own row with it.
    for instance in ours.instances:
        assert not all(text in ours.sample for texts in instance.contexts for text in texts)
    main = {"101": 2, "107": 1, "102": 0, "105": 0, "109": 0}.get(task)
    if main is not None:
        shown = {instance.contexts[main][0] for instance in ours.instances}
        assert len(shown) == 200
        assert not any(text in ours.sample for text in shown)


def test_composed_tasks_are_sound(made):
    found = Counter(json.loads(line)["kind"] for line in (made / "found.jsonl").read_text().splitlines())
    # Three digits are asked for, so `0.750` is right and the published scorer is wrong; floors are no flaw.
    assert set(found) <= {"self_failing", "majority", "joint_majority"}


# As stated with the rebuilt data: step by step, then all steps together.
FLOORS = {
    "101": (0.03, 0.20, 0.14, 0.02),
    "102": (0.25, 0.26, 0.08),
    "103": (0.02, 0.24, 0.24, 0.02),
    "104": (0.08, 0.10, 0.18, 0.02),
    "105": (0.04, 0.52, 0.04, 0.04),
    "106": (0.26, 0.23, 0.08),
    "107": (0.21, 0.54, 0.12),
    "108": (0.19, 0.28, 0.06),
    "109": (0.27, 0.28, 0.10),
    "110": (0.30, 0.33, 0.54, 0.10),
    "111": (0.52, 0.50, 0.27),
    "112": (0.03,),
}


def test_floors_are_near_the_stated_ones(made):
    told = [json.loads(line) for line in (made / "told.jsonl").read_text().splitlines()]
    for task, stated in FLOORS.items():
        steps = [row for row in told if row["task"] == task]
        floors = [row["majority_share"] for row in steps] + [steps[0]["joint_majority_share"]]
        for floor, wanted in zip(floors, stated, strict=False):
            assert abs(floor - wanted) <= 0.09, (task, floors, stated)


ROWS = [{"id": n, "word": f"word {n}", "kind": "even" if n % 2 == 0 else "odd"} for n in range(30)]
SPEC = """
id: t
subset: multi-part
instances: 4
uid: w{row.id}
data:
  rows:
    file: rows.jsonl
    rows:
      - where: id > 3
draw:
  row: {from: rows, reuse: never}
  others: {from: rows, count: 2, where: it.kind != row.kind, distinct: it.word}
  shown: shuffle([row.word] + [other.word for other in others])
steps:
  - instruction: Which is {row.kind}? <task1>N<task1/>
    context: ["###Words\\n{numbered(shown)}"]
    type: int
    answer: place(row.word, shown)
    reasoning: I look.
  - instruction: Add 1. <task2>N<task2/>
    type: int
    answer: answer1 + 1
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def make(folder: Path, text=SPEC, **options):
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return compose(read_spec(path), RowFiles(None), seed=options.pop("seed", 0), **options)


def test_a_small_spec(folder):
    task = make(folder)
    assert len({each.uid for each in task.instances}) == 4
    for instance in task.instances:
        number = int(instance.uid.removeprefix("t_w"))
        assert number > 3
        assert items(instance.contexts[0][0])[instance.answers[0] - 1] == f"word {number}"
        assert instance.answers[1] == instance.answers[0] + 1
        assert f"Which is {'odd' if number % 2 else 'even'}?" in instance.instructions[0]
    assert task.sample.startswith("Read the following passage, and follow the given steps.\n#1: Which is ")
    assert re.search(r"### Answer:\n\nTask #1: I look\. <task1>\d<task1/>\n\nTask #2: <task2>\d<task2/>$", task.sample)
    assert task.meta.sources == ("rows.jsonl",)
    assert task_file([task]) == task_file([make(folder)])


def test_the_seed_decides_and_fewer_are_the_first_of_more(folder):
    task = make(folder, instances=8)
    few = make(folder, instances=5)
    assert few.instances == task.instances[:5]
    assert few.sample == task.sample
    other = make(folder, instances=5, seed=1)
    assert other.instances != few.instances
    assert other.sample != few.sample


def test_a_written_file_is_read_back(folder):
    task = make(folder)
    (folder / "tasks.json").write_bytes(task_file([task]))
    assert read_tasks(folder / "tasks.json") == (task,)


def test_rows_that_serve_once_run_out(folder):
    with pytest.raises(InputError) as caught:
        make(folder, instances=26)
    assert "only 23 instances and a demonstration could be built" in caught.value.message
    assert "`draw.row` found 0 of 1 rows" in caught.value.message
    assert "--instances" in caught.value.hint


def test_rows_of_the_demonstration_do_not_come_back(folder):
    text = SPEC.replace("reuse: never", "reuse: instances").replace("uid: w{row.id}", "uid: '{number}'")
    task = make(folder, text, instances=60)
    shown = set(re.findall(r"word \d+", task.sample))
    assert len(shown) == 3
    assert not any(f") {word}\n" in f"{each.contexts[0][0]}\n" for word in shown for each in task.instances)


def test_joins_groups_and_holes(folder):
    (folder / "more.jsonl").write_text('{"text": "even -> two"}\n{"text": "odd -> one"}\n{"text": "none"}\n')
    task = make(
        folder,
        """
id: t
subset: multi-step
data:
  numbers:
    file: more.jsonl
    rows:
      - match: {text: "{kind} -> {name}"}
  groups:
    file: rows.jsonl
    rows:
      - join: {with: numbers, key: kind, with_key: kind, as: number}
      - unique: word
      - group: {by: kind, as: members}
      - let: {size: len(members), first: "members[0].word"}
draw:
  group: {from: groups, reuse: never}
instances: 1
steps:
  - instruction: "{group.number.name} {group.first} <task1>N<task1/>"
    type: int
    answer: group.size
""",
    )
    texts = {task.instances[0].instructions[0], task.meta.demo_steps[0].split("\n")[0]}
    assert texts == {"two word 0 <task1>N<task1/>", "one word 1 <task1>N<task1/>"}
    assert task.instances[0].answers == (15,)


BROKEN = [
    ("id: t", "", "the key `id` is missing"),
    ("id: t", "id: 7", "`id`: `7` is not a text"),
    ("id: t", "id: t\nid: u", "the key `id` stands twice"),
    ("id: t", "id: t\ncolour: red", "there is no key `colour`"),
    ("id: t", "id: &a t\nname: *a", "aliases"),
    ("id: t", "id: !!python/object/apply:os.getcwd []", "it is no valid YAML"),
    ("subset: multi-part", "subset: many", "`subset`: there is no `many`"),
    ("instances: 4", "instances: 0", "`instances`: `0` is not a whole number above 0"),
    ("from: rows, count", "from: row, count", "`draw.others.from`: there is no data set `row`"),
    ("id > 3", "id >", "`data.rows.rows[0].where`: `id >` is no expression"),
    ("id > 3", "idea > 3", "`data.rows.rows[0].where`: in `idea > 3`: there is no `idea`"),
    ("id > 3", "id", "`data.rows.rows[0].where`: line 1: a number is neither true nor false"),
    ("id > 3", "id > 99", "`data.rows.rows[0].where`: no row of `rows.jsonl` is left"),
    ("- where: id > 3", "- match: {word: '{a}{b}'}", "`data.rows.rows[0].match.word`: nothing keeps two holes"),
    ("- where: id > 3", "- match: {none: 'x {a}'}", "the row has no text `none`"),
    ("- where: id > 3", "- join: {with: none, key: id, with_key: id, as: x}", "no data set above is called `none`"),
    ("count: 2", "count: word", "`draw.others.count`: in `word`: there is no `word`"),
    ("count: 2", "count: '\"2\"'", "`draw.others.count`: a text is no count"),
    ("reuse: never", "reuse: once", "`draw.row.reuse`: there is no `once`"),
    ("numbered(shown)", "numbered(seen)", "`steps[0].context[0]`: in `numbered(seen)`: there is no `seen`"),
    ("type: int\n    answer: place", "type: whole\n    answer: place", "`steps[0].type`: there is no `whole`"),
    ("answer1 + 1", "shuffle([1])[0]", "`steps[1].answer`: in `shuffle([1])[0]`: there is no function `shuffle`"),
    ("answer1 + 1", "answer1 / 2 + 1 / 7", "is no gold of the type `int`"),
    ("answer1 + 1", "\"'7'\"", "`steps[1].answer`: `7` is no gold of the type `int`"),
    ("Add 1. <task2>N<task2/>", "Add 1. <task1>N<task1/>", "`steps[1].instruction`: it does not say `<task2>"),
    ("uid: w{row.id}", "uid: same", "`uid`: `t_same` names two instances"),
    ("file: rows.jsonl", "file: none.jsonl", "cannot read"),
]


@pytest.mark.parametrize(("old", "new", "reason"), BROKEN, ids=[reason for *_, reason in BROKEN])
def test_a_broken_spec_is_named(folder, old, new, reason):
    assert old in SPEC
    with pytest.raises(InputError) as caught:
        make(folder, SPEC.replace(old, new, 1))
    assert reason in caught.value.message
    assert str(folder) in caught.value.message


def test_a_broken_line_of_data_is_named(folder):
    (folder / "rows.jsonl").write_text('{"id": 1}\n\n{"id": \n')
    with pytest.raises(InputError, match=r"rows\.jsonl, line 3: it is not valid JSON"):
        make(folder)


def test_a_text_that_utf_8_cannot_hold(folder):
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row | {"word": f"{row['word']} \ud800"}) + "\n" for row in ROWS)
    )
    with pytest.raises(InputError, match="half a surrogate pair"):
        task_file([make(folder)])


def test_a_condition_that_is_never_true(folder):
    with pytest.raises(InputError, match=r"nothing could be built: in 200 of 200 tries `require\[0\]` was false"):
        make(folder, SPEC + "require: ['1 == 2']\n")


def test_every_example_names_its_task(specs):
    read = [read_spec(path) for path in sorted(specs.glob("*.yaml"))]
    assert len({spec.id for spec in read}) == len(read) >= 13


def test_the_checker_would_notice(composed, source):
    """The checks above can fail: one wrong gold is enough."""
    for task in TASKS:
        instance = composed[task].instances[0]
        wrong = [
            0 if isinstance(gold, int) else [*gold, "x"] if isinstance(gold, list) else "(1)"
            for gold in instance.answers
        ]
        broken = SimpleNamespace(**{**vars(instance), "answers": wrong})
        with pytest.raises((AssertionError, KeyError, IndexError, ValueError)):
            globals()[f"check_{task}"](broken, source)


def test_orders_are_all_drawn(composed):
    drawn = {each.answers[0] for each in composed["101"].instances}
    possible = {"-".join(f"({k})" for k in each) for each in itertools.permutations(range(1, 6))}
    assert drawn <= possible
    assert len(drawn) > 60
