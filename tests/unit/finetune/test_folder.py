"""The folder of a run: who may use it, and which of its checkpoints count."""

import logging
import multiprocessing
import shutil
from pathlib import Path

import pytest

from pyllm.data.sealed import file_facts, mismatches, read_sealed, write_sealed
from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.finetune.folder import (
    begin,
    checkpoint_path,
    checkpoint_steps,
    faults_of_checkpoint,
    finish,
    is_run,
    locked,
    newest_whole_checkpoint,
    reopen,
    seal_checkpoint,
)

KEY = {"settings": {"seed": 1, "epochs": 3.0}, "data": {"train": "abc"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has just begun."""
    begin(tmp_path, KEY, {"steps": [{"command": "finetune"}]})
    (tmp_path / "data").mkdir()
    write_sealed(tmp_path / "data" / "manifest.json", {"files": {}})
    return tmp_path


def checkpoint(run: Path, step: int, *, sealed: bool = True) -> Path:
    path = checkpoint_path(run / "checkpoints", step)
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights of %d" % step)
    (path / "optimizer.pt").write_bytes(b"moments of %d" % step)
    if sealed:
        seal_checkpoint(path, step)
    return path


def test_a_run_opens_for_its_own_key_only(run: Path) -> None:
    assert reopen(run, KEY).record["steps"] == [{"command": "finetune"}]
    other = {"settings": {"seed": 2, "epochs": 3.0}, "data": {"train": "abc", "eval": "def"}}
    with pytest.raises(SettingError) as caught:
        reopen(run, other)
    assert caught.value.message == (
        f'the run in {run} is another one: data.eval: null there, def here; settings.seed: 1 there, 2 here'
    )  # fmt: skip


def test_a_changed_record_is_refused(run: Path) -> None:
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(InputError, match=r"run\.json was changed"):
        reopen(run, {"settings": {"seed": 2, "epochs": 3.0}, "data": {"train": "abc"}})


def test_a_folder_that_was_made_in_vain_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    (tmp_path / "there").mkdir()
    with locked(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SettingError, match=r"holds other files \(`notes\.txt`\)"), locked(tmp_path):
        pytest.fail("it was given")


def test_what_a_kill_left_of_the_first_record_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".run.json.0123456789ab.partial").touch()
    with locked(tmp_path):
        begin(tmp_path, KEY, {"steps": []})
    assert is_run(tmp_path)


@pytest.mark.parametrize("name", ["file/run", "nul\0"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PrerequisiteError, match="cannot write"), locked(tmp_path / name):
        pytest.fail("it was given")


def _hold(path: Path, held: "multiprocessing.synchronize.Event", enough: "multiprocessing.synchronize.Event") -> None:
    with locked(path):
        held.set()
        enough.wait(30)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, enough = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", held, enough))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(PrerequisiteError, match="another process trains in"), locked(tmp_path / "run"):
            pytest.fail("it was given")
    finally:
        enough.set()
        process.join()
    with locked(tmp_path / "run"):
        pass


def test_the_newest_whole_checkpoint_is_found(run: Path) -> None:
    assert newest_whole_checkpoint(run / "checkpoints") is None
    for step in (2, 4, 10):
        checkpoint(run, step)
    assert checkpoint_steps(run / "checkpoints") == [2, 4, 10]
    assert newest_whole_checkpoint(run / "checkpoints") == 10
    assert checkpoint_steps(run / "checkpoints") == [2, 4, 10]


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped byte": (lambda path: change(path / "optimizer.pt"), "optimizer.pt was changed"),
    "a lost file": (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "a torn file": (lambda path: (path / "model.safetensors").write_bytes(b"wei"), "has 3 bytes and had 12"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "was not written to its end"),
    "a changed manifest": (lambda path: change(path / "manifest.json"), "manifest.json was changed"),
    "the manifest of another step": (
        lambda path: shutil.copy(path.parent / "checkpoint-2" / "manifest.json", path),
        "is not that of this checkpoint",
    ),
    "the manifest of the data": (
        lambda path: shutil.copy(path.parent.parent / "data" / "manifest.json", path),
        "is not that of this checkpoint",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    run: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    break_it, phrase = DAMAGES[damage]
    checkpoint(run, 2)
    path = checkpoint(run, 4)
    break_it(path)
    (fault,) = faults_of_checkpoint(path)
    assert phrase in fault
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(run / "checkpoints") == 2
    assert [record.message for record in caplog.records] == [f"checkpoint of step 4 is left out: {fault}"]
    assert checkpoint_steps(run / "checkpoints") == [2]


def test_a_checkpoint_of_another_run_does_not_count(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    begin(other, {**KEY, "data": "other"}, {"steps": []})
    checkpoint(run, 2)
    shutil.copytree(checkpoint(other, 4), checkpoint_path(run / "checkpoints", 4))
    assert newest_whole_checkpoint(run / "checkpoints") == 2


def test_no_whole_checkpoint_at_all(run: Path) -> None:
    for step in (2, 4):
        checkpoint(run, step, sealed=False)
    assert newest_whole_checkpoint(run / "checkpoints") is None
    assert checkpoint_steps(run / "checkpoints") == []


def test_an_older_checkpoint_that_was_half_removed_goes_too(run: Path) -> None:
    for step in (2, 4, 6):
        checkpoint(run, step)
    (checkpoint_path(run / "checkpoints", 2) / "model.safetensors").unlink()
    (checkpoint_path(run / "checkpoints", 4) / "manifest.json").unlink()
    assert newest_whole_checkpoint(run / "checkpoints") == 6
    assert checkpoint_steps(run / "checkpoints") == [6]


def test_other_folders_are_no_checkpoints(run: Path) -> None:
    for name in ("checkpoint-x", "checkpoint-007", "checkpoint-", "best"):
        (run / "checkpoints" / name).mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-3").touch()
    assert checkpoint_steps(run / "checkpoints") == []
    assert newest_whole_checkpoint(run / "checkpoints") is None
    assert len(list((run / "checkpoints").iterdir())) == 5


def test_the_manifest_of_a_run_names_every_file(run: Path) -> None:
    checkpoint(run, 2)
    (run / ".run.json.0123456789ab.partial").touch()
    (run / "events.jsonl").write_text("{}\n")
    finish(reopen(run, KEY), {"step": 2})
    assert reopen(run, KEY).is_finished
    manifest = read_sealed(run / "manifest.json")
    assert sorted(manifest["files"]) == [
        "checkpoints/checkpoint-2/manifest.json",
        "checkpoints/checkpoint-2/model.safetensors",
        "checkpoints/checkpoint-2/optimizer.pt",
        "data/manifest.json",
        "events.jsonl",
        "run.json",
    ]
    assert manifest["result"] == {"step": 2}
    assert mismatches(run, manifest["files"]) == []
    made_of = read_sealed(run / "checkpoints" / "checkpoint-2" / "manifest.json")["made_of"]
    assert made_of == {name: file_facts(run / name)["sha256"] for name in ("run.json", "data/manifest.json")}
