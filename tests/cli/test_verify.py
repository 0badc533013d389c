"""`toolkit verify`: a flipped byte anywhere in a run is found, and what it came from is compared."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.sealed import file_facts, read_sealed, write_sealed
from pyllm.data.sharding import shard_files
from pyllm.data.tables import read_table, write_table
from pyllm.errors import InputError
from pyllm.finetune.verify import verify_run
from pyllm.lm.tokenizing import find_tokenizer
from pyllm.provenance import sha256_hex, step
from tests.support.shell import Finished, environment, in_terminal, toolkit_path
from tests.support.tiny_models import write_jsonl
from tests.support.tiny_runs import TinyRuns, made_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A model; shards of rows, scored and selected; a run over them that keeps one checkpoint."""
    runs = TinyRuns.make(tmp_path_factory.mktemp("verify"), rows=24)
    folder = runs.folder
    shard_files([folder / "rows.jsonl"], folder / "shards", rows_per_shard=10)
    table = pl.concat([read_table(path)[0] for path in sorted((folder / "shards").glob("*.parquet"))])
    _, steps = read_table(folder / "shards" / "part-00000.parquet")
    score = step("score", rows=24, anchors=4, key={"input": {"rows": 24}})
    select = step("select", rules={"top": "50%"}, rows_in=24, rows_selected=12)
    write_table(table.head(12), folder / "best.parquet", format="parquet", steps=[*steps, score, select])
    runs.run("run", rows="best.parquet", eval_share=0.2, save_every=100)
    return runs


@pytest.fixture
def run(runs: TinyRuns, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(runs.folder / "run", tmp_path / "run"))


