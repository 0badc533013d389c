"""`toolkit mti run`: all modes on small tasks, over a local model and over servers, stopped and gone on with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.lm.backends import endpoint
from tests.support.fake_endpoint import FakeEndpoint, Reply, Script, fake_endpoint
from tests.support.mti_tasks import write_tasks
from tests.support.real_server import save_long_model

MODES = ["mti", "sti", "batch", "mti-batch"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of two and three steps, three instances each."""
    return write_tasks(tmp_path / "tasks.json")


def run(tasks: Path, out: Path, *options: str, server: FakeEndpoint | None = None) -> int:
    where = [] if server is None else ["--endpoint", server.url, "--model", "m"]
    return main(["mti", "run", str(tasks), "--out", str(out), "--format", "csv", "-q", *where, *options])


def solve(prompt: str) -> str:
    """Right answers to the small tasks, in whatever packing: every tag that is asked for, in its order."""
    asked = prompt.split("### Task:")[1]
    final = asked[asked.rindex("### (") :] if "### (" in asked else asked
    sums = [int(line.split(" and ")[0]) + 7 for line in asked.splitlines() if line.endswith(" and 7")]
    tags = [int(part.split(">")[0]) for part in final.split("in <task")[1:]]
    steps = [
        1 if part.endswith("Add the numbers. Return the answer ") else _step(part)
        for part in final.split("in <task")[:-1]
    ]
    places = _places(steps, len(sums))
    return " ".join(
        f"<task{tag}>{sums[place] * 2 ** (step - 1)}<task{tag}/>"
        for tag, step, place in zip(tags, steps, places, strict=True)
    )


def _step(before: str) -> int:
    return int(before.rsplit("step #", 1)[1].split(".", 1)[0]) + 1


