"""`toolkit generate` and `toolkit judge` killed at any moment: nothing is lost, and nothing stored is asked again."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_endpoint import FakeEndpoint, Reply, fake_endpoint
from tests.support.shell import environment, toolkit_path

_PROMPTS = 12
_WAIT_SECONDS = 0.03


def prompts(path: Path) -> None:
    rows = [{"prompt_id": f"p{place}", "turns": [f"Q{place}?", f"And {place}?"]} for place in range(_PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def script(_: int, prompt: str, __: dict[str, Any]) -> Reply:
    said = f"[[{'A' if 'says' in prompt else 7}]]" if "double brackets" in prompt else f"says {len(prompt)}"
    return Reply(text=said, wait_seconds=_WAIT_SECONDS, usage={"prompt_tokens": 5, "completion_tokens": 2})


def last_of(prompt: Any) -> Any:
    return prompt["messages"][-1]["content"], len(prompt["messages"])


def finished(folder: Path, words: list[str]) -> int:
    return start(folder, words).wait(timeout=90)


def start(folder: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [toolkit_path(), *words, "-q"], cwd=folder, env=environment(PYLLM_CACHE=str(folder / "cache")),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def kill_often(folder: Path, words: list[str], server: FakeEndpoint, *, kills: int) -> list[tuple[Any, int]]:
    """Kill a command again and again, each time after a few more answers; what was asked in all, and how often."""
    generator = random.Random(kills)
    ended = 0
    for _ in range(kills):
        before = len(server.asked)
        process = start(folder, words)
        until = time.monotonic() + 60
        wanted = before + generator.randrange(1, 4)
        while process.poll() is None and len(server.asked) < wanted and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 2 * _WAIT_SECONDS))
        process.send_signal(signal.SIGKILL)
        ended += process.wait() == 0
    assert ended < kills / 2, "the work is too short for so many kills"
    assert finished(folder, words) == 0
    return list(Counter(map(last_of, server.asked)).items())


def check(folder: Path, words: list[str], out: str, *, kills: int) -> None:
    with fake_endpoint(script) as server:
        where = ["--concurrency", "2", server.url]
        killed = [*words, *where[:2], "--out", f"killed-{out}"]
        asked = kill_often(folder, _at(killed, server.url), server, kills=kills)
        # At most what was under way at a kill, two calls, is asked again.
        assert sum(times - 1 for _, times in asked) <= 2 * kills
        before = len(server.asked)
        assert finished(folder, _at([*killed[:-1], f"again-{out}"], server.url)) == 0
        assert len(server.asked) == before
        assert finished(folder, _at([*killed[:-1], f"whole-{out}", "--run", f"run-{out}"], server.url)) == 0
    whole = (folder / f"whole-{out}").read_bytes()
    assert (folder / f"killed-{out}").read_bytes() == whole
    assert (folder / f"again-{out}").read_bytes() == whole


def _at(words: list[str], url: str) -> list[str]:
    option = "--judge-endpoint" if words[0] == "judge" else "--endpoint"
    return [*words, option, url]


def answers(folder: Path) -> None:
    rows = [{"prompt_id": f"p{place}", "prompt": f"Q{place}?", "turn": 1, "repeat": 0, "answer": f"says {place}",
             "model": "m"} for place in range(_PROMPTS)]  # fmt: skip
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.jsonl").write_text(
        "".join(json.dumps({**row, "answer": "other", "model": "n"}) + "\n" for row in rows)
    )


COMMANDS = {
    "generate": ["generate", "prompts.jsonl", "--model", "m"],
    "grade": ["judge", "grade", "a.jsonl", "b.jsonl", "--judge", "j"],
    "pair": ["judge", "pair", "a.jsonl", "b.jsonl", "--judge", "j"],
}


@pytest.mark.parametrize("command", ["generate", "pair"])
def test_two_kills(tmp_path: Path, command: str) -> None:
    prompts(tmp_path / "prompts.jsonl")
    answers(tmp_path)
    check(tmp_path, COMMANDS[command], "t.parquet", kills=2)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", list(COMMANDS))
def test_ten_random_kills(tmp_path: Path, command: str) -> None:
    prompts(tmp_path / "prompts.jsonl")
    answers(tmp_path)
    check(tmp_path, COMMANDS[command], "t.parquet", kills=10)
