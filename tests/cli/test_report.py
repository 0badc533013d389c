"""`toolkit report` on runs that were really made, of every kind that it knows."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pyllm.cli import _backend_options
from pyllm.cli.app import main
from tests.support.browser import open_page
from tests.support.mti_tasks import write_tasks
from tests.support.report_sources import write_finetune
from tests.support.scripted_backend import ScriptedBackend
from tests.support.tiny_models import save_tiny_model, write_jsonl
from tests.support.tiny_runs import made_rows

# Everything is made once, in the set-up of the first test.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of every kind, of a tiny model or of scripted answers."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.chdir(folder)
        save_tiny_model(folder / "model")
        rows = made_rows(16)
        write_jsonl(folder / "rows.jsonl", rows)
        write_jsonl(
            folder / "others.jsonl", [{**row, "instruction": f"Now {row['instruction']}"} for row in made_rows(10)]
        )
        run("score rows.jsonl --anchors random:4 --model model --per-anchor --anchors-out anchors.parquet"
            " --report score.json --out scores.parquet")  # fmt: skip
        run("select scores.parquet --top 50% --out best.parquet")
        run("finetune best.parquet --model model --out run --epochs 1 --batch-size 4 --eval-data others.jsonl"
            " --baseline random --pool scores.parquet --seeds 1")  # fmt: skip
        run("stream bench recall --model model --facts 2 --tokens 600 --dialogues 2 --policies streaming,sirllm"
            " --out recall")  # fmt: skip
        turns = [{"dialogue_id": name, "turn": turn, "token_ids": [(turn * 7 + place) % 90 + 5 for place in range(9)]}
                 for name in ("a", "b") for turn in range(6)]  # fmt: skip
        write_jsonl(folder / "turns.jsonl", turns)
        run("stream replay turns.jsonl --model model --sinks 2 --entropy-tokens 10 --recent 4 --out trace.parquet")
        said = "".join(json.dumps({"content": f"question {number} </script>"}) + "\n" for number in range(3))
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said.encode())))
        run("stream chat --model model --cache 64 --sinks 2 --recent 8 --max-new-tokens 12 --session talk")
        write_tasks(folder / "tasks.json")
        answer_with(patch, lambda request: f"<task1>{107 + len(str(request.prompt)) % 3}<task1/> <task2>214<task2/>")
        run("mti run tasks.json --out mti --mode mti,sti --format csv")
        for model in ("new", "old"):
            count = 16
            pl.DataFrame(
                {"prompt_id": [f"p{place}" for place in range(count)],
                 "category": [("maths", "prose")[place % 2] for place in range(count)], "turn": [1] * count,
                 "repeat": [0] * count, "prompt": [f"Q{place}?" for place in range(count)],
                 "answer": [f"{model} says {'so ' * (place % (5 if model == 'new' else 3))}" for place in range(count)],
                 "answer_tokens": [3] * count, "model": [model] * count}
            ).write_parquet(folder / f"{model}.parquet")  # fmt: skip
        answer_with(patch, lambda request: f"Rating: [[{len(request.prompt[0].content) % 10 + 1}]]")
        run("judge grade new.parquet old.parquet --judge j --out grades.parquet")
        answer_with(patch, lambda request: f"So: [[{'ABC'[len(request.prompt[0].content) % 3]}]]")
        run("judge pair new.parquet old.parquet --judge j --out verdicts.parquet")
        yield folder


def answer_with(patch: pytest.MonkeyPatch, script: object) -> None:
    patch.setattr(_backend_options.BackendOptions, "open", lambda _: ScriptedBackend(script))  # type: ignore[arg-type]


def run(words: str) -> None:
    assert main([*words.split(), "-q"]) == 0, words


RUNS = [
    "scores.parquet", "anchors.parquet", "best.parquet", "score.json", "run", "recall", "trace.parquet", "talk", "mti",
    "grades.parquet", "verdicts.parquet",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    assert main(["report", *(str(folder / name) for name in RUNS), "--out", str(folder / "page.html"), "-q"]) == 0
    return (folder / "page.html").read_text(encoding="utf-8")


def captions(page: str, section: str) -> list[str]:
    part = page.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    return re.findall(r"<figcaption>(.*?)</figcaption>", part)


@pytest.mark.slow
def test_every_run_has_its_section_and_its_plots(page: str) -> None:
    assert re.findall(r'<section id="(\w+)">', page) == ["origins", "scores", "training", "stream", "mti", "judge"]
    assert captions(page, "scores") == [
        "How scores lie", "Score against length", "What each anchor gained", "Lengths before and after selection",
    ]  # fmt: skip
    assert {"Loss", "Throughput", "Selection against baselines"} <= set(captions(page, "training"))
    stream = captions(page, "stream")
    assert stream[:3] == ["Recall", "Right among the told", "Nats a token"]
    assert stream.count("Kept and forgotten over turns") == 2
    assert stream.count("Which turns are remembered") == 2
    assert {"Accuracy against tokens computed or written", "Paired differences", "What became of answers"} <= set(
        captions(page, "mti")
    )
    assert {"Mean grade", "Grade by category", "Win rates", "Place", "Length"} <= set(captions(page, "judge"))


@pytest.mark.slow
def test_figures_are_those_of_the_commands(folder: Path, page: str) -> None:
    metrics = json.loads((folder / "mti" / "metrics.json").read_bytes())
    final = next(
        row
        for row in metrics["metrics"]
        if (row["mode"], row["scope"], row["metric"]) == ("sti", "all", "final_accuracy")
    )
    assert f"{100 * final['value']:.1f} % ({100 * final['low']:.1f} to {100 * final['high']:.1f})" in page
    table = json.loads((folder / "run" / "baselines" / "table.json").read_bytes())
    for arm in table["arms"]:
        assert f">{arm['loss_per_token']:.4f}</td>" in page
    apart = next(each for each in table["comparisons"] if each["control"] == "random")["per_token"]
    assert f"{apart['difference']:+.4f} ({apart['low']:+.4f} to {apart['high']:+.4f})" in page
    recall = json.loads((folder / "recall" / "recall.json").read_bytes())
    for row in recall["arms"]:
        low, high = row["intervals"]["nats"]
        assert f"{row['nats']:.3f} ({low:.3f} to {high:.3f})" in page
    spent = json.loads((folder / "score.json").read_bytes())
    assert f">{spent['model_tokens']:,}</td>" in page
    grades = pl.read_parquet(folder / "grades.parquet").filter(pl.col("model") == "new")["grade"]
    assert f">{grades.mean():.2f} (" in page


@pytest.mark.slow
def test_a_browser_finds_nothing_wrong(page: str, tmp_path: Path) -> None:
    probe = """(page) => ({ drawn: [...page.querySelectorAll("figure svg")].map(
        (svg) => svg.querySelectorAll("path, use").length > 3 && svg.getBoundingClientRect().height > 50) })"""
    seen = open_page(page, tmp_path, probe=probe)
    assert (seen.console, seen.asked) == ([], ["/page.html"])
    assert seen.found["drawn"] == [True] * page.count("<svg ")


@pytest.mark.slow
def test_the_page_is_the_same_again_and_goes_to_stdout(folder: Path, page: str, capfdbinary) -> None:
    capfdbinary.readouterr()
    assert main(["report", *(str(folder / name) for name in RUNS), "--out", "-"]) == 0
    out, shown = capfdbinary.readouterr()
    assert out == page.encode()
    assert re.fullmatch(rb"What ran on what, Golden scores, .*: 0\.\d MB\n", shown)


def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_finetune(tmp_path / "run", finished=False)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 3
    assert main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "page.html")]) == 3
    (tmp_path / "scores.jsonl").write_text('{"id": "a", "golden_score": 0.5}\n')
    assert main(["report", str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "scores.jsonl")]) == 2
    assert main(["report", "--out", str(tmp_path / "page.html")]) == 2
    assert main(["report", str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "no" / "page.html")]) == 4
    shown = capfd.readouterr().err
    assert "is an unfinished run of `toolkit finetune`: expected its `manifest.json`" in shown
    assert "would overwrite the source" in shown
    assert not (tmp_path / "page.html").exists()
    assert main(["report", str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "page.html"), "-q"]) == 0


def test_a_missing_plotting_library_is_named(tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "scores.jsonl").write_text('{"id": "a", "golden_score": 0.5}\n{"id": "b", "golden_score": 0.6}\n')
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "page.html")]) == 4
    assert 'pip install "pyllm[report]"' in capfd.readouterr().err


def test_it_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"id": "a", "golden_score": 0.5}\n{"id": "b", "golden_score": 0.6}\n')
    code = (
        "import sys; from pyllm.cli.app import main;"
        "code = main(['report', 'scores.jsonl', '--out', 'page.html', '-q']);"
        "print(code, {'torch', 'transformers', 'rich', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout == "0 set()\n"
