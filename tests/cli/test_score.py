"""`toolkit score` as a user meets it: real processes, real pipes, kills, interruptions, bad input."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from tests.support.shell import bash, environment, in_terminal, toolkit_path
from tests.support.tiny_models import save_tiny_model, write_jsonl
from tests.support.warm import WarmProcess, WarmToolkit

WORDS = ["red", "green", "blue", "stone", "river", "seven", "paper", "cloud", "north", "bread"]
ROWS = 450
SCORE = "toolkit score rows.jsonl --anchors anchors.jsonl --model model --device cpu"


def made_row(number: int) -> dict[str, object]:
    words = [WORDS[(number * step) % len(WORDS)] for step in range(1, 4 + number % 5)]
    return {"instruction": f"Say number {number}.", "input": "", "output": " ".join(words)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, many rows, a few rows, and anchors."""
    made = tmp_path_factory.mktemp("score-cli")
    save_tiny_model(made / "model")
    write_jsonl(made / "rows.jsonl", [made_row(number) for number in range(ROWS)])
    write_jsonl(made / "few.jsonl", [made_row(number) for number in range(12)])
    write_jsonl(made / "anchors.jsonl", [made_row(10_000 + number) for number in range(4)])
    return made


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> bytes:
    """The table of a run that nothing disturbed, and that a fresh process made."""
    ended = bash(f"{SCORE} --per-anchor --run unbroken --out unbroken.parquet --report unbroken.json", cwd=folder)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == b""
    return (folder / "unbroken.parquet").read_bytes()


def start(warm: WarmToolkit, folder: Path, command: str, out: str) -> WarmProcess:
    """Start a command that ends by a signal; stdout goes to `out`, stderr to `out.log`."""
    with (folder / out).open("wb") as stdout, (folder / f"{out}.log").open("wb") as stderr:
        return warm.popen(shlex.split(command), cwd=folder, stdout=stdout, stderr=stderr, env=environment())


def wait_for_units(process: WarmProcess, run: Path, more_than: int) -> int:
    """Wait until the ledger holds more units than that; how many there are."""
    deadline = time.monotonic() + 80
    while time.monotonic() < deadline:
        units = len(list(run.glob("units/*.unit")))
        if units > more_than:
            return units
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.005)
    pytest.fail("no unit appeared")


@pytest.mark.timeout(300)  # whichever comes first waits for the fixtures too
def test_two_kills_and_a_rerun_give_the_bytes_of_an_unbroken_run(
    folder: Path, warm: WarmToolkit, unbroken: bytes
) -> None:
    command = f"{SCORE} --per-anchor --run killed --out elsewhere.parquet"
    units = 0
    for _ in range(2):
        process = start(warm, folder, command, "killed.out")
        units = wait_for_units(process, folder / "killed", units)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "elsewhere.parquet").exists()
    ended = bash(command, cwd=folder, warm=warm)
    assert ended.code == 0, ended.stderr
    assert (folder / "elsewhere.parquet").read_bytes() == unbroken
    assert not list((folder / "killed").rglob("*.partial"))


@pytest.mark.timeout(300)  # whichever comes first waits for the fixtures too
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(folder: Path, warm: WarmToolkit, unbroken: bytes) -> None:
    process = start(warm, folder, f"{SCORE} --per-anchor --run interrupted", "interrupted.parquet")
    wait_for_units(process, folder / "interrupted", 0)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert (folder / "interrupted.parquet").read_bytes() == b""
    text = (folder / "interrupted.parquet.log").read_text()
    assert "run the same command again" in text
    assert "Traceback" not in text
    ended = bash(f"{SCORE} --per-anchor --run interrupted --report numbers.json", cwd=folder, warm=warm)
    assert ended.stdout == unbroken
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["rows"] == ROWS
    assert 0 < numbers["model_tokens"] < json.loads((folder / "unbroken.json").read_text())["model_tokens"]


def test_score_stops_early_when_its_reader_has_gone(folder: Path, warm: WarmToolkit, unbroken: bytes) -> None:
    ended = bash(
        f'set +e +o pipefail; {SCORE} --run unread | true; echo "${{PIPESTATUS[*]}}"; ls unread/units | wc -l',
        cwd=folder,
        warm=warm,
    )
    status, units = ended.text.splitlines()
    assert status == "141 0"
    assert int(units) < len(list((folder / "unbroken" / "units").glob("*.unit")))
    assert "Traceback" not in ended.stderr


def test_score_pipes_into_select(folder: Path, warm: WarmToolkit) -> None:
    ended = bash(
        "toolkit score few.jsonl --anchors anchors.jsonl --model model --device cpu --anchors-out used.parquet"
        " | toolkit select --top 25% | toolkit select --show",
        cwd=folder,
        warm=warm,
    )
    assert ended.code == 0, ended.stderr
    assert ended.text.count("Say number") == 3
    used = pl.read_parquet(folder / "used.parquet")
    assert used.columns[-5:] == ["zero_shot_nats", "kept_tokens", "scored_tokens", "truncated", "winnable"]


