"""The bench of the bounded cache runs, and what it compares agrees; nothing is timed here."""

import json
import sys

import pytest
import torch


@pytest.fixture
def bench(repository_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root / "benches"))
    threads = torch.get_num_threads()
    import bench_stream

    yield bench_stream
    torch.set_num_threads(threads)
    for name in ("bench_stream", "published_twin"):
        sys.modules.pop(name, None)


def test_the_twin_keeps_and_chooses_the_same(bench, monkeypatch, tmp_path, capsys):
    words = ["--models", "nano", "--rounds", "1", "--caches", "64", "--only", "decode,question,tokens,choosing"]
    monkeypatch.setattr("sys.argv", ["bench_stream.py", *words, "--json", str(tmp_path / "figures.json")])
    # It ends the process when the twin keeps other tokens, or chooses another answer.
    bench.main()
    parts = json.loads((tmp_path / "figures.json").read_text())["parts"]
    assert [name.split(",")[0] for name in parts] == ["decode", "question", "tokens", "choosing among 1"]
    for part in parts.values():
        for row in part["contestants"].values():
            assert 0 < row["lowest"] <= row["median"] <= row["highest"]
    assert capsys.readouterr().out.count("times twin") == 5


def test_a_twin_that_keeps_other_tokens_ends_the_bench(bench):
    class Other:
        kept_positions = (0, 1)

    class Dialogue:
        class memory:  # noqa: N801
            evictions = 5
            positions = torch.arange(3)

    with pytest.raises(SystemExit, match="the twin keeps other tokens"):
        bench.agree(Dialogue, Other)
