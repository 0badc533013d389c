"""Many dialogues at work at once against the same dialogues one by one: answers, memory, and who waits for whom."""

import threading

import numpy as np
import pytest
import torch

from pyllm.errors import SettingError
from pyllm.stream.chat import Chat
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, Voice, generating, generator_of
from pyllm.stream.many import Cancelled, Many, feed_many
from pyllm.stream.reading import read_alone
from pyllm.stream.session import Session
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.stream_models import streaming
from tests.support.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SETTINGS = {
    "decay": StreamSettings(budget=Budget(2, 30, 8), decay=0.8),
    "spans": StreamSettings(budget=Budget(4, 60, 16), span_after=3, span_before=1),
    "streaming": StreamSettings(policy="streaming", budget=Budget(1, 10, 10)),
    "full": StreamSettings(policy="full"),
    "keydiff": StreamSettings(policy="keydiff", budget=Budget(2, 20, 4)),
    "rebase": StreamSettings(positions="rebase", budget=Budget(2, 40, 4), score="as-published"),
    "random": StreamSettings(policy="random", seed=3, budget=Budget(2, 20, 4)),
    "reference": StreamSettings(budget=Budget(2, 24, 0), decay=0.9, reference=True, first_token="max"),
}
WATCHING = {name: StreamSettings(policy=name, budget=Budget(2, 20, 4)) for name in ("h2o", "tova", "snapkv")}
NATIVE = {"native": StreamSettings(positions="native-sliding", budget=Budget(2, 20, 4))}
SMALL = StreamSettings(budget=Budget(2, 40, 10), decay=0.9)
BASIC = {name: SETTINGS[name] for name in ("decay", "full", "rebase", "reference")}
TURNS = 2


@pytest.fixture(scope="module")
def llama():
    return streaming("llama")


@pytest.fixture(scope="module")
def voice(llama):
    return Voice(tiny_tokenizer(), llama)


def ids_of(count, seed):
    return torch.randint(3, 320, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class Talk:
    """A dialogue of random questions and sampled answers, unlike those of other numbers in all its lengths."""

    def __init__(self, model, settings, number):
        self.dialogue, self.number = Dialogue(model, settings), number
        self.said, self.kept, self.nats = [], [], []
        self.most = 0

    def work(self):
        dialogue, number = self.dialogue, self.number
        sampling = Sampling(temperature=float(number % 2), top_p=0.9, max_new_tokens=3 + 2 * (number % 5))
        for turn in range(TURNS):
            dialogue.begin_turn()
            # Longer than the room there can be in one turn of some.
            yield from dialogue.feeding(ids_of(3 + 11 * ((number + turn) % 4) + 30 * (turn == number % 3), 9 * number))
            said = []
            yield from generating(
                dialogue, sampling, generator_of(number, turn), said.append, end_ids=frozenset([7]), block=4
            )
            self.said.append(said)
            trace = dialogue.trace()
            self.kept.append(None if trace.kept is None else trace.kept.tolist())
            self.nats.append(trace.nats)
            self.most = max(self.most, dialogue.cache.tokens)
        return number


def talks_of(model, settings):
    return [Talk(model, each, number) for number, each in enumerate(settings.values())]


def same(got, expected):
    assert got.said == expected.said
    assert got.kept == expected.kept
    for one, other in zip(got.nats, expected.nats, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    own, logits = got.dialogue.state(), expected.dialogue.logits
    assert float((got.dialogue.logits - logits).abs().max() / logits.std()) < 1e-5
    twin = expected.dialogue.state()
    assert own.keys() == twin.keys()
    assert {name: (part.shape, part.dtype) for name, part in own.items()} == {
        name: (part.shape, part.dtype) for name, part in twin.items()
    }


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", SETTINGS | WATCHING),
        ("qwen3", BASIC),
        ("gpt_neox", BASIC),
        ("gemma2", BASIC),
        ("gemma3_both", BASIC | WATCHING | NATIVE),
    ],
    ids=["llama", "qwen3", "gpt_neox", "gemma2", "gemma3"],
)
def test_many_are_as_one_by_one(kind, settings):
    """Three at a time of many: each comes and leaves in the middle of others."""
    model = streaming(kind)
    alone, together = talks_of(model, settings), talks_of(model, settings)
    for talk in alone:
        read_alone(talk.work(), talk.dialogue.read)
    many = Many(model, rows=3)
    jobs = [many.submit(talk.dialogue, talk.work()) for talk in together]
    most = 0
    while many.step():
        most = max(most, many.working)
    assert most == 3
    assert [job.result() for job in jobs] == [*range(len(settings))]
    for one, other, each in zip(together, alone, settings.values(), strict=True):
        same(one, other)
        assert each.policy == "full" or one.most <= each.budget.tokens
    assert sum(kept is not None for talk in alone for kept in talk.kept) >= len(settings)


