"""`toolkit stream serve`: a real server that is killed and goes on, how it ends, and what it refuses to be."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import httpx2
import openai
import pytest

from pyllm.cli.app import main
from pyllm.stream.reading import read_alone
from pyllm.stream.serving.server import is_loopback
from pyllm.stream.serving.worker import mixed_seed
from tests.support.serving import USUAL, events_of, load
from tests.support.shell import environment, toolkit_path
from tests.support.tiny_models import save_tiny_model

KEY = "a-secret-key"
SMALL = ["--cache", "64", "--sinks", "2", "--recent", "8", "--span-after", "0", "--max-new-tokens", "12", "--seed", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@contextmanager
def serving(model, folder, start):
    """A real server on a free port; its process, and a client that has the key."""
    command = [toolkit_path(), "stream", "serve", "--model", str(model), "--port", "0", *SMALL]
    command += ["--conversations", str(folder), "--api-key-env", "TINY_KEY"]
    process = start(command, cwd=folder.parent, stderr=subprocess.PIPE, env=environment(TINY_KEY=KEY))
    try:
        lines = []
        for line in map(bytes.decode, process.stderr):
            lines.append(line)
            found = re.search(r"serving `tiny` at (http://127\.0\.0\.1:\d+)/v1", line)
            if found:
                break
        else:
            pytest.fail(f"the server ended: {''.join(lines)}")
        with httpx2.Client(base_url=found[1], headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def said(text, name="talk", **more):
    return {"messages": [{"role": "user", "content": text}], "conversation_id": name, **more}


@pytest.mark.slow
def test_a_killed_server_goes_on_exactly(model, tmp_path, warm):
    questions = [f"question {number}" for number in range(5)]
    sampled = {"temperature": 1.0, "top_p": 0.9}
    got = []

    def ask(client, question):
        done = client.post("/v1/chat/completions", json=said(question, **sampled))
        assert done.status_code == 200, done.text
        got.append(done.json()["choices"][0]["message"]["content"])

    folder = tmp_path / "talks"
    with serving(model, folder, subprocess.Popen) as (process, client):
        for question in questions[:3]:
            ask(client, question)
        long = said("lost in the middle", stream=True, max_tokens=4000)
        with client.stream("POST", "/v1/chat/completions", json=long) as reply:
            parts = reply.iter_bytes()
            next(parts)
            process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx2.HTTPError):
                b"".join(parts)
        assert process.wait(30) == -signal.SIGKILL
    with serving(model, folder, warm.popen) as (process, client):
        for question in questions[3:]:
            ask(client, question)
        loaded = load(model)
        chat = loaded.chat(seed=mixed_seed(3, "conversation talk"))
        sampling = replace(USUAL, **sampled)
        steps = [chat.asking(question, sampling=sampling) for question in questions]
        assert got == [read_alone(each, chat.dialogue.read).text for each in steps]
        records = [json.loads(line) for line in (folder / "talk" / "turns.jsonl").read_text().splitlines()]
        assert [record["question"] for record in records] == questions

        api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="another", max_retries=0)
        with api, pytest.raises(openai.AuthenticationError):
            api.models.list()
        # What has begun when the end is asked for may end.
        with client.stream("POST", "/v1/chat/completions", json=said("the last", stream=True, max_tokens=40)) as reply:
            parts = reply.iter_bytes()
            first = next(parts)
            process.send_signal(signal.SIGTERM)
            events = events_of((first + b"".join(parts)).decode())
        assert events[-1] == "[DONE]"
        shown = process.stderr.read().decode()
        assert process.wait(30) == 143
    assert "ending: answers that have begun have 10 seconds" in shown
    assert "error: terminated\nhint: every finished turn is saved; the same command goes on" in shown
    assert KEY not in shown
    assert "question" not in shown
    assert len((folder / "talk" / "turns.jsonl").read_text().splitlines()) == 6


@pytest.fixture
def start(model, monkeypatch, capfd):
    """Runs the command in this process, which it must not come to serve in; exit code and stderr."""
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("SPACED", "two words")

    def run(*words):
        code = main(["stream", "serve", "--model", str(model), *words])
        out, shown = capfd.readouterr()
        assert out == ""
        return code, shown

    return run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "others can reach `0.0.0.0`, and no API key is asked for"),
        (["--host", "::"], 2, "others can reach `::`, and no API key is asked for"),
        (["--host", "no.such.host.invalid"], 4, "cannot listen on `no.such.host.invalid`, port 0"),
        (["--api-key-env", "NOT_SET"], 2, "environment variable `NOT_SET` holds no API key"),
        (["--api-key-env", "EMPTY"], 2, "environment variable `EMPTY` holds no API key"),
        (["--api-key-env", "SPACED"], 2, "the API key has characters that a header cannot carry"),
        (["--batch", "4", "--max-conversations", "3"], 2, "3 conversations in memory are fewer than the 4"),
        (["--max-new-tokens", "9", "--max-tokens", "8"], 2, "answers of 9 tokens are longer than the 8"),
        (["--top-p", "0"], 2, "top-p is 0.0"),
        (["--temperature", "3"], 2, "invalid value for '--temperature'"),
        (["--policy", "newest"], 2, "policy `newest` is unknown"),
        (["--cache", "9"], 2, "a cache of 9 tokens cannot hold 2 sinks and 8 recent tokens"),
        (["--model", "no/such"], 4, "no/such"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_it_refuses_to_be(start, words, code, message):
    ended, shown = start("--port", "0", *SMALL, *words)
    assert ended == code
    assert message in shown
    assert "two words" not in shown


def test_a_port_that_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, shown = start("--port", port)
    assert code == 4
    assert f"cannot listen on `127.0.0.1`, port {port}: address already in use" in shown


def test_a_folder_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").touch()
    code, shown = start("--port", "0", "--conversations", str(tmp_path / "file"))
    assert code == 4
    assert "cannot be written" in shown


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_extra(start, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, shown = start("--port", "0")
    assert code == 4
    assert f"needs the package {package}" in shown
    assert "pip install 'pyllm[serve]'" in shown


def test_which_addresses_are_of_this_machine_alone():
    for address in ("127.0.0.1", "127.8.0.1", "::1"):
        assert is_loopback(address)
    for address in ("0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "8.8.8.8"):
        assert not is_loopback(address)
    assert os.environ.get("TINY_KEY") is None
