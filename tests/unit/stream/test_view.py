"""A history on one page: it says what happened, holds what it was given, and runs nothing but its own script."""

import base64
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from pyllm.errors import InputError, SettingError
from pyllm.stream.chat import Chat
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.log import SessionLog
from pyllm.stream.replay import replay
from pyllm.stream.settings import Budget, StreamSettings
from pyllm.stream.turns import Turn
from pyllm.stream.view.history import Gone, History, Rule, history_of_session, history_of_trace
from pyllm.stream.view.page import page_of
from tests.support.stream_models import streaming
from tests.support.tiny_models import tiny_tokenizer

SMALL = StreamSettings(budget=Budget(2, 40, 10), decay=0.9)
HOSTILE = [
    "</script><script>document.body.id='evil'</script>", "<!--", "]]>", "<img src=x onerror=alert(1)>",
    "\x00\x07\x1b[31m", "\u202eabc\u2028\u2029", "\ud800", "&lt;b&gt;", "{{data}}", "日本", "", "\u200b\ufeff",
    "`${1}`", '"\\', "\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return streaming("llama")


@pytest.fixture(scope="module")
def talked(model):
    """A conversation with everything in it, its log, and what was held and worth what behind every turn."""
    chat = Chat(model, SMALL, Voice(tiny_tokenizer(), model), Sampling(max_new_tokens=30), block=8, system="Be brief.")
    memory, held, worth = chat.dialogue.memory, [], []
    for number in range(9):
        chat.ask(f"question {number}: 日本 and more, so that something has to go")
        held.append(memory.positions.tolist())
        worth.append(dict(zip(held[-1], np.exp(memory.decayed + memory.log_decay), strict=True)))
        if number == 2:
            chat.pin(held[-1][-4:-2])
        if number == 4:
            chat.unpin()
            worth.append(dict(worth[-1]))
            chat.forget(held[-1][3:6])
            held[-1] = memory.positions.tolist()
            worth.pop()
        if number == 5:
            chat.switch(StreamSettings(policy="streaming", budget=Budget(2, 30, 10), decay=0.9))
    facts = {"facts": {"settings": SMALL.as_dict()}}
    lines = "\n".join(json.dumps(record) for record in chat.past.records)
    return chat, SessionLog(facts, lines.encode()), held, worth


def held_behind(history, turn):
    end = history.ends[turn]
    left = np.array([history.gone[number].turn if number >= 0 else 10**9 for number in history.went])
    return np.flatnonzero(left[:end] > turn).tolist()


def test_a_session_is_told_as_it_was(talked):
    chat, log, held, _ = talked
    history = history_of_session(log, "talk")
    assert len(history.ends) == 9
    assert [held_behind(history, turn) for turn in range(9)] == held
    assert history.nats.tolist() == chat.past.nats
    assert "".join(history.texts).count("日本") == 9
    assert history.pins[0] == (0, True, [(0, len(chat._opening))])
    assert [(turn, on) for turn, on, _ in history.pins] == [(0, True), (2, True), (4, False)]
    assert [rule.policy for rule in history.rules] == ["sirllm", "streaming"]
    assert history.rule_of == [0] * 5 + [1] * 4
    forgotten = [number for number, gone in enumerate(history.gone) if gone.forgotten]
    assert len(forgotten) == 1
    assert np.count_nonzero(history.went == forgotten[0]) == 3
    first, last = history.answers[3]
    assert history.ends[2] < first < last <= history.ends[3]


def test_scores_are_those_that_decided(talked):
    _, log, _, worth = talked
    history = history_of_session(log, "talk")
    by_score = 0
    for number, gone in enumerate(history.gone):
        places = np.flatnonzero(history.went == number)
        if gone.forgotten:
            continue
        assert gone.coming > 0
        if gone.rule == 1:  # `streaming` has no scores
            assert np.isnan(history.worth[places]).all()
            continue
        assert gone.in_nats
        if gone.cut is not None:
            assert (history.worth[places] <= gone.cut * 1.0001).all()
            by_score += len(places)
        for place in places:
            before = worth[gone.turn - 1].get(int(place)) if gone.turn else None
            # Within its turn, or behind the turn's decay, it is that of the turn before times the ratio.
            known = {round(history.nats[place], 3)} if before is None else {round(before, 3), round(before * 0.9, 3)}
            assert min(abs(history.worth[place] - value) for value in known) < 2e-3 * max(1, history.worth[place])
    assert by_score > 50


def test_a_log_without_texts_and_one_of_something_else(talked):
    _, log, held, _ = talked
    records = log.records()
    for record in records:
        record.pop("texts", None)
        record.pop("evictions", None)
    old = SessionLog(log.metadata, "\n".join(map(json.dumps, records)).encode())
    with pytest.raises(SettingError, match="its log holds no texts of tokens"):
        history_of_session(old, "talk")
    history = history_of_session(old, "talk", lambda ids: [str(each) for each in ids])
    assert [held_behind(history, turn) for turn in range(9)] == held
    assert np.isnan(history.worth).all()
    for line, message in [
        (b'{"kind": "turn"}', "its log is not one of `toolkit stream chat`"),
        (b'{"kind": "pin", "positions": []}', "nothing was said yet"),
        (
            log.data.splitlines()[0] + b'\n{"kind": "forget", "gone": [1, 1000]}',
            "in turn 1 tokens go that are not there",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            history_of_session(SessionLog(log.metadata, line), "talk")


@pytest.mark.parametrize("policy", ["sirllm", "window", "full"])
def test_a_trace_is_told_as_it_was(model, policy):
    settings = StreamSettings(policy=policy, budget=Budget(2, 40, 10), decay=0.8)
    random = np.random.default_rng(3)
    lengths = [20, 30, 10, 200, 7, 50, 51, 1, 12]
    turns = [Turn("a", 3 * n, tuple(random.integers(3, 300, length).tolist())) for n, length in enumerate(lengths)]
    dialogue, held, worth = Dialogue(model, settings), [], {}
    for turn in turns:
        dialogue.read_turn(turn.token_ids)
        held.append(dialogue.memory.positions.tolist())
        for each in dialogue.memory.departures if len(dialogue.memory.departures) == 1 else []:
            worth |= {} if each.scores is None else dict(zip(each.positions.tolist(), each.scores, strict=True))
    trace = replay(model, turns, settings).table
    ids = {turn.number: turn.token_ids for turn in turns}
    history = history_of_trace(
        trace, "trace", settings=settings.as_dict(), token_ids=ids, texts_of=lambda some: [f" {each}" for each in some]
    )
    assert [held_behind(history, turn) for turn in range(len(turns))] == held
    assert history.labels == [3 * n for n in range(len(lengths))]
    assert "".join(history.texts).split() == [str(each) for turn in turns for each in turn.token_ids]
    known = np.flatnonzero(~np.isnan(history.worth)).tolist()
    assert (len(known) > 50) == (policy == "sirllm")
    assert np.allclose(history.worth[known], [worth[place] for place in known], rtol=1e-6)
    with pytest.raises(InputError, match="turn 9 has 200 tokens in the trace and 1 among the turns"):
        history_of_trace(trace, "trace", token_ids={**ids, 9: (4,)}, texts_of=lambda some: ["x"] * len(some))
    if policy == "sirllm":
        torn = trace.with_columns(pl.col("cache_tokens_after") - 1)
        with pytest.raises(InputError, match="turn 0 keeps tokens that were not there, or not as many as it says"):
            history_of_trace(torn, "trace")


def made_history(texts, per_turn=5, kept=10):
    """Every turn lets the oldest go."""
    count = len(texts)
    ends = [*range(per_turn, count, per_turn), count]
    history = History(
        name="<i>talk</i> \x1b", nats=np.linspace(0, 9, count), texts=texts, ends=ends,
        labels=list(range(1, len(ends) + 1)), answers=[None] * len(ends), went=np.full(count, -1),
        worth=np.full(count, np.nan), rules=[Rule("streaming", kept, 1, "policy streaming & more")],
        rule_of=[0] * len(ends), notes=[(0, "<b>note</b>")],
    )  # fmt: skip
    for turn, end in enumerate(ends):
        there = np.flatnonzero(history.went[:end] < 0)
        history.take_out(there[: max(0, len(there) - kept)].tolist(), Gone(turn, 0, per_turn))
    return history


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.data, self._into = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._into = dict(attrs).get("id") == "data"

    def handle_data(self, data):
        self.data += data if self._into else ""

    def handle_endtag(self, tag):
        self._into = False


def test_texts_are_held_whole_and_can_end_nothing():
    page = page_of(made_history(HOSTILE * 2))
    elements = Elements(page)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2
    assert not {"img", "i", "b"} & set(tags)
    data = json.loads(elements.data)
    assert data["texts"] == HOSTILE * 2
    assert data["notes"] == [[0, "<b>note</b>"]]
    page.encode()
    assert all(letter >= " " or letter == "\n" for letter in page)
    assert not re.search("[\u2028\u2029\u202e]", page.split("<script>")[0])
    went = np.frombuffer(base64.b64decode(data["went"]), "<i4")
    assert np.count_nonzero(went < 0) == 10


def test_the_page_names_nothing_outside_itself():
    page = page_of(made_history(["a"] * 30))
    for tag, attributes in Elements(page).found:
        assert "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
        assert not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|eval\(", page)
    assert "default-src &#x27;none&#x27;" in page


def test_a_hundred_thousand_tokens_are_a_small_page():
    words = [f" word{number % 5000}" for number in range(100_000)]
    history = made_history(words, per_turn=50, kept=1024)
    begun = time.thread_time()
    page = page_of(history)
    assert len(page) < 5_000_000
    assert time.thread_time() - begun < 5


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Opens a page in a real browser: its elements, what its console said, and what it asked a server for."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here to open the page with")
    folder = tmp_path_factory.mktemp("browser")

    def opened(page, fragment=""):
        (folder / "page.html").write_text(page, encoding="utf-8")
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *words):
                asked.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            command = [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
                f"http://127.0.0.1:{server.server_port}/page.html{fragment}",
            ]  # fmt: skip
            ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
            server.shutdown()
        said = [line for line in ended.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
        return ended.stdout.decode(), said, asked

    return opened


def drawn(dom):
    """Class and text of every token."""
    main = dom.split('<main id="tokens"')[1].split("</main>")[0]
    hidden = r"<section[^>]* hidden.*?</section>"
    return re.findall(r'<span class="(l[^"]*)">(.*?)</span>', re.sub(hidden, "", main, flags=re.DOTALL), re.DOTALL)


def test_a_browser_draws_what_was_held_at_each_turn(browser):
    texts = [f" t{number}" for number in range(30)]
    dom, said, asked = browser(page_of(made_history(texts)), "#turn=4&token=2")
    assert (said, asked) == ([], ["/page.html"])
    tokens = drawn(dom)
    assert [text for _, text in tokens] == texts[:20]
    assert ["gone" in name for name, _ in tokens] == [True] * 10 + [False] * 10
    assert [place for place, (name, _) in enumerate(tokens) if " now" in name] == [5, 6, 7, 8, 9]
    assert [place for place, (name, _) in enumerate(tokens) if " me" in name] == [2]
    assert "In turn 3, room was made for 5 tokens in a cache of 10 by policy streaming." in dom
    assert "turn 4 of 6 · 10 of 20 tokens held" in dom
    assert {name.split()[0] for name, _ in tokens} > {"l1", "l4", "l6"}
    dom, said, asked = browser(page_of(made_history(texts)), "#find=T2")
    assert (said, asked) == ([], ["/page.html"])
    assert len(drawn(dom)) == 30
    # t2 and t20 to t29
    assert [place for place, (name, _) in enumerate(drawn(dom)) if " hit" in name] == [2, *range(20, 30)]


def test_a_browser_runs_nothing_of_the_texts(browser):
    dom, said, asked = browser(page_of(made_history(HOSTILE * 2)), "#find=%3Cscript%3E")
    assert (said, asked) == ([], ["/page.html"])
    assert 'id="evil"' not in dom
    assert [
        tag for tag, _ in Elements(dom.split("<main")[1].split("</main>")[0]).found if tag in ("img", "script")
    ] == []
    texts = [text for _, text in drawn(dom)]
    assert len(texts) == 2 * len(HOSTILE)
    assert "&lt;img src=x onerror=alert(1)&gt;" in texts
    assert "␀␇␛[31m" in texts
    assert "\u202e" not in "".join(texts)