def _places(steps: list[int], instances: int) -> list[int]:
    each = len(steps) // instances
    return [place // each for place in range(len(steps))]


def right(_: int, prompt: str, __: dict[str, Any]) -> Reply:
    return Reply(text=solve(prompt), usage={"prompt_tokens": len(prompt), "completion_tokens": 4})


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def test_every_packing_is_asked_and_a_model_that_is_right_gets_full_marks(
    tasks: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out = tmp_path / "run"
    with fake_endpoint(right) as server:
        assert run(tasks, out, "--layout", "chained", server=server) == 0
        asked = server.asked
    marks = read(out, "marks")
    assert marks.height == 4 * (3 * 2 + 3 * 3)
    assert marks["correct"].all()
    assert set(marks["parse"]) == {"ok"}
    # 3 + 3 instances alone, 3 * 2 + 3 * 3 steps alone, two batches of each task in each of 2 + 3 steps, or in one.
    assert len(asked) == 6 + 15 + 2 * 5 + 2 * 2
    assert all(list(body["messages"][0]) == ["role", "content"] and len(body["messages"]) == 1 for body in asked)
    outputs, calls = read(out, "outputs"), read(out, "calls")
    assert outputs.height == 6 + 15 + 15 + 15
    assert calls.height == len(asked)
    assert sorted(calls["prompt"]) == sorted(body["messages"][0]["content"] for body in asked)
    assert calls["cached_tokens"].null_count() == calls.height  # the server says nothing of them
    facts = json.loads((out / "run.json").read_bytes())
    assert facts["status"] == "finished"
    assert facts["counts"] | {"prompt_tokens": 0} == {
        "calls": 35, "answered": 35, "failed": 0, "never_asked": 0, "cut_short": 0, "prompt_tokens": 0,
        "cached_tokens": None, "generated_tokens": 140,
    }  # fmt: skip
    assert pl.read_csv(capfdbinary.readouterr().out).height == marks.height
    assert main(["mti", "score", str(out), "--scoring", "strict", "--out", str(tmp_path / "strict.parquet"), "-q"]) == 0
    assert pl.read_parquet(tmp_path / "strict.parquet")["correct"].all()


@pytest.mark.parametrize("layout", ["reference", "chained"])
def test_a_server_full_of_faults_changes_nothing(tasks: Path, tmp_path: Path, layout: str) -> None:
    seen: dict[str, int] = {}

    def faulty(number: int, prompt: str, body: dict[str, Any]) -> Reply:
        attempt = seen[prompt] = seen.get(prompt, 0) + 1
        if attempt == 1:
            return (
                Reply(status=429, headers={"retry-after": "0.01"}),
                Reply(status=500),
                Reply(text="half", cut=0.6),
                Reply(text="half", broken=True),
                Reply(text=solve(prompt), wait_seconds=0.05),
            )[number % 5]
        return right(number, prompt, body)

    folders = [tmp_path / "plain", tmp_path / "faulty"]
    for script, out in zip((right, faulty), folders, strict=True):
        with fake_endpoint(script) as server:
            assert run(tasks, out, "--layout", layout, server=server) == 0
    answers = ["uid", "mode", "repeat", "step", "tag", "output", "error"]
    assert read(folders[1], "outputs").select(answers).equals(read(folders[0], "outputs").select(answers))
    assert read(folders[1], "marks").equals(read(folders[0], "marks"))


def test_a_failed_call_is_an_error_of_its_own_and_of_what_needs_it(tasks: Path, tmp_path: Path) -> None:
    def script(number: int, prompt: str, body: dict[str, Any]) -> Reply:
        bad = "100 and 7" in prompt.split("### Task:")[1]
        return Reply(status=400, body="too long") if bad else right(number, prompt, body)

    out = tmp_path / "run"
    with fake_endpoint(script) as server:
        assert run(tasks, out, "--layout", "chained", "--mode", "sti", server=server) == 0
        first = len(server.asked)
        failed_run = _failures(out)
        # The same command asks again for what failed and what needed it, and for nothing else.
        server.script = right
        assert run(tasks, out, "--layout", "chained", "--mode", "sti", server=server) == 0
        assert len(server.asked) == first + 5
        assert read(out, "outputs")["error"].null_count() == 15
        assert read(out, "marks").height == 15
    outputs, marks, counts, examples = failed_run
    failed = outputs.filter(pl.col("error").is_not_null())
    assert set(failed["uid"]) == {"900_0", "901_0"}
    assert failed.height == 2 + 3
    assert failed["output"].null_count() == failed.height
    assert failed.filter(pl.col("step") == 3)["error"].to_list() == ["call 1 failed: status 400: too long"]
    assert not set(marks["uid"]) & {"900_0", "901_0"}
    assert marks["correct"].all()
    assert (counts["answered"], counts["failed"], counts["never_asked"]) == (10, 2, 3)
    assert {row["uid"] for row in examples["sti"]["error"]} <= {"900_0", "901_0"}
    assert first == 12


def _failures(out: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any], dict[str, Any]]:
    counts = json.loads((out / "run.json").read_bytes())["counts"]
    return read(out, "outputs"), read(out, "marks"), counts, json.loads((out / "examples.json").read_bytes())


@pytest.fixture
def same_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers of one test pass for one, whatever port they are on."""
    monkeypatch.setattr(
        endpoint.EndpointBackend, "facts", lambda self: {"backend": "endpoint", "endpoint": "x", "model": self._model}
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of the small tasks that nothing stopped, and every prompt it asked."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with fake_endpoint(right) as server:
        assert run(write_tasks(folder / "tasks.json"), folder / "run", server=server) == 0
        return folder / "run", sorted(server.prompts)


@pytest.mark.usefixtures("same_address")
@pytest.mark.parametrize("dies_after", [0, 1, 7, 20, 34])
def test_a_run_that_broke_off_goes_on_exactly(
    tasks: Path, tmp_path: Path, undisturbed: tuple[Path, list[str]], dies_after: int
) -> None:
    (whole, every), broken = undisturbed, tmp_path / "broken"
    first: list[str] = []

    def dying(number: int, prompt: str, body: dict[str, Any]) -> Reply:
        if number >= dies_after:
            return Reply(status=401)
        first.append(prompt)
        return right(number, prompt, body)

    with fake_endpoint(dying) as server:
        assert run(tasks, broken, "--concurrency", "1", server=server) == 4
    with fake_endpoint(right) as server:
        assert run(tasks, broken, server=server) == 0
        assert sorted([*server.prompts, *first]) == every
    for name in ("outputs", "marks"):
        same = [column for column in read(whole, name).columns if not column.endswith(("seconds", "attempts"))]
        assert read(broken, name).select(same).equals(read(whole, name).select(same))
    with fake_endpoint(right) as server:
        assert run(tasks, broken, server=server) == 0
        assert server.asked == []


def test_an_endpoint_that_is_not_there(tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert run(tasks, tmp_path / "run", "--endpoint", url, "--model", "m") == 4
    assert "is not there" in capfd.readouterr().err


def test_budgets(tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with fake_endpoint(right) as server:
        assert run(tasks, tmp_path / "calls", "--budget", "calls=34", server=server) == 2
        assert server.asked == []
        assert "35 are needed in all" in capfd.readouterr().err
        assert run(tasks, tmp_path / "calls", "--budget", "calls=35", server=server) == 0
        assert len(server.asked) == 35
        assert run(tasks, tmp_path / "tokens", "--budget", "tokens=9000", "--concurrency", "1", server=server) == 2
        kept = (tmp_path / "tokens" / "calls.jsonl").read_bytes().splitlines()
        assert 2 < len(kept) < 35
        assert run(tasks, tmp_path / "tokens", "--budget", "much=1", server=server) == 2


def test_settings_that_do_not_fit(tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    for options, message in (
        (["--mode", "all"], "mode `all` is unknown"),
        (["--mode", "sti,sti"], "a mode is given twice"),
        (["--look-ahead", "gold"], "look-ahead `gold` is unknown"),
        (["--api-key-env", "X"], "`--api-key-env` is for endpoints"),
        (["--template", "chat", "--endpoint", "http://h"], "`--template` is for local models"),
        (["--endpoint", "h:1"], "no address"),
    ):
        assert run(tasks, out, *options) == 2
        assert message in capfd.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    assert run(tasks, tmp_path / "full") == 2
    assert "holds other files (`note.txt`)" in capfd.readouterr().err
    assert run(tmp_path / "nothing.json", out) == 3
    with fake_endpoint(right) as server:
        assert run(tasks, out, "--mode", "mti", server=server) == 0
        capfd.readouterr()
        assert run(tasks, out, "--mode", "mti", "--shots", "0", server=server) == 2
        assert "prompts.shots: 1 there, 0 here" in capfd.readouterr().err
        # More of the same is no other work.
        before = len(server.asked)
        assert run(tasks, out, "--mode", "mti,sti", "--repeats", "2", server=server) == 0
        assert len(server.asked) == before + 6 + 2 * 15


def test_limit_feed_gold_and_the_paper(tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--mode", "sti", "--limit", "1", "--feed-gold", "--preset", "paper", "--stop", "### Task:"]
    with fake_endpoint(lambda *_: Reply(text="no idea")) as server:
        assert run(tasks, out, *options, server=server) == 0
        asked = server.asked
    assert len(asked) == 5
    assert {(body["temperature"], body["top_p"], body["max_tokens"], *body["stop"]) for body in asked} == {
        (0.7, 1.0, 2048, "### Task:")
    }
    assert len({body["seed"] for body in asked}) == 5
    third = next(body["messages"][0]["content"] for body in asked if "### (3)" in body["messages"][0]["content"])
    assert "<task1>107<task1/>" in third
    assert "<task2>214<task2/>" in third
    metrics = json.loads((out / "metrics.json").read_bytes())
    assert metrics["partial"] is True
    marks = read(out, "marks")
    assert marks["parse"].to_list() == ["missing"] * 5


def test_plan(tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "plan.json"
    words = [
        "mti",
        "run",
        str(tasks),
        "--plan",
        "--layout",
        "chained",
        "--max-new-tokens",
        "10",
        "--report",
        str(report),
    ]
    assert main([*words, "--price-prompt", "1", "--price-answer", "2"]) == 0
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "tokens of `nano`" in shown.err
    rows = {row["mode"]: row for row in json.loads(report.read_bytes())["modes"]}
    assert [rows[mode]["calls"] for mode in [*MODES, "all"]] == [6, 15, 10, 4, 35]
    assert rows["all"]["answer_tokens"] == 350
    assert rows["all"]["cost"] == pytest.approx((rows["all"]["prompt_tokens"] + 2 * 350) / 1e6)
    assert rows["sti"]["shared_share"] > 0.6
    assert main([*words, "--endpoint", "http://h", "--model", "m"]) == 0
    about = {row["mode"]: row for row in json.loads(report.read_bytes())["modes"]}
    assert 0 < about["all"]["prompt_tokens"] < rows["all"]["prompt_tokens"] * 2


def test_a_local_model_in_every_mode(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks.json", instances=2, tasks=(("900", 2),))
    model = save_long_model(tmp_path / "model")
    folders = []
    options = ["--model", str(model), "--layout", "chained", "--max-new-tokens", "5"]
    for name, more in (("a", []), ("b", ["--no-reuse", "--batch-size", "1"])):
        folders.append(tmp_path / name)
        assert run(tasks, folders[-1], *options, *more) == 0
    first, second = (read(folder, "calls") for folder in folders)
    same = ["call_id", "prompt", "output", "finish", "error", "prompt_tokens", "generated_tokens"]
    assert first.select(same).equals(second.select(same))
    assert first["error"].null_count() == first.height
    computed = [(calls["prompt_tokens"] - calls["cached_tokens"]).sum() for calls in (first, second)]
    assert computed[0] < 0.65 * computed[1]
    assert second["cached_tokens"].sum() == 0
    assert set(second["batch_size"]) == {1}
    # A context that is too short makes errors, and never wrong answers.
    short = tmp_path / "short"
    assert run(tasks, short, "--model", str(model), "--max-new-tokens", "4000") == 0
    assert read(short, "marks").height == 0
    assert "exceed the model's context of 4,096" in read(short, "calls")["error"][0]


def test_kill_and_go_on(tmp_path: Path) -> None:
    """kill -9 in the middle: no finished call is asked again, and the end is that of an unbroken run."""
    tasks = write_tasks(tmp_path / "tasks.json")
    words = [sys.executable, "-m", "pyllm.cli.app", "mti", "run", str(tasks), "--out", str(tmp_path / "run"), "-q"]

    def slow(number: int, prompt: str, body: dict[str, Any]) -> Reply:
        reply = right(number, prompt, body)
        return Reply(text=reply.text, wait_seconds=0.02 if number < 8 else 30.0)

    with fake_endpoint(slow) as server:
        asking = [*words, "--model", "m", "--endpoint", server.url, "--concurrency", "2"]
        process = subprocess.Popen(asking, stdout=subprocess.DEVNULL)
        ledger = tmp_path / "run" / "calls.jsonl"
        until = time.monotonic() + 60
        while time.monotonic() < until and (not ledger.exists() or len(ledger.read_bytes().splitlines()) < 9):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = [json.loads(line)["value"] for line in ledger.read_bytes().splitlines()[1:]]
        assert len(kept) == 8
        before = len(server.asked)
        server.script = right
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
            assert run(tasks, tmp_path / "run", server=server) == 0
        again = server.prompts[before:]
    calls = read(tmp_path / "run", "calls")
    assert sorted([line["prompt"] for line in kept] + again) == sorted(calls["prompt"])
    assert calls["error"].null_count() == 35


def test_an_interrupt_says_how_to_go_on(tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def script(number: int, prompt: str, body: dict[str, Any]) -> Reply:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return right(number, prompt, body)

    with fake_endpoint(script) as server:
        assert run(tasks, tmp_path / "run", "--concurrency", "1", server=server) == 130
    assert "what is done is kept in" in capfd.readouterr().err
    assert len((tmp_path / "run" / "calls.jsonl").read_bytes().splitlines()) >= 3


def test_a_script_is_a_script() -> None:
    """The stand-in for a right model is right: it answers each tag that it is asked for."""
    script: Script = right
    question = "Add the numbers. Return the answer in <task1>N<task1/> format.\n\n###Numbers\n3 and 7"
    asked = f"### Task:\n\n### Instruction: {question}"
    assert script(0, asked, {}).text == "<task1>10<task1/>"
