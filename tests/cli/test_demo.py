"""The demo shows what it says: golden scores find right answers, the cache remembers, and all of it is on one page."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pyllm.cli import demo
from pyllm.cli.app import main
from pyllm.data.held import held_folder
from tests.support.browser import open_page

SMALL = demo.Sizes(rows=120, anchors=16, held_out=24, turns=30, tokens=600, dialogues=1, tasks=3, instances=2)


def lines_of(text: str) -> dict[str, str]:
    """The closing lines by what they begin with."""
    names = ("golden score AUC", "longest AUC", "random AUC", "right answers", "held-out loss", "chat", "recall",
             "tagged answers parsed", "page")  # fmt: skip
    return {name: line[len(name) + 1 :] for name in names for line in text.splitlines() if line.startswith(f"{name} ")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
import sys
from pyllm.cli import app, demo
demo.SIZES = demo.{SMALL}
sys.exit(app.main(["demo", "--seed", "3"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    monkeypatch.chdir(tmp_path)
    lines = lines_of(ended.stdout)
    assert float(lines["golden score AUC"]) >= 0.9
    # 120 rows: a control is within 0.15 of a half unless something leaks.
    assert all(abs(float(lines[f"{control} AUC"]) - 0.5) < 0.15 for control in ("longest", "random"))
    before, after = map(int, re.findall(r"(\d+)%", lines["right answers"]))
    assert after >= before + 30
    losses = dict(re.findall(r"([a-z][a-z ]+) (\d\.\d+)", lines["held-out loss"]))
    assert set(losses) == {"before training", "selected", "random", "longest"}
    assert float(losses["selected"]) < float(losses["random"])
    known, kept = re.fullmatch(
        r"(\d) of 6 names known after 30 turns, at most (\d+) tokens kept", lines["chat"]
    ).groups()  # type: ignore[union-attr]
    assert int(known) >= 4
    assert int(kept) <= SMALL.tokens // 4
    recall = dict(re.findall(r"([a-z0-9+]+) (\d\.\d+)", lines["recall"]))
    assert float(recall["sirllm+8"]) > float(recall["streaming"])
    assert lines["page"] == "demo/report.html"

    # Each command is shown as one would type it, and everything stands in the one folder.
    commands = re.findall(r"^\$ toolkit (\w+)", ended.stderr, flags=re.MULTILINE)
    assert commands == ["score", "score", "select", "finetune", "stream", "stream", "mti", "report"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    bad = [json.loads(line) for line in Path("demo/bad-rows.jsonl").read_text().splitlines()]
    assert [row["field"] for row in bad if row["field"]] == ["output"]
    assert len(bad) == 2
    answers = [json.loads(line) for line in Path("demo/answers.jsonl").read_text().splitlines()]
    assert len(answers) == SMALL.turns + 6
    arguments = json.loads(Path("demo/finetuned/run.json").read_text())["arguments"]
    assert f"$ toolkit {shlex.join(arguments)}\n" in ended.stderr
    assert pl.read_parquet("demo/scores.parquet")["golden_score"].null_count() == 2
    probe = "(page) => ({titles: [...page.querySelectorAll('h2')].map((each) => each.textContent)})"
    opened = open_page(Path("demo/report.html").read_text(), tmp_path, probe=probe)
    titles = ["What ran on what", "Golden scores", "Training", "Streaming memory", "Several instructions at once"]
    assert opened.found["titles"] == titles
    assert opened.console == []
    assert opened.asked == ["/page.html"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("\\title{}")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "no folder of an earlier demo" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("out", "refusal"),
    [
        ("file", (4, "error: cannot write to file: it is no folder\n")),
        ("-x", (2, "error: commands would take `--out -x` for an option\nhint: name another folder\n")),
        ("marked", (4, "error: cannot make marked anew: marked/pool.jsonl: is a directory\n")),
        ("held", (4, "error: another demo writes to held\nhint: wait for it, or name another folder\n")),
    ],
)
def test_a_folder_that_cannot_be_had_is_refused_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    out: str,
    refusal: tuple[int, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("marked/pool.jsonl").mkdir(parents=True)
    Path("marked", demo._MARK).touch()
    with held_folder(Path("held"), busy=""):
        code = main(["demo", f"--out={out}"])
    assert (code, capfd.readouterr().err) == refusal


def test_what_is_not_the_demos_outlives_it(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    demo._start_anew(out, 1)
    for name in ("pool.jsonl", "notes.txt", "mti/calls.jsonl"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("x")
    demo._start_anew(out, 2)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "toolkit-demo.json"]


def test_a_step_that_fails_ends_the_demo_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def steps(out: Path, seed: int) -> list[demo._Step]:
        return [demo._Step("Broken.", ("select", str(out / "pool.jsonl"), "--top", "half")), demo._Step("Next.", ())]

    monkeypatch.setattr(demo, "_steps", steps)
    monkeypatch.setattr(demo, "SIZES", SMALL)
    assert main(["demo", "--out", str(tmp_path / "d")]) == 2
    printed = capfd.readouterr()
    assert "Next." not in printed.err
    assert printed.out == ""


def test_a_step_reads_as_one_types_it() -> None:
    step = demo._Step("", ("stream", "chat", "--session", "my talk"), source=Path("a b.jsonl"), target=Path("out"))
    assert step.line == "toolkit stream chat --session 'my talk' < 'a b.jsonl' > out"