def test_standard_input_and_jsonl_output(folder: Path, warm: WarmToolkit) -> None:
    ended = bash(
        "cat few.jsonl | toolkit score -q --anchors random:3 --seed 7 --model model --device cpu --format jsonl",
        cwd=folder,
        warm=warm,
    )
    assert ended.code == 0, ended.stderr
    rows = [json.loads(line) for line in ended.text.splitlines()]
    assert [row["source_row"] for row in rows] == list(range(12))
    assert {row["anchors_scored"] for row in rows} == {2, 3}
    assert all(0.0 <= row["golden_score"] <= 1.0 for row in rows)
    assert ended.stderr == "warning: anchors are cut to 128 tokens, half of the model's context of 256\n"


def test_a_plan_loads_no_weights(folder: Path, warm: WarmToolkit, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    ended = bash(
        f"toolkit score {folder}/few.jsonl --anchors kmeans:3 --model model --device cpu --plan --report plan.json",
        cwd=tmp_path,
        warm=warm,
    )
    assert ended.code == 0, ended.stderr
    assert ended.stdout == b""
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["scored_prompts"] == 12
    assert plan["model_tokens"] == (plan["demo_tokens"] + plan["anchor_tokens"] * 13 + plan["embedding_tokens"])
    assert plan["seconds"] > 0
    assert "12 distinct rows (of 12) x 3 anchors = 36 pairs" in ended.stderr


def test_a_second_process_on_a_run_folder_is_told_who_holds_it(folder: Path, warm: WarmToolkit) -> None:
    process = start(warm, folder, f"{SCORE} --run busy", "busy.out")
    try:
        wait_for_units(process, folder / "busy", 0)
        process.send_signal(signal.SIGSTOP)
        ended = bash(f"{SCORE} --run busy --out other.parquet", cwd=folder, warm=warm)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert ended.code == 4
    assert f"is in use by process {process.pid} on" in ended.stderr


BAD = [
    ("true | toolkit score {rest}", 3, "empty"),
    ("printf 'PAR1abcd' | toolkit score {rest}", 3, "standard input"),
    ("toolkit score nowhere.jsonl {rest}", 3, "nowhere.jsonl"),
    ("echo '{{\"a\": 1}}' | toolkit score {rest}", 3, "`a`"),
    ("toolkit score few.jsonl --anchors few.jsonl --model nowhere", 4, "nowhere"),
    ("toolkit score few.jsonl {rest} --out no/such/folder.parquet", 4, "no/such"),
    ("toolkit score few.jsonl {rest} --anchors kmeans:none", 2, "kmeans:none"),
    ("toolkit score few.jsonl {rest} --max-batch-tokens many", 2, "many"),
    ("toolkit score few.jsonl {rest} --compat reference --template chat", 2, "template"),
    ("toolkit score few.jsonl {rest} --template chat", 4, "chat template"),
    ("toolkit score few.jsonl --anchors random:99 --model model", 2, "99 anchors"),
    ("toolkit score few.jsonl {rest} --run unbroken", 2, "other work"),
    ("toolkit score few.jsonl {rest} --anchors-out used.txt --out few.parquet", 2, "--anchors-out used.txt"),
    ("toolkit score few.jsonl {rest} --out few.parquet --report few.jsonl", 2, "overwrite the input"),
    ("toolkit score few.jsonl {rest} --out few.parquet --report few.parquet", 2, "overwrite what"),
    ("toolkit score few.jsonl --anchors kmeans --model model", 2, "a number is missing"),
]


@pytest.mark.usefixtures("unbroken")
@pytest.mark.parametrize(("command", "code", "named"), BAD, ids=[command[:60] for command, _, _ in BAD])
def test_bad_input_gets_its_exit_code_and_a_message(
    folder: Path, warm: WarmToolkit, command: str, code: int, named: str
) -> None:
    ended = bash(command.format(rest="--anchors anchors.jsonl --model model --device cpu"), cwd=folder, warm=warm)
    assert ended.code == code, ended.stderr
    assert ended.stdout == b""
    assert named in ended.stderr
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_parquet_is_not_written_to_a_terminal(folder: Path, warm: WarmToolkit) -> None:
    ended = in_terminal([toolkit_path(), *SCORE.split()[1:]], cwd=folder, warm=warm)
    assert ended.code == 2
    assert b"PAR1" not in ended.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_random_kills_give_the_bytes_of_an_unbroken_run(folder: Path, warm: WarmToolkit, unbroken: bytes) -> None:
    """Ten kills at moments drawn from the operating system's entropy, while starting, scoring or writing."""
    for kill in range(10):
        run = f"soak{kill}"
        process = start(warm, folder, f"{SCORE} --per-anchor --run {run} --out {run}.parquet", f"{run}.out")
        if kill % 3:
            wait_for_units(process, folder / run, 0)
        time.sleep(int.from_bytes(os.urandom(2)) / 65_536 * 2)
        process.kill()
        process.wait()
        ended = bash(f"{SCORE} --per-anchor --run {run} --out {run}.parquet", cwd=folder, warm=warm)
        assert ended.code == 0, ended.stderr
        assert (folder / f"{run}.parquet").read_bytes() == unbroken