Verify = Callable[..., Finished]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Runs `toolkit verify` in this process."""

    def run(*words: object) -> Finished:
        capsys.readouterr()
        code = main(["verify", *map(str, words)])
        out, err = capsys.readouterr()
        return Finished(code, out.encode(), err)

    return run


def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """The file with one bit changed, and then as it was."""
    with path.open("r+b") as file:
        for _ in range(2):
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))
            file.flush()
            yield


def files_of(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def test_a_whole_run_holds(runs: TinyRuns, verify: Verify) -> None:
    run = runs.folder / "run"
    ended = verify(run)
    assert (ended.code, ended.stdout) == (0, b"")
    lines = ended.stderr.splitlines()
    assert lines[-1] == f"{run} holds: {len(files_of(run)):,} files"
    cells = [tuple(line.strip().split("  ")) for line in lines[:-1]]
    assert [cell[0] for cell in cells] == [
        "read by shard", "shard", "score", "select", "rows given", "model", "model", "rows kept", "packs",
        "held-out rows kept", "held-out packs", "checkpoint", "final",
    ]  # fmt: skip
    states = [cell[-1].strip() for cell in cells]
    assert states == ["there, no digest known", *["holds"] * 3, *["unchanged"] * 3, *["holds"] * 6]
    weights = file_facts(run / "final" / "model.safetensors")["sha256"]
    assert cells[-1][-2].strip() == weights[:12]
    assert "24 rows, 4 anchors" in lines[2]
    assert "12 of 24 rows" in lines[3]
    assert "\x1b" not in ended.stderr


def test_a_flipped_byte_is_found_wherever_it_is(run: Path, verify: Verify) -> None:
    files = files_of(run)
    assert len([path for path in files if "checkpoint-" in str(path)]) > 5
    for path in files:
        size = path.stat().st_size
        for place in sorted({0, size // 2, size - 1}):
            change = flipped(path, place, bit=place % 8)
            next(change)
            ended = verify("-q", run)
            assert ended.code == 3, f"{path} at {place}"
            named, last = ended.stderr.splitlines()[:-1], ended.stderr.splitlines()[-1]
            assert any(line.startswith(f"warning: {path} ") for line in named), ended.stderr
            assert last.startswith(f"error: {run} does not verify: ")
            next(change)
    assert verify("-q", run).code == 0


@pytest.mark.parametrize("bits", [40, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_random_bits_of_random_files_are_found(run: Path, bits: int) -> None:
    chosen = random.Random(7)
    files = files_of(run)
    for _ in range(bits):
        path = chosen.choice(files)
        change = flipped(path, chosen.randrange(path.stat().st_size), chosen.randrange(8))
        next(change)
        assert any(fault.startswith(f"{path} ") for fault in verify_run(run).faults), path
        next(change)


def test_a_lost_file_is_found(run: Path) -> None:
    kept = run.parent / "kept"
    for path in files_of(run):
        if path in (run / "run.json", run / "manifest.json"):
            continue  # without the one it is no run, without the other it is not finished
        path.rename(kept)
        assert any(fault.startswith(f"{path} is missing") for fault in verify_run(run).faults), path
        kept.rename(path)


def test_a_torn_file_and_a_grown_one_are_found(run: Path, verify: Verify) -> None:
    (run / "final" / "config.json").write_bytes(b"")
    with (run / "events.jsonl").open("a") as events:
        events.write("{}\n")
    ended = verify(run)
    assert ended.code == 3
    assert f"warning: {run}/final/config.json has 0 bytes and had " in ended.stderr
    assert f"warning: {run}/events.jsonl has " in ended.stderr
    assert ended.stderr.splitlines()[-1] == f"error: {run} does not verify: 2 files are not what the run says"


def test_files_that_are_not_of_the_run_are_listed(run: Path, verify: Verify) -> None:
    (run / "notes.txt").touch()
    (run / "final" / "more\x1b[31m.bin").touch()
    ended = verify(run)
    assert ended.code == 0
    assert "not of this run: notes.txt" in ended.stderr
    assert "not of this run: final/more\\x1b[31m.bin" in ended.stderr


def test_what_no_run_is(tmp_path: Path, verify: Verify) -> None:
    for path, what in ((tmp_path, "holds no `run.json`"), (tmp_path / "nowhere", "is no folder")):
        ended = verify(path)
        assert ended.code == 3
        assert ended.stderr.splitlines()[0] == f"error: {path} {what}, so it is not the folder of a run"


class TestUnfinished:
    """A run that was stopped is verified as far as it is."""

    @pytest.fixture
    def stopped(self, runs: TinyRuns, tmp_path: Path) -> Path:
        assert runs.run(str(tmp_path / "run"), rows="best.parquet", stop_after=1).stopped
        return tmp_path / "run"

    def test_what_is_there_holds(self, stopped: Path, verify: Verify) -> None:
        torn = shutil.copytree(stopped / "checkpoints" / "checkpoint-1", stopped / "checkpoints" / "checkpoint-2")
        (Path(torn) / "manifest.json").unlink()
        ended = verify(stopped)
        assert ended.code == 0
        assert f"{stopped} is not finished, and holds as far as it is" in ended.stderr
        assert "checkpoint-1/manifest.json" in ended.stderr
        assert "checkpoint-2" not in ended.stderr
        assert "not of this run" not in ended.stderr
        assert ended.stderr.splitlines()[-2].split() == ["final", "final", "not", "yet"]

    def test_what_is_sealed_counts(self, stopped: Path) -> None:
        sealed = [path for path in files_of(stopped) if path.name not in ("events.jsonl", "README.md")]
        for path in sealed:
            change = flipped(path, path.stat().st_size // 2, bit=0)
            next(change)
            assert any(fault.startswith(f"{path} ") for fault in verify_run(stopped).faults), path
            next(change)

    def test_a_run_that_only_began(self, stopped: Path) -> None:
        for name in ("data", "checkpoints", "events.jsonl"):
            path = stopped / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        found = verify_run(stopped)
        assert (found.faults, found.foreign, found.finished) == ((), (), False)


class TestRecordsThatDisagree:
    """Records whose own digests hold, but which do not belong together."""

    def resealed(self, path: Path, **changes: object) -> None:
        write_sealed(path, {**read_sealed(path), **changes})

    def faults(self, run: Path, path: Path) -> str:
        """What is said of a file, once the manifest of the run names it as it is now."""
        manifest = read_sealed(run / "manifest.json")
        manifest["files"][path.relative_to(run).as_posix()] = file_facts(path)
        write_sealed(run / "manifest.json", manifest)
        return "; ".join(fault for fault in verify_run(run).faults if fault.startswith(f"{path} "))

    def test_another_record(self, run: Path) -> None:
        record = read_sealed(run / "run.json")
        record["steps"][0]["version"] = "0.0.0"
        write_sealed(run / "run.json", record)
        assert "tells of other steps than run.json" in self.faults(run, run / "data" / "train.parquet")
        assert "tells of other steps than run.json" in self.faults(run, run / "manifest.json")
        checkpoint = next((run / "checkpoints").iterdir()) / "manifest.json"
        assert "names another `run.json` than the one of this run" in self.faults(run, checkpoint)

    def test_other_rows_than_the_key_names(self, run: Path) -> None:
        record = read_sealed(run / "run.json")
        record["key"]["data"]["eval"]["rows_sha256"] = sha256_hex("other")
        write_sealed(run / "run.json", record)
        assert "holds other rows than run.json names" in self.faults(run, run / "data" / "eval.parquet")

    def test_packs_of_other_rows(self, run: Path) -> None:
        path = run / "data" / "train" / "manifest.json"
        packs = json.loads(path.read_bytes())
        packs["inputs"][0]["sha256"] = sha256_hex("other")
        path.write_text(json.dumps(packs))
        data = read_sealed(run / "data" / "manifest.json")
        data["files"]["train/manifest.json"] = file_facts(path)
        write_sealed(run / "data" / "manifest.json", data)
        self.faults(run, run / "data" / "manifest.json")
        assert "was made of other rows than" in self.faults(run, path)

    def test_manifests_that_disagree_on_a_file(self, run: Path) -> None:
        path = run / "final" / "config.json"
        path.write_text("{}")
        manifest = read_sealed(run / "manifest.json")
        manifest["files"]["data/train.parquet"] = file_facts(path)
        write_sealed(run / "manifest.json", manifest)
        said = [fault for fault in verify_run(run).faults if "another manifest" in fault]
        assert said == [f"{run}/data/manifest.json and another manifest disagree on `train.parquet`"]

    def test_a_sealed_file_that_is_no_manifest(self, run: Path) -> None:
        shutil.copy(run / "run.json", run / "data" / "manifest.json")
        assert "names no files, as a manifest does" in self.faults(run, run / "data" / "manifest.json")


class TestSources:
    """Files that a run came from."""

    @pytest.fixture
    def moved(self, runs: TinyRuns, tmp_path: Path) -> tuple[Path, Path]:
        """A folder with everything in it, and the run, whose record names the files there."""
        folder = Path(shutil.copytree(runs.folder, tmp_path / "all"))
        made = TinyRuns(folder)
        shutil.rmtree(folder / "run")
        made.run("run", rows="best.parquet", save_every=100)
        return folder, folder / "run"

    def states(self, run: Path) -> dict[str, str]:
        return {f"{each.what} {Path(each.name).name}": each.state for each in verify_run(run).sources}

    def test_all_are_unchanged(self, moved: tuple[Path, Path]) -> None:
        assert self.states(moved[1]) == {
            "shard rows.jsonl": "unproven",
            "rows best.parquet": "unchanged",
            "model model.safetensors": "unchanged",
            "model config.json": "unchanged",
        }

    @pytest.mark.parametrize("name", ["best.parquet", "model/model.safetensors", "model/config.json"])
    def test_a_changed_source_is_a_mismatch(self, moved: tuple[Path, Path], name: str, verify: Verify) -> None:
        folder, run = moved
        next(flipped(folder / name, 20, bit=0))
        ended = verify(run)
        assert ended.code == 3
        assert f"warning: {folder / name} was changed since it was read" in ended.stderr

    def test_sources_that_are_gone_are_listed(self, moved: tuple[Path, Path], verify: Verify, tmp_path: Path) -> None:
        folder, run = moved
        for name in ("best.parquet", "rows.jsonl"):
            (folder / name).unlink()
        shutil.rmtree(folder / "model")
        ended = verify(run, "--report", tmp_path / "report.json")
        assert ended.code == 0
        assert ended.stderr.count("  gone\n") == 4
        ended = verify(run, "--require-sources")
        assert ended.code == 3
        message = ended.stderr.splitlines()[-1]
        assert message.startswith(
            f"error: {run} holds, but what it came from is gone: rows.jsonl, {folder}/best.parquet"
        )
        report = json.loads((tmp_path / "report.json").read_bytes())
        assert [each["state"] for each in report["sources"]] == ["gone"] * 4
        assert report["faults"] == []
        assert report["finished"] is True

    def test_shards_know_the_digests_of_what_they_were_made_of(self, moved: tuple[Path, Path], verify: Verify) -> None:
        folder, _ = moved
        TinyRuns(folder).run("over-shards", rows="shards", save_every=100)
        run = folder / "over-shards"
        assert self.states(run)["shard rows.jsonl"] == "unchanged"
        assert self.states(run)["rows shards"] == "unchanged"
        next(flipped(folder / "rows.jsonl", 5, bit=1))
        next(flipped(folder / "shards" / "part-00001.parquet", 50, bit=1))
        ended = verify(run)
        assert ended.code == 3
        assert "warning: rows.jsonl was changed since it was read" in ended.stderr
        assert f"warning: {folder / 'shards'} was changed since it was read" in ended.stderr

    def test_packs_and_their_input(self, moved: tuple[Path, Path], verify: Verify) -> None:
        folder, _ = moved
        tokenizer = find_tokenizer(str(folder / "model"))
        rows = write_jsonl(folder / "more.jsonl", made_rows(9))
        pack_examples([rows], folder / "packs", tokenizer, PackSettings(200, template="alpaca"))
        TinyRuns(folder).run("over-packs", rows="packs", save_every=100)
        run = folder / "over-packs"
        assert verify_run(run).faults == ()
        assert self.states(run)["pack more.jsonl"] == "unchanged"
        rows.write_text("other")
        assert verify(run).code == 3
        rows.unlink()
        assert self.states(run)["pack more.jsonl"] == "gone"
        part = run / "data" / "train" / "part-00000.parquet"
        next(flipped(part, part.stat().st_size // 2, bit=3))
        assert any(fault.startswith(f"{part} was changed") for fault in verify_run(run).faults)

    def test_a_name_is_looked_for_in_the_current_folder(
        self, moved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, run = moved
        (folder / "rows.jsonl").rename(tmp_path / "rows.jsonl")
        assert self.states(run)["shard rows.jsonl"] == "gone"
        monkeypatch.chdir(tmp_path)
        assert self.states(run)["shard rows.jsonl"] == "unproven"


class TestBaselines:
    """Runs of the controls, below the run."""

    @pytest.fixture
    def compared(self, run: Path) -> Path:
        """A run with a control and a comparison, as `--baseline` leaves them."""
        shutil.copytree(run, run.parent / "control")
        (run / "baselines").mkdir()
        shutil.move(run.parent / "control", run / "baselines" / "random" / "seed-0")
        (run / "baselines" / "rows.parquet").write_bytes(b"numbers")
        write_sealed(
            run / "baselines" / "table.json",
            {"files": {"rows.parquet": file_facts(run / "baselines" / "rows.parquet")}},
        )
        return run

    def test_they_hold(self, compared: Path, verify: Verify) -> None:
        ended = verify(compared)
        assert ended.code == 0
        assert f"{compared}/baselines/random/seed-0:" in ended.stderr
        assert "not of this run" not in ended.stderr

    @pytest.mark.parametrize(
        "name", ["rows.parquet", "table.json", "random/seed-0/final/model.safetensors", "random/seed-0/run.json"]
    )
    def test_a_flipped_byte_in_them(self, compared: Path, name: str, verify: Verify) -> None:
        path = compared / "baselines" / name
        next(flipped(path, path.stat().st_size // 2, bit=0))
        ended = verify(compared)
        assert ended.code == 3
        assert f"warning: {path} " in ended.stderr


def test_verify_imports_nothing_heavy_and_writes_nothing(runs: TinyRuns) -> None:
    script = (
        "import sys; from pyllm.cli.app import main; code = main(['verify', 'run', '-q']);"
        "print(code, sorted({'torch', 'transformers', 'trl', 'datasets', 'rich'} & set(sys.modules)))"
    )
    before = {path: path.stat().st_mtime_ns for path in files_of(runs.folder)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=runs.folder, capture_output=True, text=True, env=environment(), check=False
    )
    assert (ended.stdout, ended.stderr) == ("0 []\n", "")
    assert {path: path.stat().st_mtime_ns for path in files_of(runs.folder)} == before


def test_a_terminal_gets_colour(runs: TinyRuns) -> None:
    ended = in_terminal([toolkit_path(), "verify", "run"], cwd=runs.folder)
    assert ended.code == 0
    assert b"\x1b[32mholds\x1b[0m" in ended.stdout


def test_library_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="so it is not the folder of a run"):
        verify_run(tmp_path)
