"""`toolkit stream chat`: lines in a pipe, a person at a terminal, sessions that are killed, and what is refused."""

import io
import json
import os
import re
import signal
import subprocess
import time

import pytest
import torch

from pyllm.cli._chat_terminal import Talk
from pyllm.cli._console import open_console
from pyllm.cli._stream_options import PresetName, chat_budget
from pyllm.cli.app import main
from pyllm.errors import SettingError
from pyllm.lm.loading import load_tokenizer
from pyllm.lm.sources import find_model
from pyllm.stream.chat import Answer, Chat
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.model import load_stream_model
from pyllm.stream.session import Session
from pyllm.stream.settings import LIVE_SPAN_AFTER, Budget, StreamSettings
from tests.support.shell import bash, environment, in_terminal, toolkit_path
from tests.support.tiny_models import save_tiny_model

SMALL = ["--cache", "64", "--sinks", "2", "--recent", "8", "--max-new-tokens", "20"]
QUESTIONS = [f"question number {number}" for number in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def talk(model, monkeypatch, capfdbinary):
    """Runs the command in this process on lines of stdin; exit code, lines of stdout, stderr."""

    def run(lines, *words):
        data = "".join(f"{json.dumps({'content': line})}\n" for line in lines).encode() if lines else b""
        return run_bytes(data, *words)

    def run_bytes(data, *words):
        stdin = io.TextIOWrapper(io.BytesIO(data))
        monkeypatch.setattr("sys.stdin", stdin)
        code = main(["stream", "chat", "--model", model, *SMALL, *map(str, words)])
        out, shown = capfdbinary.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], shown.decode()

    run.bytes = run_bytes
    return run


def in_process(model, **sampling):
    """The library's own conversation with the settings of `SMALL`."""
    source = find_model(model)
    loaded = load_stream_model(source, device=torch.device("cpu"), dtype=torch.float32)
    settings = StreamSettings(budget=Budget(2, 54, 8), span_after=LIVE_SPAN_AFTER)
    return Chat(loaded, settings, Voice(load_tokenizer(source), loaded), Sampling(**{"max_new_tokens": 20, **sampling}))


def test_a_line_in_and_a_line_out(talk, model):
    code, rows, _ = talk(QUESTIONS)
    assert code == 0
    chat = in_process(model)
    answers = [chat.ask(question) for question in QUESTIONS]
    assert rows == [{"content": answer.text, "cache_tokens": answer.cache_tokens} for answer in answers]
    assert max(row["cache_tokens"] for row in rows) <= 64
    assert chat.dialogue.memory.evictions > 3


def test_seeds_repeat(talk):
    warm = ["--temperature", "1", "--top-p", "0.9"]
    _, rows, _ = talk(QUESTIONS, *warm, "--seed", 1)
    assert talk(QUESTIONS, *warm, "--seed", 1)[1] == rows
    assert talk(QUESTIONS, *warm, "--seed", 2)[1] != rows


@pytest.mark.parametrize(
    "words",
    [
        ["--policy", "streaming"],
        ["--policy", "h2o", "--evict-block", "1"],
        ["--policy", "random", "--seed", "4", "--span-after", "3"],
        ["--positions", "rebase", "--decay", "0.8"],
        ["--system", "Be brief.", "--dtype", "bfloat16"],
        ["--score", "as-published", "--compat", "reference", "--ties", "newer", "--decay", "0.7"],
        ["--first-token", "max", "--policy", "interval-literal"],
    ],
    ids=" ".join,
)
def test_a_session_goes_on_as_if_it_had_not_ended(talk, tmp_path, words):
    words = [*words, "--temperature", "1"]
    _, whole, _ = talk(QUESTIONS, *words)
    rows = []
    for part in (QUESTIONS[:1], QUESTIONS[1:4], QUESTIONS[4:]):
        code, more, _ = talk(part, *words, "--session", tmp_path / "talk")
        assert code == 0
        rows += more
    assert rows == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello\n", "standard input: line 2 is no JSON: "),
        (b'{"content": "x\n', "standard input: line 2 is no JSON: "),
        (b'{"content": "\xff"}\n', "standard input: line 2 is no JSON: "),
        (b'["content"]\n', "standard input: line 2 is no JSON object"),
        (b'{"text": "x"}\n', "standard input: line 2 has a field `text` that is not known"),
        (b'{"content": "x", "role": "system"}\n', "standard input: line 2 has a field `role` that is not known"),
        (b"{}\n", "standard input: line 2 has no text as its `content`"),
        (b'{"content": 5}\n', "standard input: line 2 has no text as its `content`"),
        (b'{"content": ""}\n', "standard input: line 2 has no text as its `content`"),
        (b'{"content": "\\ud800"}\n', "standard input: line 2: `content` holds half a character"),
    ],
)
def test_bad_lines_are_named(talk, line, message):
    code, rows, shown = talk.bytes(b'{"content": "Hi"}\n' + line + b'{"content": "Bye"}\n')
    assert code == 3
    assert message in shown
    assert len(rows) == 1