def test_feeding_many_is_feeding_each(llama):
    settings = [*SETTINGS.values()]
    alone, together = ([Dialogue(llama, each) for each in settings] for _ in range(2))
    for turn in range(2):
        fed = [ids_of(1 + (17 * number + 5 * turn) % 70, number) for number in range(len(settings))]
        for dialogue in [*alone, *together]:
            dialogue.begin_turn()
        expected = [dialogue.feed(ids) for dialogue, ids in zip(alone, fed, strict=True)]
        for got, one in zip(feed_many(llama, [*zip(together, fed, strict=True)], rows=3), expected, strict=True):
            np.testing.assert_allclose(got, one, rtol=0, atol=2e-5)
        for dialogue, twin in zip(together, alone, strict=True):
            np.testing.assert_array_equal(dialogue.memory.positions, twin.memory.positions)
            # Between its jobs a dialogue is as one that was always alone.
            assert dialogue.feed([5])[0] == pytest.approx(twin.feed([5])[0], abs=2e-5)


def chat_of(llama, voice, seed=0, session=None, **more):
    sampling = Sampling(temperature=1.0, max_new_tokens=9)
    return Chat(llama, SMALL, voice, sampling, seed=seed, block=4, session=session, **more)


def test_chats_answer_as_alone_and_are_gone_on_with_in_any_way(llama, voice, tmp_path):
    questions = ["Who is there?", "And then? " * 6, "Why"]
    alone = [chat_of(llama, voice, seed, system="Be short." if seed else None) for seed in range(3)]
    expected = [[chat.ask(question) for question in questions] for chat in alone]
    many = Many(llama, rows=2)
    shown = [[] for _ in alone]
    for turn, question in enumerate(questions):
        sessions = [Session(tmp_path / str(seed), {"made": "so"}) for seed in range(3)]
        chats = [
            chat_of(llama, voice, seed, session, system="Be short." if seed and not turn else None)
            for seed, session in enumerate(sessions)
        ]
        if turn == 1:  # one that was saved from a pool goes on alone, and the other way round
            answers = [chat.ask(question) for chat in chats]
        else:
            jobs = [
                many.submit(chat.dialogue, chat.asking(question, show=shown[number].append))
                for number, chat in enumerate(chats)
            ]
            many.run()
            answers = [job.result() for job in jobs]
            assert ["".join(parts) for parts in shown] == [answer.text for answer in answers]
            shown = [[] for _ in alone]
        for session in sessions:
            session.close()
        assert answers == [each[turn] for each in expected]
    for seed, twin in enumerate(alone):
        with Session(tmp_path / str(seed), {"made": "so"}) as session:
            chat = chat_of(llama, voice, seed, session)
            assert [turn.text for turn in chat.past.held_turns()] == [turn.text for turn in twin.past.held_turns()]
            got, expected_state = chat.dialogue.state(), twin.dialogue.state()
            assert got.keys() == expected_state.keys()
            for name, part in expected_state.items():
                torch.testing.assert_close(got[name], part, rtol=0, atol=1e-4)


