"""`toolkit shard` as a user meets it: real processes, real pipes, kill -9 and a full disk."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard
from polars.testing import assert_frame_equal

from pyllm.data.reading import read_examples
from pyllm.data.sharding import shard_files
from tests.support.shell import bash, environment, toolkit_path

ROWS = [
    {"instruction": "Name a fruit", "input": "", "output": "Apple", "topic": "food"},
    {"instruction": "Add", "input": "2 and 3", "output": "5", "topic": "numbers"},
    {"instruction": "说出三种颜色", "input": None, "output": "红、绿、蓝\n", "topic": None},
    {"instruction": "Name a fruit", "input": "", "output": "Apple", "topic": "food"},
    {"instruction": "Write a poem", "output": "Roses 🌹 are \u0000 red " * 30, "topic": "art"},
]


def json_lines(rows=ROWS):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows=ROWS):
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


def arrow(rows=ROWS, *, stream):
    buffer = io.BytesIO()
    frame = pl.DataFrame(rows).with_columns(pl.col("topic").cast(pl.Categorical))
    (frame.write_ipc_stream if stream else frame.write_ipc)(buffer)
    return buffer.getvalue()


FORMATS = {
    "rows.jsonl": json_lines(),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "marked.jsonl": b"\xef\xbb\xbf" + json_lines(),
    "rows.csv": pl.DataFrame(ROWS).write_csv().encode(),
    "rows.parquet": parquet(),
    "rows.arrow": arrow(stream=False),
    "stream.arrow": arrow(stream=True),
}


def sharded(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))])


def manifest(folder: Path):
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def succeeds(script, tmp_path, **more):
    finished = bash(script, cwd=tmp_path, **more)
    assert (finished.code, finished.stdout) == (0, b""), finished.stderr
    return finished


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json_lines())
    return path


def test_shards_and_a_manifest_are_written(tmp_path, rows_file):
    finished = succeeds("toolkit shard rows.jsonl --out out --rows-per-shard 2 --report report.json", tmp_path)
    assert sorted(contents(tmp_path / "out")) == [
        "manifest.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert finished.stderr.startswith("5 of 5 rows (alpaca 5)\n  shards   3 in out, 1 to 2 rows each\n")
    table = sharded(tmp_path / "out")
    assert_frame_equal(table, read_examples(rows_file).table)
    found = manifest(tmp_path / "out")
    assert found["totals"]["rows"] == 5
    assert found["inputs"][0]["sha256"] == hashlib.sha256(rows_file.read_bytes()).hexdigest()
    for part in found["parts"]:
        data = (tmp_path / "out" / part["name"]).read_bytes()
        rows = pl.read_parquet(io.BytesIO(data))
        assert (part["bytes"], part["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (part["first"]["row"], part["last"]["row"]) == (rows["source_row"][0], rows["source_row"][-1])
        assert part["content_sha256"] == hashlib.sha256(bytes.fromhex("".join(rows["id"]))).hexdigest()
    assert found["provenance"][-1]["command"] == "shard"
    assert json.loads((tmp_path / "report.json").read_text())["parts"][2]["rows"] == 1


def test_a_shard_is_a_table_of_ours(tmp_path, rows_file):
    succeeds("toolkit shard rows.jsonl --out out -q && toolkit shard out --out again -q", tmp_path)
    first = read_examples(tmp_path / "out" / "part-00000.parquet")
    assert first.shapes == {"pyllm": 5}
    assert [each["command"] for each in first.provenance] == ["shard"]
    assert_frame_equal(sharded(tmp_path / "again"), first.table)
    again = manifest(tmp_path / "again")
    assert again["shapes"] == [{"shape": "pyllm", "rows": 5}]
    assert again["inputs"][0]["own"] is True
    assert [each["command"] for each in again["provenance"]] == ["shard", "shard"]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("zstd:1", "ZSTD"), ("zstd:3", "ZSTD"), ("lz4", "LZ4"), ("snappy", "SNAPPY"), ("none", "UNCOMPRESSED")],
)
def test_every_compression_on_any_threads_gives_the_same_rows_and_bytes(tmp_path, rows_file, name, codec):
    script = f"""
    toolkit shard rows.jsonl --out one --shards 2 --threads 1 --compression {name} -q
    toolkit shard rows.jsonl --out two --shards 2 --threads 2 --compression {name} -q
    diff -r one two
    """
    succeeds(script, tmp_path)
    about = pq.read_metadata(tmp_path / "one" / "part-00000.parquet").row_group(0)
    assert {about.column(place).compression for place in range(about.num_columns)} == {codec}
    rows = pq.read_table(sorted((tmp_path / "one").glob("*.parquet")))
    assert rows.num_rows == 5
    assert_frame_equal(pl.from_arrow(rows), read_examples(rows_file).table)


@pytest.mark.parametrize("packing", ["plain", "gz", "zst"])
def test_every_format_plain_or_packed_gives_the_rows_of_the_reader(tmp_path, packing):
    pack = {"plain": bytes, "gz": gzip.compress, "zst": zstandard.compress}[packing]
    for name, data in FORMATS.items():
        path = tmp_path / (name if packing == "plain" else f"{name}.{packing}")
        path.write_bytes(pack(data))
        shard_files([path], tmp_path / "out" / name)
        assert_frame_equal(sharded(tmp_path / "out" / name), read_examples(path).table)


def test_a_pipe_is_read_like_a_file(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(parquet())
    (tmp_path / "rows.jsonl").write_bytes(json_lines())
    script = """
    cat rows.parquet | toolkit shard --out out -q
    cat rows.jsonl | toolkit shard - <(cat rows.jsonl) --out both --shards 3 -q
    ls -A out both
    """
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert "spool" not in finished.text
    assert sharded(tmp_path / "out")["source_file"].unique().to_list() == ["-"]
    assert manifest(tmp_path / "both")["totals"]["rows"] == 10


def test_patterns_and_folders_are_read_in_order(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for place, name in enumerate(["b.jsonl", "a.jsonl", "c.json"]):
        (data / name).write_bytes(json_lines(ROWS[place : place + 1]))
    (data / "notes.txt").write_text("none")
    succeeds("toolkit shard 'data/*.jsonl' --out one -q; toolkit shard data --out two -q", tmp_path)
    assert sharded(tmp_path / "one")["source_file"].to_list() == ["a.jsonl", "b.jsonl"]
    assert sharded(tmp_path / "two")["source_file"].to_list() == ["a.jsonl", "b.jsonl", "c.json"]


def test_columns_of_several_files_are_joined(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"prompt": "p", "completion": "c", "score": 1}]))
    (tmp_path / "b.jsonl").write_bytes(json_lines([{"question": "q", "answer": "a", "score": 0.5, "extra": [1]}]))
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (tmp_path / "c.parquet").write_bytes(parquet([{"messages": turns, "score": 2.0}]))
    succeeds("toolkit shard a.jsonl b.jsonl c.parquet --out out -q", tmp_path)
    table = sharded(tmp_path / "out")
    assert table["score"].to_list() == [1.0, 0.5, 2.0]
    assert table["extra"].to_list() == [None, [1], None]
    assert table["messages"].null_count() == 2
    assert manifest(tmp_path / "out")["columns"][-2:] == [
        {"name": "score", "type": "Float64"},
        {"name": "extra", "type": manifest(tmp_path / "out")["columns"][-1]["type"]},
    ]


def test_a_type_that_shows_late_is_no_surprise(tmp_path):
    rows = [{"instruction": f"{place}", "output": "x" * 2_000, "n": 1} for place in range(1_000)]
    rows[990]["n"], rows[995]["late"] = 0.5, True
    (tmp_path / "rows.jsonl").write_bytes(json_lines(rows))
    succeeds("toolkit shard rows.jsonl --out out --report report.json -q", tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["passes"] == 2
    assert_frame_equal(sharded(tmp_path / "out"), read_examples(tmp_path / "rows.jsonl").table)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "part-00000.parquet"]


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_more_shards_than_rows_are_one_a_row(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_bytes(json_lines([{"instruction": str(row)} for row in range(rows)]))
    succeeds("toolkit shard rows.jsonl --out out --shards 5 -q", tmp_path)
    sizes = [part["rows"] for part in manifest(tmp_path / "out")["parts"]]
    assert sizes == {1: [1], 4: [1] * 4, 7: [2, 2, 1, 1, 1]}[rows]


def test_duplicates_are_dropped_on_request(tmp_path, rows_file):
    finished = succeeds("toolkit shard rows.jsonl rows.jsonl --out out --dedup exact --shards 2", tmp_path)
    assert finished.stderr.startswith("4 of 10 rows (alpaca 10); left out: 6 duplicate\n")
    assert sharded(tmp_path / "out")["source_row"].to_list() == [0, 1, 2, 4]
    assert [part["rows"] for part in manifest(tmp_path / "out")["parts"]] == [2, 2]


class TestBadRows:
    LINES = b'{"instruction": "a", "output": "b"}\n{"instruction": 3}\n\n{"instruction": \xff}\n{"output": "c"}\n'

    def test_they_are_left_out_named_and_collected(self, tmp_path):
        (tmp_path / "rows.jsonl").write_bytes(self.LINES)
        finished = succeeds("toolkit shard rows.jsonl --out out --bad-rows bad.jsonl", tmp_path)
        assert "warning: rows.jsonl: 3 bad rows left out: row 1 (line 2), field `instruction`" in finished.stderr
        read_examples(tmp_path / "rows.jsonl", bad_rows_path=tmp_path / "wanted.jsonl")
        assert (tmp_path / "bad.jsonl").read_bytes() == (tmp_path / "wanted.jsonl").read_bytes()
        assert manifest(tmp_path / "out")["totals"]["bad_rows"] == 3

    def test_the_file_is_written_even_when_there_are_none(self, tmp_path, rows_file):
        succeeds("toolkit shard rows.jsonl --out out --bad-rows bad.jsonl -q", tmp_path)
        assert (tmp_path / "bad.jsonl").read_bytes() == b""

    def test_finished_work_still_gives_its_bad_rows(self, tmp_path):
        (tmp_path / "rows.jsonl").write_bytes(self.LINES)
        succeeds(
            "toolkit shard rows.jsonl --out out -q; toolkit shard rows.jsonl --out out --bad-rows bad -q", tmp_path
        )
        assert len((tmp_path / "bad").read_text().splitlines()) == 3

    def test_strict_refuses_the_first(self, tmp_path):
        (tmp_path / "rows.jsonl").write_bytes(self.LINES)
        finished = bash("toolkit shard rows.jsonl --out out --strict --bad-rows bad.jsonl", cwd=tmp_path)
        assert finished.code == 3
        assert finished.stderr.startswith("error: rows.jsonl: row 1 (line 2), field `instruction`: ")
        assert "; and 2 more\nhint: without `--strict`, bad rows are left out and named\n" in finished.stderr
        assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3
        assert not (tmp_path / "out").exists()


def refused(tmp_path, data, code=3, name="rows.jsonl", options=""):
    (tmp_path / name).write_bytes(data)
    finished = bash(f"toolkit shard {name} --out out {options}", cwd=tmp_path)
    assert finished.code == code, finished.stderr
    assert finished.stderr.startswith("error: "), finished.stderr
    assert not (tmp_path / "out").exists()
    return finished.stderr


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.jsonl.gz", gzip.compress(json_lines() * 90)[:-20], "is a torn or damaged gzip file"),
        ("rows.jsonl.zst", zstandard.compress(json_lines() * 90)[:-9], "is a torn zstd file: its last frame has no"),
        ("rows.jsonl", json_lines().decode().encode("utf-16"), "is UTF-16 text, not UTF-8\nhint: convert it: iconv"),
        ("rows.parquet", parquet()[:-9], "is a truncated Parquet file: its end is missing\nhint: write it again"),
        ("rows.arrow", arrow(stream=False)[:-9], "is a truncated Arrow file: its end is missing"),
        ("s.arrow", arrow(stream=True)[:-9], "is a truncated Arrow stream: its end mark is missing"),
        ("rows.jsonl", b"", "rows.jsonl is empty"),
        ("rows.jsonl", b" \n\n", "rows.jsonl is empty"),
        ("rows.json", b"[]", "rows.json holds no rows"),
        ("rows.csv", b"instruction,output\n", "rows.csv holds no rows"),
        ("rows.json", b'[{"instruction": "a"}, {"instruction": ', "is not a valid JSON array: row 1"),
        ("rows.csv", b"instruction,output\na,\xff\n", "is not UTF-8 text: line 2 holds byte 0xff"),
        (
            "rows.jsonl",
            b'{"a"\n{"b"\n',
            "none of its 2 rows can be read; row 0 (line 1): is not valid JSON: ",
        ),
        ("rows.jsonl", b'{"chosen": "a", "rejected": "b"}\n', "rows.jsonl is not instruction data: row 0"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_left(tmp_path, name, data, message):
    assert message in refused(tmp_path, data, name=name)


def test_no_file_no_match_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, message in {
        "none.jsonl": "cannot read none.jsonl: no such file or directory",
        "'*.jsonl'": "no file matches `*.jsonl`",
        "empty": "the folder empty holds no data file\nhint: ",
        "- < /dev/null": "standard input is empty\nhint: the command before it may have failed",
    }.items():
        finished = bash(f"toolkit shard {words} --out out", cwd=tmp_path)
        assert finished.code == 3
        assert message in finished.stderr
        assert not (tmp_path / "out").exists()


def test_settings_that_cannot_be(tmp_path, rows_file):
    for options, message in {
        "--shards 2 --rows-per-shard 2": "`--rows-per-shard` and `--shards` contradict each other",
        "--shards 0": "--shards",
        "--compression gzip": "--compression",
        "--report rows.jsonl": "would overwrite the input rows.jsonl",
    }.items():
        finished = bash(f"toolkit shard rows.jsonl --out out {options}", cwd=tmp_path)
        assert finished.code == 2
        assert message in finished.stderr


class TestFolder:
    def test_a_finished_run_is_left_as_it_is(self, tmp_path, rows_file):
        command = "toolkit shard rows.jsonl --out out --shards 2"
        succeeds(command, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        finished = succeeds(command, tmp_path)
        assert "out holds this very work already: nothing was written" in finished.stderr
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize("change", ["--shards 3", "--compression lz4", "--dedup exact", "more.jsonl"])
    def test_other_work_is_refused(self, tmp_path, rows_file, change):
        (tmp_path / "more.jsonl").write_bytes(json_lines())
        succeeds("toolkit shard rows.jsonl --out out --shards 2 -q", tmp_path)
        before = contents(tmp_path / "out")
        options = change if "--shards" in change else f"--shards 2 {change}"
        finished = bash(f"toolkit shard rows.jsonl --out out {options}", cwd=tmp_path)
        assert finished.code == 2
        assert "`--out out` holds the shards of other work\nhint: name another folder" in finished.stderr
        assert contents(tmp_path / "out") == before

    def test_a_changed_part_is_not_taken_for_finished(self, tmp_path, rows_file):
        succeeds("toolkit shard rows.jsonl --out out -q", tmp_path)
        (tmp_path / "out" / "part-00000.parquet").write_bytes(b"PAR1")
        finished = bash("toolkit shard rows.jsonl --out out", cwd=tmp_path)
        assert finished.code == 2
        assert "`part-00000.parquet` is gone or was changed" in finished.stderr

    def test_foreign_parts_are_refused_and_other_files_left_alone(self, tmp_path, rows_file):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.md").write_text("mine")
        succeeds("toolkit shard rows.jsonl --out out -q", tmp_path)
        assert (out / "notes.md").read_text() == "mine"
        (out / "manifest.json").unlink()
        finished = bash("toolkit shard rows.jsonl --out out", cwd=tmp_path)
        assert finished.code == 2
        assert "holds `part-00000.parquet`, but no manifest.json" in finished.stderr

    def test_a_folder_that_cannot_be(self, tmp_path, rows_file):
        finished = bash("toolkit shard rows.jsonl --out rows.jsonl", cwd=tmp_path)
        assert finished.code == 4
        assert "cannot write to rows.jsonl: it is no folder" in finished.stderr

    def test_two_runs_do_not_share_a_folder(self, tmp_path, rows_file):
        os.mkfifo(tmp_path / "silent")
        first = subprocess.Popen([toolkit_path(), "shard", "silent", "--out", "out"], cwd=tmp_path, env=environment())
        try:
            wait_until((tmp_path / "out").exists)
            time.sleep(0.2)
            finished = bash("toolkit shard rows.jsonl --out out", cwd=tmp_path)
            assert finished.code == 4
            assert "another run is writing to out" in finished.stderr
        finally:
            first.kill()
            first.wait()


def test_a_full_disk_leaves_nothing(tmp_path):
    rows = [{"instruction": hashlib.sha256(bytes([row % 256, row // 256])).hexdigest()} for row in range(5_000)]
    (tmp_path / "rows.jsonl").write_bytes(json_lines(rows))
    finished = bash("ulimit -f 64; toolkit shard rows.jsonl --out out --rows-per-shard 500", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    finished = bash("ulimit -f 64; toolkit shard rows.jsonl --out whole", cwd=tmp_path)
    assert finished.code == 4
    assert "error: cannot write whole/part-00000.parquet: file too large" in finished.stderr
    assert not (tmp_path / "whole").exists()


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def journal(folder: Path):
    path = folder / ".shard-progress.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def long_file(tmp_path):
    """Some 40 MB, so that a run can be killed in its middle."""
    text = "".join(hashlib.sha256(bytes([row])).hexdigest() for row in range(60))
    lines = (json.dumps({"instruction": f"{row}", "output": text[row % 997 :]}) + "\n" for row in range(12_000))
    (tmp_path / "long.jsonl").write_text("".join(lines))


def killed_run(tmp_path, command, number):
    process = subprocess.Popen(
        [toolkit_path(), *command.split()], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(journal(tmp_path / "broken")) > 3 or process.poll() is not None)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert not [path for path in (tmp_path / "broken").iterdir() if not path.name.startswith(".")]
    return process.returncode, stderr


def test_a_killed_run_goes_on_to_the_bytes_of_an_unbroken_one(tmp_path, long_file):
    command = "shard long.jsonl --rows-per-shard 500 --threads 1 --out"
    succeeds(f"toolkit {command} whole -q", tmp_path)
    code, _ = killed_run(tmp_path, f"{command} broken", signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = len(journal(tmp_path / "broken")) - 1
    assert kept >= 3
    # One that is finished is damaged, and so is written again.
    (tmp_path / "broken" / ".part-00001.parquet.partial").write_bytes(b"PAR1")
    finished = succeeds(f"toolkit {command} broken", tmp_path)
    assert f", {kept - 1} of them from before\n" in finished.stderr
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_an_interrupted_run_says_how_to_go_on_and_other_work_replaces_it(tmp_path, long_file, rows_file):
    code, stderr = killed_run(tmp_path, "shard long.jsonl --rows-per-shard 500 --out broken", signal.SIGINT)
    assert code == 130
    assert stderr == (
        "error: interrupted\nhint: run the same command again to go on; finished shards are kept in broken\n"
    )
    succeeds("toolkit shard rows.jsonl --out broken -q", tmp_path)
    assert sorted(contents(tmp_path / "broken")) == ["manifest.json", "part-00000.parquet"]


def test_ctrl_c_ends_a_silent_pipe(tmp_path):
    os.mkfifo(tmp_path / "silent")
    command = [toolkit_path(), "shard", "silent", "--out", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "out").exists)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "error: interrupted" in stderr
    assert not (tmp_path / "out").exists()


def test_it_starts_without_anything_heavy(tmp_path, rows_file):
    script = (
        "import sys; from pyllm.cli.app import main; code = main(['shard', 'rows.jsonl', '--out', 'out', '-q']);"
        "heavy = {'polars', 'numpy', 'torch', 'pyarrow', 'zstandard', 'rich'} & set(sys.modules);"
        "sys.exit(code or ', '.join(heavy) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_help_ends_with_examples(tmp_path):
    text = bash("toolkit shard --help", cwd=tmp_path).text
    assert text.rstrip().splitlines()[-1].strip().startswith("toolkit shard")
    assert "100000" in text