def test_empty_input_and_empty_lines(talk):
    assert talk([])[:2] == (0, [])
    code, rows, _ = talk.bytes(b'\n  \n{"content": "Hi"}')
    assert code == 0
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--cache", "30", "--sinks", "20", "--recent", "11"], 2, "a cache of 30 tokens cannot hold 20 sinks and 11"),
        (["--entropy-tokens", "9"], 2, "`--cache 64` is not the 19 of sinks (2), entropy tokens (9) and recent (8)"),
        (["--top-p", "0"], 2, "top-p is 0.0"),
        (["--temperature", "-1"], 2, "invalid value for '--temperature'"),
        (["--policy", "newest"], 2, "policy `newest` is unknown"),
        (["--template", "chat"], 4, "has no chat template"),
        (["--system", "x" * 80], 2, "a system text of 82 tokens leaves no room in a cache of 64"),
        (["--device", "tpu"], 2, "device `tpu` is unknown"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_wrong_settings(talk, words, code, message):
    got, rows, shown = talk(["Hi"], *words)
    assert (got, rows) == (code, [])
    assert message in shown


def test_the_parts_of_a_cache():
    assert chat_budget(None, None, None, None) == Budget(4, 988, 32)
    assert chat_budget(100, None, None, None) == Budget(4, 64, 32)
    assert chat_budget(100, 0, None, 100) == Budget(0, 0, 100)
    assert chat_budget(None, 1, 2, 3) == Budget(1, 2, 3)
    assert chat_budget(6, 1, 2, 3) == Budget(1, 2, 3)
    with pytest.raises(SettingError):
        chat_budget(7, 1, 2, 3)
    assert chat_budget(None, None, None, None, preset=PresetName.DAILYDIALOG) == Budget(4, 508, 0)
    assert chat_budget(100, None, None, 10, preset=PresetName.DAILYDIALOG) == Budget(4, 86, 10)


def test_sessions_of_something_else(talk, tmp_path):
    folder = tmp_path / "talk"
    assert talk(["Hi"], "--session", folder)[0] == 0
    for words, message in [
        (["--decay", "0.5"], "settings.decay: 1.0 there, 0.5 here"),
        (["--cache", "65"], "settings.budget.entropy: 54 there, 55 here"),
        (["--dtype", "bfloat16"], "dtype: float32 there, bfloat16 here"),
        (["--model", "nano"], "model.config_sha256: "),
        (["--system", "Be brief."], "was begun with another system text"),
    ]:
        code, rows, shown = talk(["Hi"], "--session", folder, *words)
        assert (code, rows) == (2, [])
        assert message in shown
    # How answers are chosen may change.
    assert talk(["Hi"], "--session", folder, "--seed", "3", "--temperature", "1", "--evict-block", "4")[0] == 0
    (folder / "session.json").write_text("{}")
    code, _, shown = talk(["Hi"], "--session", folder)
    assert code == 3
    assert "session.json was changed after it was written" in shown


def test_a_killed_process_loses_the_running_turn_only(talk, model, tmp_path, warm):
    _, whole, _ = talk(QUESTIONS)
    words = [toolkit_path(), "stream", "chat", "--model", model, *SMALL, "--session", str(tmp_path / "talk")]
    process = warm.popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    lines = "".join(f"{json.dumps({'content': question})}\n" for question in QUESTIONS)
    # Far more questions than it comes to answer: it is killed at work.
    process.stdin.write((lines * 20).encode())
    process.stdin.flush()
    rows = [json.loads(process.stdout.readline()) for _ in range(2)]
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    rows += [json.loads(line) for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdin.close()
    process.stdout.close()
    answered = [json.loads(line) for line in (tmp_path / "talk" / "turns.jsonl").read_text().splitlines()]
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(rows) <= len(answered) <= len(rows) + 1
    # It goes on as if nothing had been: the same turns in one run answer the same.
    questions = (QUESTIONS * 20)[: len(rows) + 10]
    _, expected, _ = talk(questions)
    assert rows == expected[: len(rows)]
    code, more, _ = talk(["late"], "--session", tmp_path / "talk")
    kept = [json.loads(line)["question"] for line in (tmp_path / "talk" / "turns.jsonl").read_text().splitlines()]
    assert code == 0
    assert kept[:-1] == questions[: len(kept) - 1]
    assert len(rows) <= len(kept) - 1 <= len(rows) + 1
    assert talk([*kept[:-1], "late"])[1][-1] == more[0]
    assert whole[:2] == rows[:2]


def test_a_reader_that_leaves(model, tmp_path, warm):
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"content": "Hi"}\n' * 200)
    words = " ".join(SMALL)
    finished = bash(
        f"set +o pipefail; toolkit stream chat --model {model} {words} < {lines} | head -n 1; echo ${{PIPESTATUS[0]}}",
        cwd=tmp_path,
        warm=warm,
    )
    row, code = finished.text.splitlines()
    assert list(json.loads(row)) == ["content", "cache_tokens"]
    assert code == "141"


def typed(model, tmp_path, keys, *words, **more):
    command = [toolkit_path(), "stream", "chat", "--model", model, *SMALL, *words]
    finished = in_terminal(command, cwd=tmp_path, keys=keys, after=b"> ", env={"NO_COLOR": "1"}, **more)
    return finished.code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", finished.text)


def test_at_a_terminal(model, tmp_path, warm):
    lines = [
        "question number 0", "/memory", "question number 1", "question number 2", "/why", "/pin 3 @0", "/memory",
        "/forget @0-1 3", "/pin off", "/policy", "/nope", "/pin x", "/pin 9", "/forget", "/save", "/save talk",
        "/load none", "/load talk", "/save", " /why not", "/help", "/quit",
    ]  # fmt: skip
    code, text = typed(model, tmp_path, "".join(f"{line}\n" for line in lines).encode(), warm=warm)
    assert code == 0
    chat = in_process(model)
    for number in range(3):
        answer = chat.ask(f"question number {number}")
        held = f"{answer.cache_tokens} of {chat.seen_tokens} tokens held, cut at its most tokens]"
        assert f"[turn {number + 1}: {held}" in text
    gone = len(chat.past.gone)
    last = chat.past.last_gone(1)[0]
    assert f"the last {gone} that went" in text
    assert re.search(rf"{last.position} +{last.turn} +{last.nats:.2f}", text)
    top = chat.past.most_surprising(1)[0]
    assert re.search(rf"{top.position} +{top.turn} +{top.nats:.2f}", text)
    pinned = chat.pin([0, *chat.past.positions_of(3)])
    assert f"{pinned} of these tokens are held, and pinned now" in text
    lost = chat.forget([0, 1, *chat.past.positions_of(3)])
    assert f"{lost} of these tokens were held, and are gone now" in text
    for said in (
        "nothing is pinned now",
        "budget     2 sinks, 54 for their score, 8 recent",
        "error: command `/nope` is unknown",
        "error: `x` is no turn and no position",
        "error: there is no turn 9: there were 3",
        "error: /forget what?",
        "error: there is no folder to save in",
        "saved in talk, and from now on after every turn",
        "error: folder `none` holds no session",
        "error: session `talk` is the one that is open here",
        "everything up to turn 3 is in talk",
        "[turn 4: ",
        "so does Ctrl-D",
    ):
        assert said in text
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "talk" / "turns.jsonl").read_text().splitlines()]
    assert kinds == ["turn", "turn", "turn", "pin", "forget", "unpin", "turn"]


