"""`toolkit stream view`: pages of sessions and of traces, and what is refused."""

import io
import json
import re

import polars as pl
import pytest

from pyllm.cli.app import main
from tests.support.tiny_models import save_tiny_model

SMALL = ["--cache", "64", "--sinks", "2", "--recent", "8", "--max-new-tokens", "20"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def view(capfdbinary):
    """Runs the command in this process; exit code, stdout, stderr."""

    def run(*words):
        code = main(["stream", "view", *map(str, words)])
        out, shown = capfdbinary.readouterr()
        return code, out, shown.decode()

    return run


@pytest.fixture
def session(model, tmp_path, monkeypatch, capfdbinary):
    lines = "".join(json.dumps({"content": f"question {number} </script>"}) + "\n" for number in range(5))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["stream", "chat", "--model", model, *SMALL, "--session", str(tmp_path / "talk")]) == 0
    capfdbinary.readouterr()
    return tmp_path / "talk"


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_session_becomes_a_page(view, session, tmp_path):
    code, out, shown = view(session, "--out", tmp_path / "page.html")
    assert (code, out) == (0, b"")
    page = (tmp_path / "page.html").read_text()
    records = [json.loads(line) for line in (session / "turns.jsonl").read_text().splitlines()]
    data = data_of(page)
    assert data["texts"] == [text for record in records for text in record["texts"]]
    assert "".join(data["texts"]).count("</script>") == 5
    assert data["ends"][-1] == sum(len(record["token_ids"]) for record in records)
    assert re.search(rf"5 turns, {data['ends'][-1]} tokens, {records[-1]['cache_tokens']} held; 0\.\d MB", shown)
    # The same bytes again, on stdout.
    assert view(session, "--out", "-", "-q") == (0, page.encode(), "")


def test_a_session_can_be_looked_at_while_it_is_open_and_without_the_model(view, session, tmp_path, monkeypatch):
    from pyllm.stream.session import Session

    facts = json.loads((session / "session.json").read_text())["facts"]
    with Session(session, facts):
        assert view(session, "--out", tmp_path / "page.html")[0] == 0


def test_a_session_of_an_older_version_takes_its_texts_from_the_model(view, session, model, tmp_path):
    from pyllm.data.sealed import read_sealed, write_sealed
    from pyllm.provenance import canonical_json, sha256_hex

    whole = (tmp_path / "whole.html", tmp_path / "old.html")
    view(session, "--out", whole[0])
    records = [json.loads(line) for line in (session / "turns.jsonl").read_text().splitlines()]
    lines = "".join(f"{canonical_json({k: v for k, v in r.items() if k != 'texts'})}\n" for r in records).encode()
    (session / "turns.jsonl").write_bytes(lines)
    metadata = read_sealed(session / "session.json")
    metadata["log"] |= {"bytes": len(lines), "sha256": sha256_hex(lines)}
    write_sealed(session / "session.json", metadata)
    code, _, shown = view(session, "--out", whole[1])
    assert code == 2
    assert "its log holds no texts of tokens" in shown
    assert view(session, "--model", model, "--out", whole[1])[0] == 0
    assert whole[0].read_bytes() == whole[1].read_bytes()


@pytest.fixture
def trace(model, tmp_path, capfdbinary):
    rows = [
        {"dialogue_id": name, "turn": turn, "text": f"{name} says {'word ' * (4 * turn)}{turn}"}
        for name in ("ann", "bob") for turn in range(5)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "turns.parquet")
    words = ["--entropy-tokens", "50", "--recent", "10", "--template", "none", "--decay", "0.9"]
    out = ["--out", str(tmp_path / "trace.parquet")]
    assert main(["stream", "replay", str(tmp_path / "turns.parquet"), "--model", model, *words, *out]) == 0
    capfdbinary.readouterr()
    return tmp_path / "trace.parquet"


def test_a_trace_becomes_a_page(view, trace, model, tmp_path):
    page = tmp_path / "page.html"
    texts = ["--turns", trace.parent / "turns.parquet", "--model", model, "--template", "none"]
    assert view(trace, "--dialogue", "bob", *texts, "--out", page)[0] == 0
    data = data_of(page.read_text())
    assert "".join(data["texts"]).startswith("bob says 0bob says word word word word 1")
    assert data["labels"] == list(range(5))
    assert data["departures"]
    assert "decay 0.9" in page.read_text()
    assert view(trace, "--dialogue", "ann", "--out", page)[0] == 0
    assert data_of(page.read_text())["texts"] is None


def test_what_is_refused(view, trace, session, model, tmp_path):
    page = ["--out", tmp_path / "page.html"]
    for words, code, message in [
        ([trace, *page], 2, "holds 2 dialogues"),
        ([trace, "--dialogue", "eve", *page], 2, "dialogue `eve` is not in"),
        ([trace, "--dialogue", "ann", "--turns", trace, *page], 2, "`--turns` alone gives no texts"),
        ([trace, "--dialogue", "ann", "--model", model, *page], 2, "`--model` alone gives no texts"),
        ([trace.parent / "turns.parquet", *page], 3, "column `kept` is missing from"),
        ([tmp_path / "none.parquet", *page], 3, "none.parquet"),
        ([tmp_path, *page], 3, "holds no session"),
        ([session, "--dialogue", "x", *page], 2, "are for traces"),
        ([session, "--out", tmp_path / "no" / "page.html"], 4, "does not exist"),
        ([session], 2, "--out"),
    ]:
        got, out, shown = view(*words)
        assert (got, out) == (code, b""), shown
        assert message in shown
    (session / "turns.jsonl").write_text("{}\n")
    got, _, shown = view(session, *page)
    assert got == 3
    assert "turns.jsonl was changed: its SHA-256 is not the recorded one" in shown
    assert not (tmp_path / "page.html").exists()
