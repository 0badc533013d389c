"""Going on with a run that was stopped, killed or damaged: it ends with the bits of one that nothing disturbed."""

import contextlib
import functools
import logging
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyllm.cli.app import main
from pyllm.errors import InputError
from pyllm.finetune.folder import checkpoint_steps, locked
from pyllm.finetune.run import FinetuneResult
from pyllm.finetune.verify import verify_run
from tests.support.shell import Finished, environment
from tests.support.tiny_models import write_jsonl
from tests.support.tiny_runs import LORA, TinyRuns, made_rows
from tests.support.warm import WarmProcess, WarmToolkit

pytestmark = pytest.mark.slow

STEPS = 10
KINDS = {"full": {}, "lora": {"lora": LORA, "learning_rate": 1e-2}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A model and rows."""
    return TinyRuns.make(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def unbroken(runs: TinyRuns) -> dict[str, bytes]:
    """The weights of runs that nothing disturbed; of one kind each."""
    for kind, changes in KINDS.items():
        runs.run(f"unbroken-{kind}", eval_share=0.05, **changes)
    return {kind: runs.weights(f"unbroken-{kind}") for kind in KINDS}


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda path: change(path / "optimizer.pt"), "optimizer.pt was changed"),
    "unsealed": (lambda path: (path / "manifest.json").unlink(), "was not written to its end"),
    "truncated": (lambda path: os.truncate(path / "model.safetensors", 1000), "model.safetensors has 1,000 bytes"),
    "lost": (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
}


class TestInOneProcess:
    """Runs that are asked to stop, and runs whose checkpoints were damaged meanwhile."""

    @pytest.mark.parametrize(
        ("kind", "stops"),
        [("full", (1,)), ("full", (4,)), ("full", (9,)), ("lora", (4,)), ("lora", (3, 2, 1))],
        ids=str,
    )
    def test_a_stopped_run_ends_with_the_same_bits(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path, kind: str, stops: tuple[int, ...]
    ) -> None:
        name, done = str(tmp_path / "run"), 0
        for stop in stops:
            result = runs.run(name, eval_share=0.05, stop_after=stop, **KINDS[kind])
            done += stop
            assert result.stopped
            assert result.report["step"] == done
            assert checkpoint_steps(Path(name) / "checkpoints")[-1] == done
            assert verify_run(Path(name)).faults == ()
        result = runs.run(name, rows=None, **KINDS[kind])
        assert not result.stopped
        assert runs.weights(name) == unbroken[kind]
        assert verify_run(Path(name)).faults == ()

    def test_a_run_that_is_asked_at_its_last_step_is_finished(self, runs: TinyRuns, tmp_path: Path) -> None:
        result = runs.run(str(tmp_path / "run"), stop_after=STEPS)
        assert not result.stopped
        assert (tmp_path / "run" / "manifest.json").is_file()

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_newest_checkpoint_falls_back(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        break_it, phrase = DAMAGES[damage]
        name = str(tmp_path / "run")
        runs.run(name, eval_share=0.05, stop_after=5)
        assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [4, 5]
        break_it(tmp_path / "run" / "checkpoints" / "checkpoint-5")
        with caplog.at_level(logging.INFO):
            runs.run(name, rows=None)
        (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.startswith("checkpoint of step 5 is left out: ")
        assert phrase in warning
        assert any("going on behind step 4" in record.message for record in caplog.records)
        assert runs.weights(name) == unbroken["full"]

    def test_without_a_whole_checkpoint_it_begins_again(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path
    ) -> None:
        name = str(tmp_path / "run")
        runs.run(name, eval_share=0.05, stop_after=5)
        for step in (4, 5):
            change(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "scheduler.pt")
        result = runs.run(name, rows=None)
        assert result.report["step"] == STEPS
        assert runs.weights(name) == unbroken["full"]
        assert verify_run(tmp_path / "run").faults == ()

    @pytest.mark.parametrize("lost", [["manifest.json"], ["manifest.json", "final"]], ids=str)
    def test_a_run_that_was_killed_at_its_very_end(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path, lost: list[str]
    ) -> None:
        shutil.copytree(runs.folder / "unbroken-full", tmp_path / "run")
        for name in lost:
            path = tmp_path / "run" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert not verify_run(tmp_path / "run").finished
        runs.run(str(tmp_path / "run"), rows=None)
        assert runs.weights(str(tmp_path / "run")) == unbroken["full"]
        assert verify_run(tmp_path / "run").finished

    def test_data_that_was_half_written_is_written_again(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path
    ) -> None:
        name = str(tmp_path / "run")
        runs.run(name, eval_share=0.05, stop_after=1)
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        (tmp_path / "run" / "data" / "manifest.json").unlink()
        (tmp_path / "run" / "data" / "train" / "part-00000.parquet").write_bytes(b"torn")
        runs.run(name, eval_share=0.05)
        assert runs.weights(name) == unbroken["full"]

    def test_changed_data_are_refused(self, runs: TinyRuns, tmp_path: Path) -> None:
        name = str(tmp_path / "run")
        runs.run(name, stop_after=1)
        change(tmp_path / "run" / "data" / "train" / "part-00000.parquet")
        with pytest.raises(InputError, match=r"the data of the run was changed: .*part-00000\.parquet was changed"):
            runs.run(name)

    def test_a_run_goes_on_wherever_its_folder_is(
        self, runs: TinyRuns, unbroken: dict[str, bytes], tmp_path: Path
    ) -> None:
        runs.run(str(tmp_path / "here"), eval_share=0.05, stop_after=5)
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        shutil.rmtree(tmp_path / "here")
        runs.run(str(tmp_path / "there"), rows=None)
        assert runs.weights(str(tmp_path / "there")) == unbroken["full"]

    def test_early_stopping_goes_on_counting(self, runs: TinyRuns, tmp_path: Path) -> None:
        """A rate this high makes the held-out loss grow, so the run stops early and goes back to its best."""
        changes = {"learning_rate": 0.5, "epochs": 3.0, "warmup": 0.0}

        def go(name: str, **options: object) -> FinetuneResult:
            return runs.run(str(tmp_path / name), patience=3, **options, **changes)  # type: ignore[arg-type]

        whole = go("whole", eval_share=0.05).report
        assert whole["step"] < 3 * STEPS - 2
        for stop in (3, 2, 2):
            assert go("broken", eval_share=0.05, stop_after=stop).stopped
        shutil.move(tmp_path / "broken", tmp_path / "moved")
        moved = go("moved", rows=None).report
        assert moved["step"] == whole["step"]
        assert moved["held_out_loss"] == whole["held_out_loss"]
        assert runs.weights(str(tmp_path / "moved")) == runs.weights(str(tmp_path / "whole"))
        # Killed behind the checkpoint that it stopped at: nothing is trained any more.
        for path in (tmp_path / "whole", tmp_path / "moved"):
            before = runs.weights(str(path))
            (path / "manifest.json").unlink()
            shutil.rmtree(path / "final")
            assert runs.run(str(path), rows=None, patience=3, **changes).report["step"] == whole["step"]  # type: ignore[arg-type]
            assert runs.weights(str(path)) == before


@pytest.fixture
def in_folder(runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder as the current one, with the model and the rows in it."""
    for name in ("model", "rows.jsonl"):
        (tmp_path / name).symlink_to(runs.folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINE = (
    "finetune rows.jsonl --model model --out run --epochs 1 --batch-size 4 --learning-rate 1e-3 --max-length 200"
    " --template alpaca --device cpu --save-every 2"
)


Toolkit = Callable[[str], Finished]


@pytest.fixture
def toolkit(capsys: pytest.CaptureFixture[str]) -> Toolkit:
    """Runs a line of the shell in this process."""

    def run(line: str) -> Finished:
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return Finished(code, out.encode(), err)

    return run


class TestWhatIsRefused:
    """The same folder for other work, and what is said of it."""

    @pytest.fixture
    def begun(self, runs: TinyRuns, in_folder: Path) -> Path:
        """A run that was stopped behind its first step."""
        assert runs.run(str(in_folder / "run"), stop_after=1).stopped
        return in_folder / "run"

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("--learning-rate 2e-3", "settings.learning_rate: 0.001 there, 0.002 here"),
            ("--seed 1", "settings.seed: 0 there, 1 here"),
            ("--batch-size 5", "settings.batch_examples: 4 there, 5 here"),
            ("--lora", "settings.lora: null there,"),
            ("--eval-split 0.2", "data.eval: null there,"),
            ("--template nuggets", "settings.template: alpaca there, nuggets here"),
        ],
    )
    def test_another_setting(self, begun: Path, change: str, named: str, toolkit: Toolkit) -> None:
        ended = toolkit(f"{LINE} {change} --resume")
        assert ended.code == 2
        assert "the run in run is another one: " in ended.stderr
        assert named in ended.stderr
        assert "give the settings, data and model it began with, or name a new folder" in ended.stderr
        assert checkpoint_steps(begun / "checkpoints") == [1]

    def test_other_rows_and_another_model(self, begun: Path, toolkit: Toolkit) -> None:
        write_jsonl(begun.parent / "other.jsonl", made_rows(39))
        ended = toolkit(f"{LINE.replace('rows.jsonl', 'other.jsonl')} --resume")
        assert ended.code == 2
        assert "data.train.rows: 40 there, 39 here; data.train.rows_sha256: " in ended.stderr
        shutil.copytree(begun.parent / "model", begun.parent / "copy")
        weights = begun.parent / "copy" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        ended = toolkit(f"{LINE.replace('--model model', '--model copy')} --resume")
        assert ended.code == 2
        assert "model.name: model there, copy here; model.weights_sha256: " in ended.stderr

    def test_without_resume_the_line_to_type_is_given(self, begun: Path, toolkit: Toolkit) -> None:
        ended = toolkit(LINE)
        assert ended.code == 2
        assert ended.stderr.splitlines()[0] == "error: there is a run in run already"
        hint = ended.stderr.splitlines()[-1].removeprefix("hint: to go on with it: toolkit ")
        assert hint == f"{LINE} --resume"
        assert toolkit(hint).code == 0
        assert (begun / "final" / "model.safetensors").is_file()

    def test_a_finished_run_is_left_as_it_is(self, runs: TinyRuns, in_folder: Path, toolkit: Toolkit) -> None:
        runs.run(str(in_folder / "run"))
        before = {path: path.stat().st_mtime_ns for path in (in_folder / "run").rglob("*") if path.is_file()}
        ended = toolkit(f"{LINE.replace(' rows.jsonl', '')} --resume")
        assert (ended.code, ended.stdout) == (0, b"")
        assert "the run in run is finished already" in ended.stderr
        assert {path: path.stat().st_mtime_ns for path in (in_folder / "run").rglob("*") if path.is_file()} == before

    def test_a_changed_record_is_named(self, begun: Path, toolkit: Toolkit) -> None:
        change(begun / "run.json")
        ended = toolkit(f"{LINE} --resume")
        assert ended.code == 3
        assert "run.json was changed after it was written" in ended.stderr

    def test_a_folder_that_another_process_trains_in(self, begun: Path, toolkit: Toolkit) -> None:
        with locked(begun):
            ended = toolkit(f"{LINE} --resume")
        assert ended.code == 4
        assert "another process trains in run" in ended.stderr


