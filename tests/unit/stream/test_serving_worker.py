"""The thread that has the model: who is answered when, what is shared, what is kept, and how it ends."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from pyllm.errors import PrerequisiteError
from pyllm.stream.generation import Sampling
from pyllm.stream.reading import read_alone
from pyllm.stream.serving.events import Begun, Deleted, Finished, Refused, Said
from pyllm.stream.serving.refusals import Refusal
from pyllm.stream.serving.worker import mixed_seed
from pyllm.stream.session import Session
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.serving import USUAL, asking, at_work, load, outcome, run
from tests.support.shapes import without_shape_checks
from tests.support.tiny_models import save_tiny_model

WIDE = StreamSettings(budget=Budget(2, 200, 8))
LONG = replace(USUAL, max_new_tokens=100)
WARM = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with without_shape_checks():
        yield load(save_tiny_model(tmp_path_factory.mktemp("model")))


def answers(worker, requests):
    """What comes of requests that are made at the same time."""

    async def all_of_them():
        return await asyncio.gather(*[outcome(worker.submit(request)) for request in requests])

    return run(all_of_them())


def test_200_requests_over_20_conversations_are_answered_as_one_after_another(loaded, monkeypatch):
    cool = replace(WARM, temperature=0.0)
    requests = [
        asking(f"{turn} {name}", f"talk-{name}", sampling=WARM if name % 2 else cool, seed=turn)
        for turn in range(10)
        for name in range(20)
    ]
    expected = []
    chats = {request.conversation_id: loaded.chat(seed=0) for request in requests}
    for request in requests:
        steps = chats[request.conversation_id]
        expected.append(alone(steps, request))
    _, shared = count_passes(loaded, monkeypatch)
    with at_work(loaded.worker(rows=16, conversations=20, queue=200)) as worker:
        got = answers(worker, requests)
    assert all(isinstance(event, Finished) for _, event in got)
    assert [text for text, _ in got] == expected
    assert [event.usage.turn for _, event in got] == [turn + 1 for turn in range(10) for _ in range(20)]
    assert max(event.usage.cache_tokens for _, event in got) <= 64
    assert sum(event.usage.evicted_tokens for _, event in got) > 0
    assert shared[16] > 20
    assert shared.total() < 300  # one after another there are 1,000 passes


def alone(chat, request):
    work = chat.asking(request.question, sampling=request.sampling, seed=request.seed)
    return read_alone(work, chat.dialogue.read).text


def count_passes(loaded, monkeypatch):
    """Counts forward passes of the model, all of them and by how many dialogues shared them."""
    passes, shared = [0], Counter()
    forward = loaded.model.model.forward

    def counted(*arguments, **named):
        passes[0] += 1
        shared[named["input_ids"].shape[0]] += 1
        return forward(*arguments, **named)

    monkeypatch.setattr(loaded.model.model, "forward", counted)
    return passes, shared


def test_concurrent_requests_share_forward_passes(loaded, monkeypatch):
    requests = [asking("the same", f"talk-{number}") for number in range(4)]
    with at_work(loaded.worker()) as worker:
        passes, shared = count_passes(loaded, monkeypatch)
        answers(worker, requests[:1])
        single, passes[0] = passes[0], 0
        shared.clear()
        answers(worker, requests)
    assert single > 12
    assert passes[0] < 2 * single
    assert shared[4] >= 10


def test_one_answer_at_a_time_in_a_conversation_and_in_order(loaded):
    chat = loaded.chat(seed=mixed_seed(0, "conversation a"))
    expected = [chat.ask(f"question {number}").text for number in range(6)]
    with at_work(loaded.worker()) as worker:
        got = answers(worker, [asking(f"question {number}", "a") for number in range(6)])
    assert [text for text, _ in got] == expected


def test_without_a_conversation_nothing_is_remembered_and_the_whole_list_is_read(loaded):
    told = (("What is this?", "A test."), ("Of what?", "Of memory."))
    with at_work(loaded.worker()) as worker:
        (first, one), (again, _) = answers(worker, [asking("And now?", told=told), asking("And now?", told=told)])
        (other, two) = answers(worker, [asking("And now?")])[0]
    assert first == again != other
    assert (one.usage.turn, two.usage.turn) == (3, 1)
    assert one.usage.prompt_tokens > two.usage.prompt_tokens + 40
    # What is told stands where what is asked would stand: token by token the text of the whole dialogue.
    chat = loaded.chat()
    for question, answer in told:
        read_alone(chat.telling(question, answer), chat.dialogue.read)
    text = "".join(f"USER: {question}\n\nASSISTANT: {answer}</s>" for question, answer in told)
    assert "".join(chat.voice.names(chat.past.ids)) == text
    assert chat.ask("And now?").text == first
    assert chat.seen_tokens == one.usage.seen_tokens


CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}<s>{{ m['content'] }}\n"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, BRACKETS], ids=["chatml", "brackets"])
def test_what_is_told_stands_as_the_chat_template_writes_it(tmp_path, template):
    loaded = load(save_tiny_model(tmp_path / "model", chat_template=template))
    told, system = (("What is this?", "A test."), ("Of what?", "")), "Be brief."
    request = asking("And now?", "a", told=told, system=system)
    with at_work(loaded.worker(folder=tmp_path / "talks", settings=WIDE)) as worker:
        _, event = answers(worker, [request])[0]
    records = [json.loads(line) for line in (tmp_path / "talks" / "a" / "turns.jsonl").read_text().splitlines()]
    assert [(record["question"], record["answer"], record["ended"]) for record in records[:2]] == [
        (*pair, "told") for pair in told
    ]
    read = [token for record in records for token in record["token_ids"]]
    said = [{"role": "system", "content": system}]
    for question, answer in told:
        said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    said.append({"role": "user", "content": "And now?"})
    prompt = loaded.voice._tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"]
    assert read[: len(prompt)] == prompt
    assert event.usage.prompt_tokens == len(prompt)


def test_chance_is_of_the_seed_or_else_new_in_every_request(loaded):
    warm = {"sampling": replace(WARM, max_new_tokens=12)}
    requests = [asking("Hi", **warm), asking("Hi", **warm), asking("Hi", seed=5, **warm), asking("Hi", seed=5, **warm)]
    with at_work(loaded.worker()) as worker:
        got = [text for text, _ in answers(worker, requests)]
    assert got[2] == got[3]
    assert len(set(got)) == 3
    with at_work(loaded.worker()) as worker:
        assert [text for text, _ in answers(worker, requests)] == got


def test_stop_texts_end_the_answer_before_them_and_are_not_sent(loaded):
    with at_work(loaded.worker()) as worker:
        whole, _ = answers(worker, [asking("Hi", sampling=LONG)])[0]
        plain = [place for place in range(5, 90) if whole[place : place + 3].isprintable()]
        place = next(each for each in plain if "\ufffd" not in whole[each : each + 3])
        stop = whole[place : place + 3]
        cut, event = answers(worker, [asking("Hi", sampling=LONG, stops=("never there", stop))])[0]
    assert cut == whole[: whole.index(stop)]
    assert event.reason == "stop"
    assert event.usage.completion_tokens < 100


def test_when_too_many_wait_the_next_is_refused_and_changes_nothing(loaded):
    async def crowd(worker):
        jobs = [worker.submit(asking("Hi", "a")) for _ in range(3)]
        with pytest.raises(Refusal) as refused:
            worker.submit(asking("Hi", "a"))
        done = [await outcome(job) for job in jobs]
        later = await outcome(worker.submit(asking("Hi", "a")))
        return refused.value, done, later

    worker = loaded.worker(rows=1, queue=2)
    with at_work(worker):
        refusal, done, later = run(crowd(worker))
    assert (refusal.status, refusal.headers) == (429, {"Retry-After": "1"})
    assert [event.usage.turn for _, event in done] == [1, 2, 3]
    assert later[1].usage.turn == 4


def test_who_leaves_while_waiting_never_asked(loaded):
    async def leave(worker):
        first = worker.submit(asking("one", "a", sampling=LONG))
        second, third = worker.submit(asking("two", "a")), worker.submit(asking("three", "a"))
        assert isinstance(await first.next(), Begun)
        second.cancel()
        return [await outcome(job) for job in (first, second, third)]

    with at_work(loaded.worker()) as worker:
        first, second, third = run(leave(worker))
    assert isinstance(second[1], Refused)
    assert third[1].usage.turn == 2
    chat = loaded.chat(seed=mixed_seed(0, "conversation a"))
    assert [alone(chat, asking("one", sampling=LONG)), alone(chat, asking("three"))] == [first[0], third[0]]


def test_who_leaves_during_an_answer_leaves_what_was_said(loaded, tmp_path):
    async def leave(worker):
        job = worker.submit(asking("one", "a", sampling=LONG))
        while not isinstance(await job.next(), Said):
            pass
        job.cancel()
        _, event = await outcome(job)
        return event, await outcome(worker.submit(asking("two", "a")))

    with at_work(loaded.worker(folder=tmp_path)) as worker:
        event, (text, _) = run(leave(worker))
    assert event.reason == "cancelled"
    said = event.usage.completion_tokens
    assert 0 < said < 100
    records = [json.loads(line) for line in (tmp_path / "a" / "turns.jsonl").read_text().splitlines()]
    assert records[0]["ended"] == "stopped"
    # From here on it is as if the answer had been allowed no more.
    chat = loaded.chat(seed=mixed_seed(0, "conversation a"))
    alone(chat, asking("one", sampling=replace(USUAL, max_new_tokens=said)))
    assert alone(chat, asking("two")) == text


def test_who_leaves_without_a_conversation_ends_at_once(loaded):
    async def leave(worker):
        job = worker.submit(asking("one", sampling=LONG))
        assert isinstance(await job.next(), Begun)
        job.cancel()
        return await outcome(job)

    with at_work(loaded.worker()) as worker:
        _, event = run(leave(worker))
        assert isinstance(event, Refused)
        assert worker.health() == {"status": "ok", "running": 0, "waiting": 0}


def test_a_conversation_is_deleted_behind_what_was_asked_before(loaded, tmp_path):
    async def delete(worker):
        first = worker.submit(asking("one", "a"))
        gone = worker.delete("a")
        second = worker.submit(asking("two", "a"))
        done = [await outcome(job) for job in (first, gone, second)]
        again = [await outcome(worker.delete("a")) for _ in range(2)]
        return done, again

    for folder in (tmp_path / "talks", None):
        with at_work(loaded.worker(folder=folder)) as worker:
            (first, gone, second), again = run(delete(worker))
        assert (first[1].usage.turn, second[1].usage.turn) == (1, 1)
        assert isinstance(gone[1], Deleted)
        assert isinstance(again[0][1], Deleted)
        assert again[1][1].refusal.status == 404
    assert not list((tmp_path / "talks").iterdir())


@pytest.mark.parametrize("lasts", [True, False], ids=["folder", "memory"])
def test_conversations_leave_memory_and_come_back_as_they_were(loaded, tmp_path, lasts):
    names = [f"talk-{number}" for number in range(6)]
    requests = [asking(f"{turn} {name}", name, sampling=WARM) for turn in range(3) for name in names]
    chats = {name: loaded.chat(seed=mixed_seed(0, f"conversation {name}")) for name in names}
    expected = [alone(chats[request.conversation_id], request) for request in requests]
    worker = loaded.worker(rows=1, conversations=2, folder=tmp_path / "talks" if lasts else None)
    with at_work(worker):
        got = answers(worker, requests)
        assert worker._conversations.in_memory == 2
        spilled = worker._conversations._folder
        assert len(list(spilled.iterdir())) == (6 if lasts else 4)
    assert [text for text, _ in got] == expected
    assert spilled.exists() == lasts


def test_what_breaks_off_counts_for_nothing_and_the_others_go_on(loaded, tmp_path, monkeypatch):
    save, broken = Session.save, []

    def fails_once(session, dialogue, records):
        if session.folder.name == "a" and records[0]["question"] == "two" and not broken:
            broken.append(1)
            raise PrerequisiteError("no space left")
        save(session, dialogue, records)

    monkeypatch.setattr(Session, "save", fails_once)
    worker = loaded.worker(folder=tmp_path)
    with at_work(worker):
        got = answers(worker, [asking(text, name) for text in ("one", "two", "two") for name in ("a", "b")])
    assert got[2][1].refusal.status == 500
    assert [event.usage.turn for _, event in got[:2] + got[3:]] == [1, 1, 2, 2, 3]
    chat = loaded.chat()
    assert [chat.ask("one").text, chat.ask("two").text] == [got[0][0], got[4][0]]


def test_without_a_folder_what_breaks_off_is_lost_and_says_so(loaded, monkeypatch):
    worker = loaded.worker()
    with at_work(worker):
        answers(worker, [asking("one", "a")])
        with monkeypatch.context() as patch:
            patch.setattr(loaded.model.model, "forward", lambda **_: 1 / 0)
            event = answers(worker, [asking("two", "a")])[0][1]
        assert event.refusal.status == 500
        lost = answers(worker, [asking("three", "a")])[0][1].refusal
        assert (lost.status, lost.code) == (409, "conversation_lost")

        async def delete():
            return await outcome(worker.delete("a"))

        assert isinstance(run(delete())[1], Deleted)
        assert answers(worker, [asking("four", "a")])[0][1].usage.turn == 1


def test_refused_requests_change_nothing(loaded, tmp_path):
    worker = loaded.worker(folder=tmp_path)
    with at_work(worker):
        refusals = [
            event.refusal for _, event in answers(worker, [asking("x" * 500, "a"), asking("Hi", "a", system="y" * 80)])
        ]
        assert [(each.status, each.param) for each in refusals] == [(400, "messages")] * 2
        assert refusals[0].code == "context_length_exceeded"
        assert not list(tmp_path.iterdir())
        answers(worker, [asking("Hi", "a", system="Be brief.")])
        before = (tmp_path / "a" / "turns.jsonl").read_bytes()
        other, _ = answers(worker, [asking("Hi", "a", system="Be long."), asking("x" * 500, "a")])
        assert other[1].refusal.status == 400
        assert (tmp_path / "a" / "turns.jsonl").read_bytes() == before
        same = answers(worker, [asking("Hi", "a", system="Be brief."), asking("Hi", "a")])
        assert [event.usage.turn for _, event in same] == [2, 3]


def test_what_is_of_others_is_not_touched(loaded, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep me")
    with at_work(loaded.worker(folder=tmp_path)) as worker:
        answers(worker, [asking("Hi", "a")])

        async def delete(name):
            return (await outcome(worker.delete(name)))[1].refusal.status

        assert answers(worker, [asking("Hi", "notes")])[0][1].refusal.status == 409
        assert run(delete("notes")) == 404
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep me"
    with at_work(loaded.worker(folder=tmp_path, settings=replace(loaded.serving().settings, decay=0.5))) as worker:
        other = answers(worker, [asking("Hi", "a")])[0][1].refusal
        assert (other.status, other.code) == (409, "conversation_mismatch")
        with Session(tmp_path / "b", {}):
            assert answers(worker, [asking("Hi", "b")])[0][1].refusal.code == "conversation_in_use"
    assert (tmp_path / "a" / "session.json").exists()


def test_ending_lets_answers_end_and_refuses_what_waits(loaded, tmp_path):
    async def end(worker, seconds):
        first, second = worker.submit(asking("one", "a", sampling=LONG)), worker.submit(asking("two", "a"))
        assert isinstance(await first.next(), Begun)
        worker.drain(seconds)
        with pytest.raises(Refusal) as refused:
            worker.submit(asking("three", "a"))
        return [await outcome(first), await outcome(second), refused.value.status]

    with at_work(loaded.worker(folder=tmp_path)) as worker:
        first, second, status = run(end(worker, 60.0))
        assert first[1].usage.completion_tokens == 100
        assert (second[1].refusal.status, status) == (503, 503)
        worker.join()
    with at_work(loaded.worker(folder=tmp_path)) as worker:
        broken, _, _ = run(end(worker, 0.0))
        assert broken[1].refusal.status == 503
    records = (tmp_path / "a" / "turns.jsonl").read_text().splitlines()
    assert len(records) == 1


def test_a_thread_that_breaks_is_known(loaded, monkeypatch):
    worker = loaded.worker()
    monkeypatch.setattr(worker._many, "step", lambda: 1 / 0)

    async def ask():
        done = await outcome(worker.submit(asking("Hi")))
        worker.join()
        with pytest.raises(Refusal) as refused:
            worker.submit(asking("Hi"))
        return done[1].refusal.status, refused.value.status

    with at_work(worker):
        assert run(ask()) == (503, 500)
    assert isinstance(worker.crash, ZeroDivisionError)
    assert worker.health()["status"] == "broken"
