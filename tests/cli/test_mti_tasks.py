"""`toolkit mti validate`, `describe` and `compose`: streams, files, exit codes and messages."""

import io
import json

import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.mti.tasks import read_tasks
from tests.support.shell import in_terminal, toolkit_path

QUERY = "Read the following passage, and follow the given steps."


@pytest.fixture
def task_file(tmp_path):
    """Two tasks: a sound one, and one with a placeholder, a wrong tag and a duplicate."""
    instances = {
        f"good_{number}": {
            "query": QUERY,
            "instruction": {"1": "Choose. <task1>N<task1/>", "2": "Add 1. <task2>N<task2/>"},
            "context": {"1_0": f"###List\n(1) one {number}\n(2) two {number}\n(3) three {number}"},
            "answers": [number % 3 + 1, number % 3 + 2],
        }
        for number in range(6)
    }
    flawed = {
        "query": QUERY,
        "instruction": {"1": "Take {what}. <task1>N<task1/>", "2": "And? <task1>N<task1/>"},
        "context": {"2_0": "###List\n(1) one\n(2) one"},
        "answers": [1, 2],
    }
    path = tmp_path / "tasks.json"
    path.write_text(
        json.dumps(
            {"good": {"instance": instances, "sample": ""}, "bad": {"instance": {"bad_0": flawed}, "sample": ""}}
        )
    )
    return path


def test_validate_writes_a_table_and_names_instances(task_file, capfdbinary):
    assert main(["mti", "validate", str(task_file)]) == 0
    out, err = capfdbinary.readouterr()
    assert pl.read_parquet(io.BytesIO(out))["uid"].to_list() == ["bad_0"] * 3
    assert err.startswith(b"2 tasks, 7 instances\nplaceholder: 1 (")
    assert b"duplicate_option: 1 (two options with the same text)\n  bad_0\n" in err


def test_validate_to_a_file(task_file, tmp_path, capfd):
    out = tmp_path / "findings.jsonl"
    report = tmp_path / "report.json"
    assert main(["mti", "validate", str(task_file), "--out", str(out), "--report", str(report), "-q"]) == 0
    assert capfd.readouterr() == ("", "")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["uid"], row["step"], row["kind"]) for row in rows] == [
        ("bad_0", 1, "placeholder"),
        ("bad_0", 2, "tag_number"),
        ("bad_0", 2, "duplicate_option"),
    ]
    assert json.loads(report.read_text()) == {
        "command": "mti validate",
        "tasks": 2,
        "instances": 7,
        "kinds": {"placeholder": 1, "tag_number": 1, "duplicate_option": 1},
    }


def test_validate_strictly(task_file, tmp_path, capfd):
    out = tmp_path / "findings.parquet"
    assert main(["mti", "validate", str(task_file), "--strict", "--out", str(out)]) == 3
    captured = capfd.readouterr()
    assert captured.err.endswith(f"error: {task_file}: 3 findings\nhint: leave out --strict to go on\n")
    assert not out.exists()
    sound = {"good": json.loads(task_file.read_text())["good"]}
    task_file.write_text(json.dumps(sound))
    assert main(["mti", "validate", str(task_file), "--strict", "--out", str(out)]) == 0
    assert "no findings" in capfd.readouterr().err
    assert pl.read_parquet(out).height == 0


def test_describe(task_file, tmp_path, capfd):
    out = tmp_path / "steps.parquet"
    assert main(["mti", "describe", str(task_file), "--out", str(out)]) == 0
    err = capfd.readouterr().err
    assert "steps that ask to: choose one 2, compute 2" in err
    table = pl.read_parquet(out)
    assert table.select("task", "step", "kind", "options", "majority", "majority_share").rows() == [
        ("good", 1, "choose one", 3, "1", pytest.approx(1 / 3)),
        ("good", 2, "compute", None, "2", pytest.approx(1 / 3)),
        ("bad", 1, "compute", None, "1", 1.0),
        ("bad", 2, "choose one", 2, "2", 1.0),
    ]


@pytest.mark.parametrize("command", ["validate", "describe"])
def test_bad_input(command, tmp_path, capfd):
    path = tmp_path / "tasks.json"
    path.write_text('{"t": {"instance": {"u": {"query": 1}}}}')
    assert main(["mti", command, str(path), "--format", "jsonl"]) == 3
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"error: {path}, task `t`, uid `u`, field `query`: 1 is not a text\n")
    assert main(["mti", command, str(path), "--out", str(tmp_path / "none" / "x.jsonl")]) == 4


def test_compose_is_a_pipe(repository_root, capfd):
    spec = repository_root / "examples/mti/shelves.yaml"
    assert main(["mti", "compose", str(spec), "--seed", "3"]) == 0
    first = capfd.readouterr()
    assert first.err == "1 task, 8 instances\nno findings\n"
    assert main(["mti", "compose", str(spec), "--seed", "3", "--out", "-"]) == 0
    assert capfd.readouterr().out == first.out
    assert main(["mti", "compose", str(spec), "--seed", "4"]) == 0
    assert capfd.readouterr().out != first.out
    assert len(json.loads(first.out)["shelves"]["instance"]) == 8


def test_compose_with_data_elsewhere(repository_root, tmp_path, capfd):
    examples = repository_root / "examples/mti"
    spec = tmp_path / "spec.yaml"
    spec.write_bytes((examples / "shelves.yaml").read_bytes())
    words = ["mti", "compose", str(spec), "--instances", "3", "--out", str(tmp_path / "tasks.json")]
    assert main(words) == 3
    assert f"cannot read {tmp_path}/data/prices.jsonl" in capfd.readouterr().err
    assert not (tmp_path / "tasks.json").exists()
    assert main([*words, "--data", str(examples), "-q"]) == 0
    (task,) = read_tasks(tmp_path / "tasks.json")
    assert len(task.instances) == 3
    for instance in task.instances:
        shelf = int(instance.answers[0])
        assert instance.uid.removeprefix("shelves_") in instance.contexts[0][0].splitlines()[shelf]
        assert float(instance.answers[2]) == instance.answers[1] * (2 if shelf % 2 else 0.5)


def test_compose_refuses_a_task_twice(repository_root, capfd):
    spec = str(repository_root / "examples/mti/shelves.yaml")
    assert main(["mti", "compose", spec, spec]) == 3
    assert "`id`: two specs make the task `shelves`" in capfd.readouterr().err


def test_compose_does_not_overwrite_its_spec(repository_root, tmp_path, capfd):
    spec = tmp_path / "spec.yaml"
    spec.write_bytes((repository_root / "examples/mti/shelves.yaml").read_bytes())
    assert main(["mti", "compose", str(spec), "--out", str(spec)]) == 2
    assert "would overwrite" in capfd.readouterr().err


def test_a_person_at_a_terminal_gets_the_summary_alone(task_file):
    finished = in_terminal([toolkit_path(), "mti", "validate", task_file], cwd=task_file.parent)
    assert finished.code == 0
    assert "bad_0" in finished.text
    assert "PAR1" not in finished.text