# Long enough for a kill to land in it, on a fast machine too.
LONG = (
    "finetune rows.jsonl --model model --epochs 4 --batch-size 4 --learning-rate 1e-3 --max-length 200"
    " --template alpaca --device cpu --save-every 2"
)
OPTIONS = {"full": "", "lora": "--lora --lora-rank 4 --lora-dropout 0.1"}


Start = Callable[[Path, str], WarmProcess]


@pytest.fixture
def start(warm: WarmToolkit) -> Iterator[Start]:
    """Starts a command that is to end by a signal; what it says goes to `log`. None outlives the test."""
    started: list[WarmProcess] = []

    def run(folder: Path, line: str) -> WarmProcess:
        with (folder / "log").open("ab") as log:
            process = warm.popen(["toolkit", *shlex.split(line)], cwd=folder, stderr=log, env=environment())
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def sealed_steps(run: Path) -> list[int]:
    """Steps of the checkpoints that came to their end."""
    return [int(path.parent.name.split("-")[1]) for path in run.glob("checkpoints/checkpoint-*/manifest.json")]


def wait_for_checkpoint(process: WarmProcess, run: Path, behind: int) -> int:
    """Wait until a checkpoint behind that step counts; its step."""
    deadline = time.monotonic() + 110
    while time.monotonic() < deadline:
        if (newest := max(sealed_steps(run), default=0)) > behind:
            return newest
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.01)
    pytest.fail("no checkpoint appeared")