def test_another_conversation_is_loaded_or_nothing_changes(model, tmp_path, monkeypatch, capfd):
    chat = in_process(model)
    for number in range(3):
        chat.ask(f"question number {number}")
    with Session(tmp_path / "talk", {"made": "so"}) as session:
        chat.save_to(session)
    chat.session = None
    expected = chat.ask("and now?")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    lines = iter(["hello", "/load", "/load notes", "/save notes", "/save talk", "/load talk", "and now?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    made = in_process(model)

    def start(opened, _system):
        dialogue = made.dialogue
        return Chat(dialogue.model, dialogue.settings, made.voice, Sampling(max_new_tokens=20), session=opened)

    talk = Talk(
        made,
        open_session=lambda folder: Session(folder, {"made": "so"}),
        start=start,
        facts={"model": "tiny"},
        console=open_console(),
    )
    talk.run()
    out, shown = capfd.readouterr()
    assert "error: there is no folder to load from" in shown
    assert "error: folder `notes` holds no session" in shown
    assert "error: folder `notes` is no session: it holds `mine.txt`" in shown
    assert "error: session `talk` holds a dialogue already" in shown
    assert made.turns == 1
    assert "going on behind turn 3 of talk" in out
    assert f"[turn 4: {expected.cache_tokens} of {chat.seen_tokens} tokens held" in shown
    records = [json.loads(line) for line in (tmp_path / "talk" / "turns.jsonl").read_text().splitlines()]
    assert [record["question"] for record in records][3:] == ["and now?"]
    assert records[3]["answer"] == expected.text


def test_another_policy_from_now_on(model, tmp_path, monkeypatch, capfd):
    """A session goes on with the rule it was switched to, to the bit."""

    def talk(session, *lines):
        typed_lines = iter([*lines, "/quit"])
        monkeypatch.setattr("builtins.input", lambda _prompt: next(typed_lines))
        made = in_process(model)

        def start(opened, _system):
            dialogue = made.dialogue
            return Chat(dialogue.model, settings, made.voice, Sampling(max_new_tokens=20), session=opened)

        settings = made.dialogue.settings
        chat = start(session, None)
        Talk(chat, open_session=Session, start=start, facts={"model": "tiny"}, console=open_console()).run()
        return chat

    switches = ["/policy streaming decay=0.5", "/policy span-after=3 decay=0.8", "/policy h2o cache=40 sinks=1"]
    lines = [each for number, question in enumerate(QUESTIONS) for each in [question, *switches[number : number + 1]]]
    whole = talk(None, *lines)
    for number in range(6):
        with Session(tmp_path / "talk", {"made": "so"}) as session:
            part = (
                talk(session, *lines[2 * number : 2 * number + 2]) if number < 3 else talk(session, lines[number + 3])
            )
    assert part.turns == 6
    assert part.past.records[-1] == whole.past.records[-1]
    left, right = part.dialogue.state(), whole.dialogue.state()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert part.dialogue.settings == whole.dialogue.settings
    assert (part.dialogue.settings.policy, part.dialogue.settings.budget) == ("h2o", Budget(1, 31, 8))
    out, _ = capfd.readouterr()
    assert "policy     streaming, 64 tokens" in out
    assert "budget     1 sinks, 31 for their score, 8 recent" in out

    wrong = ["newest", "sirllm recent", "decay=2", "cache=x", "ties=old", "recent=90"]
    right = ["cache=3000", "horizon-turns=4", "decay=auto", "decay=0.5"]
    talk(None, "hello", *(f"/policy {words}" for words in [*wrong, *right]))
    out, shown = capfd.readouterr()
    for message in (
        "error: policy `newest` is unknown",
        "error: `recent` is nothing to switch",
        "error: decay is 2.0: it must be from 0 to 1",
        "error: cache is `x`: it must be a number",
        "error: ties is old: it must be newer or older",
        "error: a cache of 64 tokens cannot hold 2 sinks and 90 recent tokens",
        "warning: a cache of 3,000 tokens is larger than the",
    ):
        assert message in shown
    assert "decay      auto, for a horizon of 4 turns" in out
    assert "decay      auto, for a horizon of 20 turns" in out
    assert out.rstrip().endswith("model      tiny")
    assert "decay      0.5 a turn" in out


def test_control_c_stops_the_answer_and_not_the_program(model, tmp_path, warm):
    begins = in_process(model).ask("Tell me").text[:4]
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in begins)
    code, text = typed(
        model,
        tmp_path,
        b"Tell me\n",
        "--max-new-tokens",
        "1000000",
        then=[(shown.replace("\n", "\r\n").encode(), b"\x03"), (b", stopped]", b"/memory\n/quit\n")],
        warm=warm,
    )
    assert code == 0
    assert re.search(r"\[turn 1: \d+ of \d+ tokens held, stopped\]", text)
    assert re.search(r"of \d+ tokens are held \(sirllm, 64 tokens\)", text)


def test_control_c_and_control_d_at_the_prompt(model, monkeypatch, capfd):
    # In this process: a Ctrl-C that comes just before readline waits is heeded only with the next line.
    keys = iter([KeyboardInterrupt, "question number 0", "  ", EOFError])

    def typed_next(_prompt):
        key = next(keys)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", typed_next)
    chat = in_process(model)
    Talk(chat, open_session=Session, start=Chat, facts={"model": "tiny"}, console=open_console()).run()
    assert chat.turns == 1
    assert next(keys, None) is None
    assert "hint: Ctrl-D or /quit leaves" in capfd.readouterr().err


def test_what_a_model_says_cannot_steer_the_terminal(model, monkeypatch, capfd):
    lines = iter(["Hi", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    chat = in_process(model)

    def ask(text, *, show, stopped):
        show("a\x1b[2Jb\x9b\tc\n")
        return Answer("a\x1b[2Jb\x9b\tc\n", (5,), "end", 1)

    monkeypatch.setattr(chat, "ask", ask)
    Talk(chat, open_session=Session, start=Chat, facts={"model": "tiny"}, console=open_console(quiet=True)).run()
    assert capfd.readouterr().out == "a\ufffd[2Jb\ufffd\tc\n"
