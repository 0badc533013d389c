"""`toolkit pack` as a user meets it: real processes and real pipes."""

import hashlib
import json
import signal
import subprocess
import time

import polars as pl
import pytest

from pyllm.data.reading import read_examples
from tests.support.shell import bash, environment, toolkit_path
from tests.support.slow_packer import byte_level_bpe, packed_rows
from tests.support.tiny_models import tiny_tokenizer, write_jsonl

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PACK = "toolkit pack rows.jsonl --tokenizer tokenizer.json --length 64 --out out"


@pytest.fixture
def rows(tmp_path):
    made = [
        {
            "instruction": f"Say {row} times {row % 7}.",
            "input": "loudly" if row % 3 else "",
            "output": "word " * (row % 9),
        }
        for row in range(300)
    ]
    byte_level_bpe([row["instruction"] + row["output"] for row in made], 300).save(str(tmp_path / "tokenizer.json"))
    return write_jsonl(tmp_path / "rows.jsonl", made)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_packed_and_reported(tmp_path, rows):
    finished = bash(f"{PACK} --report report.json", cwd=tmp_path)
    assert (finished.code, finished.stdout) == (0, b""), finished.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads((tmp_path / "report.json").read_text()) == manifest
    assert manifest["rows"]["in"] == 300
    assert manifest["rows"]["packed"] == 266
    assert manifest["rows"]["without_answer"]["rows"] == 34
    ids = set(read_examples(rows).table["id"])
    found = packed_rows(tmp_path / "out")
    assert len(found) == 266
    assert {name for name, _, _ in found} <= ids
    assert manifest["tokens"] == sum(len(each) for _, each, _ in found)
    assert manifest["fill_rate"] == manifest["tokens"] / (64 * manifest["packed_rows"])
    for part in manifest["parts"]:
        data = (tmp_path / "out" / part["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    assert "packed 266 of 300 rows" in finished.stderr
    assert "34 left out, without an answer: rows.jsonl: row 0; rows.jsonl: row 9;" in finished.stderr


def test_threads_do_not_show_in_the_files(tmp_path, rows):
    more = "--window 50 --rows-per-shard 10 --compression lz4 -q"
    script = f"{PACK}1 {more} --threads 1; {PACK}2 {more} --threads 2"
    finished = bash(script, cwd=tmp_path)
    assert (finished.code, finished.stderr) == (0, "")
    assert files(tmp_path / "out1") == files(tmp_path / "out2")
    heights = [pl.read_parquet(path).height for path in sorted((tmp_path / "out1").glob("part-*"))]
    assert heights[:-1] == [10] * (len(heights) - 1)


def test_a_pipe_a_table_and_shards_hold_the_same_rows(tmp_path, rows):
    read_examples(rows).table.write_parquet(tmp_path / "foreign.parquet")
    script = f"""
    {PACK} -q
    toolkit shard rows.jsonl --out shards --rows-per-shard 70 -q
    toolkit pack - --tokenizer tokenizer.json --length 64 --out piped -q < rows.jsonl
    toolkit pack shards --tokenizer tokenizer.json --length 64 --out sharded -q
    toolkit pack shards/part-*.parquet --tokenizer tokenizer.json --length 64 --out listed -q
    toolkit pack foreign.parquet --tokenizer tokenizer.json --length 64 --out foreign -q
    """
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    wanted = packed_rows(tmp_path / "out")
    for name in ("piped", "sharded", "listed", "foreign"):
        assert packed_rows(tmp_path / name) == wanted, name
    inputs = json.loads((tmp_path / "sharded" / "manifest.json").read_text())["inputs"]
    assert [each["rows"] for each in inputs] == [70, 70, 70, 70, 20]


def test_online_packing_keeps_every_row(tmp_path, rows):
    finished = bash(f"{PACK} --online 8 --window 20; {PACK}2", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert sorted(packed_rows(tmp_path / "out")) == sorted(packed_rows(tmp_path / "out2"))


@pytest.mark.parametrize(("choice", "kind"), [("truncate", "truncated"), ("drop", "too_long")])
def test_rows_longer_than_the_length(tmp_path, rows, choice, kind):
    assert bash(f"{PACK} --length 200 -q", cwd=tmp_path).code == 0
    whole = {name: len(ids) for name, ids, _ in packed_rows(tmp_path / "out")}
    length = max(whole.values()) - 4
    finished = bash(f"{PACK}2 --length {length} --too-long {choice} -q", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    found = {name: len(ids) for name, ids, _ in packed_rows(tmp_path / "out2")}
    long = {name for name, tokens in whole.items() if tokens > length}
    manifest = json.loads((tmp_path / "out2" / "manifest.json").read_text())
    assert manifest["rows"][kind]["rows"] == len(long) > 0
    wanted = {name: min(tokens, length) for name, tokens in whole.items() if choice == "truncate" or name not in long}
    assert found == wanted


def test_a_row_too_long_is_an_error_on_request(tmp_path, rows):
    finished = bash(f"{PACK} --length 20 --too-long error", cwd=tmp_path)
    assert finished.code == 3
    assert "rows.jsonl: row" in finished.stderr
    assert "more than the length 20" in finished.stderr
    assert not (tmp_path / "out").exists()


def test_chat_rows_are_those_of_the_template(tmp_path, warm):
    tokenizer = tiny_tokenizer(chat_template=CHATML)
    tokenizer.save_pretrained(tmp_path / "model")
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Sum?"), ("assistant", "3")]
    messages = [{"role": role, "content": content} for role, content in turns]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": messages}])
    words = "pack chats.jsonl --tokenizer model --length 256 --template chat --out out"
    finished = bash(f"toolkit {words}", cwd=tmp_path, warm=warm)
    assert finished.code == 0, finished.stderr
    ((_, ids, labels),) = packed_rows(tmp_path / "out")
    assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    trained = [token for token in labels if token != -100]
    assert tokenizer.decode(trained) == "Hello<|im_end|>\n3<|im_end|>\n"


def test_the_shipped_tokenizer_is_found_by_name(tmp_path, rows):
    finished = bash("toolkit pack rows.jsonl --tokenizer nano --length 64 --out out", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert "plain way" not in finished.stderr


def test_the_same_work_is_not_done_again_and_other_work_is_refused(tmp_path, rows):
    script = f"{PACK} -q; touch -d 2001-01-01 out/*; {PACK}"
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert "holds the result of this work already" in finished.stderr
    assert all(path.stat().st_mtime < 1e9 for path in (tmp_path / "out").iterdir())
    before = files(tmp_path / "out")
    finished = bash(f"{PACK} --length 63", cwd=tmp_path)
    assert finished.code == 2
    assert "holds the result of other inputs or settings" in finished.stderr
    assert files(tmp_path / "out") == before


def test_files_of_others_are_not_overwritten(tmp_path, rows):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00007.parquet").write_bytes(b"mine")
    finished = bash(PACK, cwd=tmp_path)
    assert finished.code == 2
    assert files(tmp_path / "out") == {"part-00007.parquet": b"mine"}


def test_after_a_kill_the_same_command_starts_over(tmp_path, rows):
    big = tmp_path / "big.jsonl"
    big.write_text(rows.read_text() * 30)
    command = [toolkit_path(), "pack", "big.jsonl", "--tokenizer", "tokenizer.json", "--length", "64", "--out", "out"]
    command += ["--rows-per-shard", "100", "--window", "1000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".part-0000*.partial")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / "out" / "manifest.json").exists():
        assert list((tmp_path / "out").iterdir())
    finished = bash(" ".join(["toolkit", *command[1:], "-q"]), cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    fresh = bash(" ".join(["toolkit", *command[1:], "-q"]).replace("--out out", "--out fresh"), cwd=tmp_path)
    assert fresh.code == 0, fresh.stderr
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_a_full_disk_leaves_nothing(tmp_path, rows):
    big = tmp_path / "big.jsonl"
    big.write_text(rows.read_text() * 20)
    command = PACK.replace("rows.jsonl", "big.jsonl") + " --compression none"
    finished = bash(f"ulimit -f 64; {command}", cwd=tmp_path)
    assert finished.code == 4, finished.stderr
    assert "cannot write out/" in finished.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("--length 1", 2, "length"),
        ("--too-long never", 2, "too-long"),
        ("--compression zip", 2, "compression"),
        ("--template chat", 4, "no chat template"),
        ("--tokenizer nowhere/at-all/x", 4, "does not exist"),
        ("--tokenizer rows.jsonl", 4, "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, rows, change, code, message):
    finished = bash(f"{PACK} {change}", cwd=tmp_path)
    assert finished.code == code, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b'{"output": "no question"}\n', "row 0"), (b"PAR1 torn", "Parquet")],
)
def test_data_that_is_wrong_is_refused(tmp_path, rows, content, message):
    rows.write_bytes(content)
    finished = bash(PACK, cwd=tmp_path)
    assert finished.code == 3, finished.stderr
    assert message.lower() in finished.stderr.lower()
    assert not (tmp_path / "out").exists()


def test_help_ends_with_examples(tmp_path):
    finished = bash("toolkit pack --help", cwd=tmp_path)
    assert finished.code == 0
    assert "  toolkit shard train.jsonl --out shards" in finished.text
    assert finished.text.rstrip().splitlines()[-1].strip().startswith("toolkit ")