def any_moment(most_seconds: float) -> None:
    """Wait for a time that nobody chose."""
    time.sleep(int.from_bytes(os.urandom(2)) / 65_536 * most_seconds)


@pytest.fixture(scope="module")
def undisturbed(runs: TinyRuns) -> Callable[[str], bytes]:
    """The weights of the long run of a kind, which is made when it is asked for."""

    @functools.cache
    def weights(kind: str) -> bytes:
        with contextlib.chdir(runs.folder):
            assert main(shlex.split(f"{LONG} {OPTIONS[kind]} --out undisturbed-{kind}")) == 0
        return runs.weights(f"undisturbed-{kind}")

    return weights


@dataclass(frozen=True, slots=True)
class Shell:
    """Lines in this process and in others."""

    toolkit: Toolkit
    start: Start


@pytest.fixture
def shell(toolkit: Toolkit, start: Start) -> Shell:
    return Shell(toolkit, start)


class TestProcesses:
    """Real processes, killed and told to stop."""

    @pytest.mark.timeout(300)  # two processes that import torch
    @pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.soak)])
    def test_two_kills(
        self, runs: TinyRuns, undisturbed: Callable[[str], bytes], in_folder: Path, kind: str, shell: Shell
    ) -> None:
        line, step = f"{LONG} {OPTIONS[kind]} --out run", 0
        for options in ("", " --resume"):
            process = shell.start(in_folder, line + options)
            step = wait_for_checkpoint(process, in_folder / "run", step)
            any_moment(0.3)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert not (in_folder / "run" / "manifest.json").exists()
        ended = shell.toolkit(f"{line.replace(' rows.jsonl', '')} --resume")
        assert ended.code == 0, ended.stderr
        assert "going on behind step " in ended.stderr
        assert runs.weights(str(in_folder / "run")) == undisturbed(kind)
        assert shell.toolkit("verify run --require-sources").code == 0

    @pytest.mark.timeout(300)  # two processes that import torch
    def test_sigterm_and_ctrl_c_stop_behind_a_checkpoint(
        self, runs: TinyRuns, undisturbed: Callable[[str], bytes], in_folder: Path, shell: Shell
    ) -> None:
        step = 0
        for number, word, options in ((signal.SIGTERM, "terminated", ""), (signal.SIGINT, "interrupted", " --resume")):
            process = shell.start(in_folder, f"{LONG} --out run{options}")
            wait_for_checkpoint(process, in_folder / "run", step)
            process.send_signal(number)
            assert process.wait() == 128 + number
            said = (in_folder / "log").read_text()
            assert "Traceback" not in said
            last = said.splitlines()[-2:]
            assert last == [f"error: {word}", f"hint: to go on: toolkit {LONG} --out run --resume"]
            found = verify_run(in_folder / "run")
            assert (found.faults, found.finished) == ((), False)
            events = (in_folder / "run" / "events.jsonl").read_text().splitlines()
            assert '"event": "stop"' in events[-1]
            assert f'"step": {checkpoint_steps(in_folder / "run" / "checkpoints")[-1]}' in events[-1]
            step = checkpoint_steps(in_folder / "run" / "checkpoints")[-1]
        assert shell.toolkit(f"{LONG} --out run --resume").code == 0
        assert runs.weights(str(in_folder / "run")) == undisturbed("full")

    @pytest.mark.soak
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("kind", OPTIONS)
    def test_ten_random_kills(self, runs: TinyRuns, in_folder: Path, kind: str, shell: Shell) -> None:
        """Ten kills at moments that nobody chose: while starting, packing, training, writing or removing."""
        line = f"{LONG.replace('--epochs 4', '--epochs 12')} {OPTIONS[kind]} --out"
        assert shell.toolkit(f"{line} undisturbed").code == 0
        run, ended_early = in_folder / "run", 0
        for kill in range(10):
            newest = max(sealed_steps(run), default=0)
            process = shell.start(in_folder, f"{line} run --resume" if (run / "run.json").exists() else f"{line} run")
            if kill % 5:
                wait_for_checkpoint(process, run, newest)
                any_moment(1.0)
            else:
                any_moment(20.0)
            process.kill()
            ended_early += process.wait() == 0
        assert ended_early < 5, "the run is too short for ten kills"
        process = shell.start(in_folder, f"{line} run --resume")
        assert process.wait() == 0, (in_folder / "log").read_text()
        assert runs.weights(str(run)) == runs.weights(str(in_folder / "undisturbed"))
        assert verify_run(run).faults == ()
