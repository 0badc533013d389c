"""`toolkit runs`: what the cache shows, what it removes, and what it must keep."""

import fcntl
import json
import os
import re
import time

import pytest

from tests.support.shell import bash, in_terminal, toolkit_path


@pytest.fixture
def cache(tmp_path):
    for name, rows, units in (("score-aa", 10, 3), ("score-bb", 8, 1)):
        folder = tmp_path / "cache" / "runs" / name
        (folder / "units").mkdir(parents=True)
        (folder / "lock").touch()
        record = {"command": "score", "created": "2026-01-02T03:04:05+00:00", "rows": rows, "unit_rows": 4}
        (folder / "run.json").write_text(json.dumps({**record, "model": "nano", "key": {}}))
        for unit in range(units):
            (folder / "units" / f"{unit:06}.unit").write_bytes(b"x" * 1000)
    for path in (tmp_path / "cache" / "runs" / "score-bb").rglob("*"):
        os.utime(path, (time.time() - 40 * 86_400,) * 2)
    (tmp_path / "cache" / "runs" / "not-ours").mkdir()
    return tmp_path / "cache"


def toolkit_runs(cache, words, **options):
    return bash(f"toolkit runs {words}", cwd=cache, env={"PYLLM_CACHE": str(cache), "TZ": "UTC"}, **options)


def left_in(cache):
    return sorted(path.name for path in (cache / "runs").iterdir())


def test_list(cache):
    finished = toolkit_runs(cache, "list")
    assert finished.code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in finished.text.splitlines()]
    assert lines[0] == ["run", "created", "rows done", "size", "state", "model"]
    assert [line[:3] for line in lines[1:]] == [
        ["score-aa", "2026-01-02 03:04", "10/10"],
        ["score-bb", "2026-01-02 03:04", "4/8"],
    ]
    assert [line[4:] for line in lines[1:]] == [["complete", "nano"], ["resumable", "nano"]]
    assert finished.stderr.startswith("2 runs, ")


def test_an_empty_cache(tmp_path):
    finished = toolkit_runs(tmp_path, "list")
    assert (finished.code, finished.stdout) == (0, b"")
    assert finished.stderr == f"0 runs, 0 B, in {tmp_path}/runs\n"


def test_clean_by_age(cache):
    finished = toolkit_runs(cache, "clean --older-than 30 --yes")
    assert finished.code == 0, finished.stderr
    assert left_in(cache) == ["not-ours", "score-aa"]


def test_clean_all_leaves_what_is_no_run(cache):
    assert toolkit_runs(cache, "clean --all -y").code == 0
    assert left_in(cache) == ["not-ours"]


def test_clean_does_not_ask_where_nobody_can_answer(cache):
    finished = toolkit_runs(cache, "clean --all")
    assert finished.code == 2
    assert finished.stderr.endswith("hint: add --yes\n")
    assert len(left_in(cache)) == 3


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 1), (b"n\n", 3), (b"\n", 3), (b"\x03", 3)])
def test_clean_asks_on_a_terminal(cache, answer, left):
    command = [toolkit_path(), "runs", "clean", "--all"]
    finished = in_terminal(command, cwd=cache, keys=answer, after=b"[y/N]", env={"PYLLM_CACHE": str(cache)})
    assert "Remove 2 runs (" in finished.text
    assert len(left_in(cache)) == left
    assert finished.code == (130 if answer == b"\x03" else 0)


def test_clean_needs_to_know_what(cache):
    assert toolkit_runs(cache, "clean --yes").code == 2
    assert toolkit_runs(cache, "clean --yes --all --older-than 3").code == 2


def test_a_run_in_use_is_kept(cache):
    with (cache / "runs" / "score-bb" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use" in toolkit_runs(cache, "list").text
        finished = toolkit_runs(cache, "clean --all --yes")
    assert finished.code == 4
    assert "score-bb" in finished.stderr
    assert left_in(cache) == ["not-ours", "score-bb"]


def test_a_damaged_record_is_listed_and_can_be_removed(cache):
    (cache / "runs" / "score-aa" / "run.json").write_text("{torn")
    lines = [line for line in toolkit_runs(cache, "list").text.splitlines() if "score-aa" in line]
    assert [line.split()[:3] for line in lines] == [["score-aa", "-", "?/?"]]
    assert toolkit_runs(cache, "clean --all --yes").code == 0
    assert left_in(cache) == ["not-ours"]
