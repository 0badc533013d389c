"""A selection against its controls: runs of one budget, compared on rows that none was trained on."""

import shutil

import numpy as np
import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.data.sealed import mismatches, read_sealed
from pyllm.data.tables import read_table
from pyllm.errors import InputError, SettingError
from pyllm.finetune import baselines
from pyllm.finetune.baselines import BaselineSettings, check_held_out, prepare_pool, run_baselines
from pyllm.finetune.comparison import UNTRAINED
from pyllm.finetune.folder import faults_of_checkpoint
from pyllm.finetune.job import Request, on_other_rows, prepare
from pyllm.finetune.run import finetune
from pyllm.finetune.settings import FinetuneSettings
from tests.support.tiny_models import save_tiny_model, write_jsonl

SETTINGS = BaselineSettings(("random", "longest", "all"), seeds=2)


def row(number):
    answer = " ".join(["yes"] * (1 + number % 4))
    return {"instruction": f"Is it {number}?", "input": "", "output": answer, "source": f"s{number % 2}"}


class Folder:
    """Files of one comparison, and how to begin it."""

    def __init__(self, path):
        self.model = save_tiny_model(path / "model")
        self.pool = write_jsonl(path / "pool.jsonl", [row(number) for number in range(24)])
        self.selected = write_jsonl(path / "selected.jsonl", [row(number) for number in range(0, 24, 2)])
        # Row 3 is in the pool as well, so no control may take it.
        self.held_out = write_jsonl(path / "held.jsonl", [row(number) for number in (3, *range(30, 44))])
        self.run = path / "run"

    def job(self):
        settings = FinetuneSettings(
            str(self.model), "nuggets", max_length=64, epochs=1.0, batch_examples=4, learning_rate=1e-3, seed=5,
            device="cpu",
        )  # fmt: skip
        return prepare(Request(str(self.selected), settings, template="nuggets", eval_data=str(self.held_out)))

    def pool_of(self, job):
        return prepare_pool(str(self.pool), job, SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A selection trained and compared; tests leave it as it is or make it whole again."""
    folder = Folder(tmp_path_factory.mktemp("baselines"))
    job = folder.job()
    pool = folder.pool_of(job)
    folder.run.mkdir()
    finetune(job, folder.run)
    result = run_baselines(job, folder.run, pool, SETTINGS)
    assert not result.stopped
    folder.table = result.table
    return folder


def runs_of(folder):
    below = {(arm, seed): folder.run / "baselines" / arm / f"seed-{seed}"
             for arm in ("selected", "random", "longest", "all") for seed in (5, 6)}  # fmt: skip
    below["selected", 5] = folder.run
    return below


def test_each_arm_and_seed_is_a_whole_run_without_checkpoints(finished):
    for (arm, seed), path in runs_of(finished).items():
        manifest = read_sealed(path / "manifest.json")
        assert mismatches(path, manifest["files"]) == []
        assert (path / "final" / "model.safetensors").is_file()
        assert read_sealed(path / "run.json")["key"]["settings"]["seed"] == seed
        assert (path / "checkpoints").exists() == (path == finished.run)
        if arm not in ("selected", "all"):
            assert manifest["steps"][-2]["baseline"] == arm
    assert not (finished.run / "baselines" / "selected" / "seed-5").exists()
    newest = max((finished.run / "checkpoints").iterdir())
    assert faults_of_checkpoint(newest) == []


def test_arms_are_trained_as_the_selection_is(finished, tmp_path):
    job = finished.job()
    again = on_other_rows(job, job.rows, job.settings)
    (tmp_path / "again").mkdir()
    finetune(again, tmp_path / "again", keep=0)
    weights = [path / "final" / "model.safetensors" for path in (tmp_path / "again", finished.run)]
    # Without a held-out set, and for the second time in a process.
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_arms_have_one_budget_and_see_no_held_out_row(finished):
    arms = {arm["arm"]: arm for arm in finished.table["arms"]}
    held_out = set(read_table(finished.run / "data" / "eval.parquet")[0]["id"])
    budget = arms["selected"]["tokens"]
    assert arms["all"]["rows"] == 23  # the pool less row 3
    for (arm, seed), path in runs_of(finished).items():
        trained = read_table(path / "data" / "train.parquet")[0]
        assert not held_out & set(trained["id"])
        tokens = next(run["tokens"] for run in arms[arm]["runs"] if run["seed"] == seed)
        assert abs(tokens - budget) <= 40  # about one row
    drawn = [set(read_table(runs_of(finished)["random", seed] / "data" / "train.parquet")[0]["id"]) for seed in (5, 6)]
    assert drawn[0] != drawn[1]


def test_the_table_follows_from_the_losses_of_each_row(finished):
    rows = pl.read_parquet(finished.run / "baselines" / "held_out.parquet")
    assert rows.height == 15 * (1 + 4 * 2)
    assert set(rows["source"]) == {"s0", "s1"}
    means = rows.group_by("arm").agg(pl.col("nats").sum() / pl.col("tokens").sum())
    expected = dict(means.iter_rows())
    for arm in finished.table["arms"]:
        assert arm["loss_per_token"] == pytest.approx(expected[arm["arm"]], rel=1e-9)
    assert expected["selected"] < expected[UNTRAINED] - 0.1
    # The run's own evaluation of its last step measured the same rows with other code.
    report = read_sealed(finished.run / "manifest.json")["result"]
    own = rows.filter(arm="selected", seed=5)
    assert report["held_out_loss"][-1]["loss"] == pytest.approx(own["nats"].sum() / own["tokens"].sum(), abs=1e-4)
    assert report["held_out_loss"][0]["loss"] == pytest.approx(expected[UNTRAINED], abs=1e-4)
    sealed = read_sealed(finished.run / "baselines" / "table.json")
    assert mismatches(finished.run / "baselines", sealed["files"]) == []
    assert {name: sealed[name] for name in finished.table} == finished.table


def test_what_is_missing_is_trained_and_nothing_else(finished, monkeypatch):
    table = (finished.run / "baselines" / "table.json").read_bytes()
    weights = (runs_of(finished)["longest", 6] / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(runs_of(finished)["longest", 6])
    job = finished.job()
    pool = finished.pool_of(job)
    # Asked to stop before anything: nothing is trained.
    stopped = run_baselines(job, finished.run, pool, SETTINGS, should_stop=lambda: True)
    assert (stopped.stopped, stopped.table) == (True, None)
    assert not runs_of(finished)["longest", 6].exists()
    # Asked to stop behind the first step that is trained: the run goes on from there.
    asked = iter([False] * 8 + [True] * 99)
    assert run_baselines(job, finished.run, pool, SETTINGS, should_stop=lambda: next(asked)).stopped
    assert (runs_of(finished)["longest", 6] / "checkpoints" / "checkpoint-1").is_dir()
    resumed = []
    monkeypatch.setattr(
        baselines, "finetune", lambda job, folder, **named: resumed.append(folder) or finetune(job, folder, **named)
    )
    run_baselines(job, finished.run, pool, SETTINGS)
    assert runs_of(finished)["longest", 6] in resumed
    events = (runs_of(finished)["longest", 6] / "events.jsonl").read_text()
    assert events.count('"event": "step"') == 3
    for path in runs_of(finished).values():
        assert (path / "events.jsonl").read_text().count('"event": "end"') == 1
    assert (finished.run / "baselines" / "table.json").read_bytes() == table
    assert (runs_of(finished)["longest", 6] / "final" / "model.safetensors").read_bytes() == weights


def test_another_pool_is_another_run(finished, tmp_path):
    job = finished.job()
    other = write_jsonl(tmp_path / "other.jsonl", [row(number) for number in range(20)])
    pool = prepare_pool(str(other), job, SETTINGS)
    with pytest.raises(SettingError, match=r"is another one: data\.train\.rows"):
        run_baselines(job, finished.run, pool, SETTINGS)


def test_a_selection_that_is_not_finished_is_not_compared(finished, tmp_path):
    job = finished.job()
    pool = finished.pool_of(job)
    begun = tmp_path / "run"
    shutil.copytree(finished.run, begun, ignore=shutil.ignore_patterns("baselines"))
    (begun / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        run_baselines(job, begun, pool, SETTINGS)
    assert not (begun / "baselines").exists()


def test_what_is_held_out_must_be_what_the_run_began_with(finished, tmp_path):
    settings = finished.job().settings
    kept = prepare(Request(None, settings, template="nuggets"), kept=finished.run)
    check_held_out(kept, str(finished.held_out))
    other = write_jsonl(tmp_path / "other.jsonl", [row(50)])
    with pytest.raises(SettingError, match="holds other rows out than those of"):
        check_held_out(kept, str(other))


def test_held_out_rows_and_seeds_are_needed(finished):
    settings = finished.job().settings
    bare = prepare(Request(str(finished.selected), settings, template="nuggets"))
    with pytest.raises(SettingError, match="needs held-out rows"):
        prepare_pool(str(finished.pool), bare, SETTINGS)
    with pytest.raises(SettingError, match="seed 4294967296 is not from 0"):
        prepare_pool(str(finished.pool), finished.job(), BaselineSettings(("all",), seeds=2**32 - 4))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--baseline random --eval-data HELD", 2, "`--baseline` needs the table that was selected from"),
        ("--baseline random --pool POOL", 2, "`--baseline` needs rows of their own to compare on"),
        ("--baseline random,best --pool POOL --eval-data HELD", 2, "baseline `best` is unknown"),
        ("--baseline random --pool - --eval-data HELD", 2, "`--pool` cannot be standard input"),
        ("--pool POOL", 2, "`--pool` means nothing without `--baseline`"),
        ("--seeds 3", 2, "`--seeds` means nothing without `--baseline`"),
        ("--baseline all --pool POOL --eval-data HELD --early-stop 2", 2, "`--early-stop` and `--baseline` contradict"),
        ("--baseline all --pool SILENT --eval-data HELD", 3, "no row can be packed"),
        ("--baseline all --pool none.jsonl --eval-data HELD", 3, "none.jsonl"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_training(tmp_path, capsys, words, code, message):
    folder = Folder(tmp_path)
    silent = write_jsonl(tmp_path / "silent.jsonl", [{"instruction": "Say nothing.", "output": ""}])
    files = {"HELD": folder.held_out, "POOL": folder.pool, "SILENT": silent}
    arguments = [str(files.get(word, word)) for word in words.split()]
    found = main(["finetune", str(folder.selected), "--model", str(folder.model), "--out", str(folder.run), *arguments])
    printed = capsys.readouterr()
    assert (found, printed.out) == (code, "")
    assert message in printed.err
    assert not (folder.run / "run.json").exists()


def test_the_command_prints_the_table(tmp_path, capsys):
    folder = Folder(tmp_path)
    report = tmp_path / "report.json"
    words = [
        *("finetune", str(folder.selected), "--model", str(folder.model), "--out", str(folder.run)),
        *("--template", "nuggets", "--epochs", "1", "--batch-size", "6", "--learning-rate", "1e-3"),
        *("--eval-data", str(folder.held_out), "--baseline", "random", "--pool", str(folder.pool), "--seeds", "1"),
        *("--report", str(report)),
    ]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 row is held out and left out of every baseline" in printed.err
    assert "held-out loss in nats, 15 rows with" in printed.err
    lines = printed.err.splitlines()
    arms = [line.split() for line in lines if line.startswith(("selected ", "random "))]
    assert [arm[0] for arm in arms] == ["selected", "random"]
    assert arms[0][1:2] == ["12"]
    table = read_sealed(folder.run / "baselines" / "table.json")
    assert f"{table['arms'][2]['loss_per_token']:.4f}" in arms[1]
    assert f"- {table['verdicts']['random']}" in lines
    assert np.isfinite(table["comparisons"][1]["per_token"]["low"])
    assert '"baselines"' in report.read_text()
    _judged(folder, tmp_path, capsys)


def _judged(folder, tmp_path, capsys):
    """The checkpoints are judged in one line, and what comes of it is no fault of the run."""
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"id": f"p{number}", "prompt": "Is it?"} for number in range(2)])
    words = ["judge", "baselines", str(folder.run), str(prompts), "--judge", str(folder.model), "--max-new-tokens", "3"]
    assert main(words) == 0
    assert "selected random" in " ".join(capsys.readouterr().err.split())
    assert {"answers-selected.parquet", "answers-random.parquet", "verdicts.parquet", "pairs.json"} <= {
        path.name for path in (folder.run / "judge").iterdir()
    }
    verdicts = read_table(folder.run / "judge" / "verdicts.parquet")[0]
    assert verdicts.height == 4
    assert verdicts["verdict"].null_count() == 4  # a random model gives none, and none is guessed
    assert main(["verify", str(folder.run)]) == 0
    capsys.readouterr()