def test_an_answer_is_stopped_and_a_job_is_cancelled(llama, voice):
    many = Many(llama, rows=3)
    stop = threading.Event()
    chats = [chat_of(llama, voice, seed) for seed in range(3)]
    ended = []
    jobs = [many.submit(chat.dialogue, chat.asking("Tell me all"), ended.append) for chat in chats[:2]]
    jobs.append(many.submit(chats[2].dialogue, chats[2].asking("All", stopped=stop.is_set), ended.append))
    for _ in range(4):
        many.step()
    jobs[0].cancel()
    stop.set()
    many.run()
    assert jobs[1].result().text == chat_of(llama, voice, 1).ask("Tell me all").text
    assert jobs[2].result().ended == "stopped"
    with pytest.raises(Cancelled):
        jobs[0].result()
    assert {*ended} == {*jobs}
    assert (many.waiting, many.working) == (0, 0)
    # Its dialogue is its own again, in the middle of a turn.
    chats[0].dialogue.feed([5])


def test_an_error_ends_one_job_only(llama):
    many = Many(llama, rows=3)
    good, bad = Talk(llama, SMALL, 0), Dialogue(llama, SMALL)
    pinned = Dialogue(llama, SMALL)

    def breaks():
        bad.begin_turn()
        yield from bad.feeding([5, 6])
        raise ValueError("of its own")

    def pins():
        yield from pinned.feeding([5, 6])

    jobs = [many.submit(good.dialogue, good.work()), many.submit(bad, breaks()), many.submit(pinned, pins())]
    many.run()
    assert jobs[0].result() == 0
    with pytest.raises(ValueError, match="of its own"):
        jobs[1].result()
    with pytest.raises(SettingError, match="no turn has begun"):
        jobs[2].result()
    twin = Talk(llama, SMALL, 0)
    read_alone(twin.work(), twin.dialogue.read)
    same(good, twin)


def test_jobs_on_one_dialogue_wait_for_each_other(llama):
    many = Many(llama, rows=4)
    dialogue, other = Dialogue(llama, SMALL), Dialogue(llama, SMALL)
    order = []

    def turn(which, name, count):
        order.append(f"{name} begins")
        which.begin_turn()
        yield from which.feeding(ids_of(count, 1))
        order.append(f"{name} ends")

    for name, which, count in (("1", dialogue, 300), ("2", dialogue, 3), ("x", other, 3), ("3", dialogue, 3)):
        many.submit(which, turn(which, name, count))
    many.run()
    assert [each for each in order if each[0] != "x"] == [f"{n} {what}" for n in "123" for what in ("begins", "ends")]
    assert order.index("x ends") < order.index("1 ends")


def test_work_comes_from_other_threads(llama):
    many = Many(llama, rows=3)
    talks = [Talk(llama, SMALL, number) for number in range(6)]
    jobs, over = [], threading.Event()
    assert not many.wait(0.0)

    def ask():
        jobs.extend(many.submit(talk.dialogue, talk.work()) for talk in talks)
        over.set()

    thread = threading.Thread(target=ask)
    thread.start()
    while not over.is_set() or many.step():
        assert many.wait(10.0)
    thread.join()
    assert [job.result() for job in jobs] == [*range(6)]
    twin = Talk(llama, SMALL, 5)
    read_alone(twin.work(), twin.dialogue.read)
    same(talks[5], twin)


def test_closing_cancels_all(llama):
    many = Many(llama, rows=1)
    talks = [Talk(llama, SMALL, number) for number in range(2)]
    jobs = [many.submit(talk.dialogue, talk.work()) for talk in talks]
    many.step()
    with pytest.raises(RuntimeError, match="not done"):
        jobs[0].result()
    many.close()
    for job in jobs:
        with pytest.raises(Cancelled):
            job.result()
    with pytest.raises(SettingError, match="a batch of 0"):
        Many(llama, rows=0)
