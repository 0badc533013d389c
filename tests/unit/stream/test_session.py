"""Dialogues in folders: they go on to the bit, survive any broken save, and are not mixed with anything else."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.lm.sources import ModelSource
from pyllm.stream.chat import Chat
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.session import LOG, METADATA, Session, session_facts
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.stream_models import streaming
from tests.support.tiny_models import save_tiny_model, tiny_tokenizer

SMALL = StreamSettings(budget=Budget(2, 20, 10), decay=0.9, span_after=3)


def turns(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 40, (count,), generator=generator).tolist()
    return [torch.randint(3, 320, (length,), generator=generator).tolist() for length in lengths]


def states_equal(one, other):
    left, right = one.state(), other.state()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def model():
    return streaming("llama")


@pytest.fixture
def saved(model, tmp_path):
    """A session of three turns, closed, and the dialogue in it."""
    dialogue = Dialogue(model, SMALL)
    with Session(tmp_path / "talk", {"name": "tiny"}) as session:
        for number, ids in enumerate(turns(3)):
            dialogue.read_turn(ids)
            session.save(dialogue, [{"kind": "turn", "turn": number}])
    return tmp_path / "talk", dialogue


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", SMALL),
        ("llama", StreamSettings(budget=SMALL.budget, score="as-published", reference=True, decay=0.7)),
        ("llama", StreamSettings(budget=SMALL.budget, policy="snapkv", span_before=2)),
        ("llama", StreamSettings(budget=SMALL.budget, policy="random", seed=3)),
        ("llama", StreamSettings(budget=SMALL.budget, positions="rebase")),
        ("gemma3_both", StreamSettings(budget=SMALL.budget, positions="native-sliding")),
        ("qwen3", StreamSettings(policy="full")),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.policy}-{value.positions}-{value.score}",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_goes_on_to_the_bit(tmp_path, kind, settings, dtype):
    model = streaming(kind)
    model.model.to(dtype)
    one = Dialogue(model, settings)
    one.read_turn(turns(1)[0])
    one.pin([4, 5])
    for ids in turns(4, seed=1):
        one.read_turn(ids)
    with Session(tmp_path, {}) as session:
        session.save(one, [])
    other = Dialogue(model, settings)
    with Session(tmp_path, {}) as session:
        session.restore(other)
    for ids in turns(4, seed=2):
        left, right = one.read_turn(ids), other.read_turn(ids)
        assert left.nats.tolist() == right.nats.tolist()
        assert torch.equal(one.logits, other.logits)
    assert states_equal(one, other)
    assert one.memory.evictions > 3 or settings.policy == "full"


def test_every_broken_save_leaves_the_turn_before_or_the_whole_turn(model, tmp_path, monkeypatch):
    class Killed(BaseException):
        """Ends a save as a kill does: nothing that would clean up gets to run."""

    real = {name: getattr(os, name) for name in ("fsync", "open", "replace")}
    unlink, replace = Path.unlink, Path.replace
    left = [0]

    def counted(work):
        def wrapped(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return work(*arguments, **named)

        return wrapped

    outcomes = set()
    for kill_after in range(100):
        folder = tmp_path / str(kill_after)
        one = Dialogue(model, SMALL)
        with Session(folder, {}) as session:
            one.read_turn(turns(3)[0])
            session.save(one, [{"turn": 0}])
            one.read_turn(turns(3)[1])
            left[0] = kill_after
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", counted(real["fsync"]))
                patch.setattr(os, "open", counted(real["open"]))
                patch.setattr(Path, "replace", counted(replace))
                patch.setattr(Path, "unlink", counted(unlink))
                try:
                    session.save(one, [{"turn": 1}])
                    killed = False
                except Killed:
                    killed = True
        with Session(folder, {}) as session:
            assert [record["turn"] for record in session.records] in ([0], [0, 1])
            other = Dialogue(model, SMALL)
            session.restore(other)
            assert other.memory.turn == len(session.records) - 1
            outcomes.add(len(session.records))
            for number, ids in enumerate(turns(3)[len(session.records) :], len(session.records)):
                other.read_turn(ids)
                session.save(other, [{"turn": number}])
        one.read_turn(turns(3)[2])
        assert states_equal(one, other)
        with Session(folder, {}) as session:
            assert [record["turn"] for record in session.records] == [0, 1, 2]
        assert sorted(path.name for path in folder.iterdir()) == ["lock", METADATA, "state-000003.safetensors", LOG]
        if not killed:
            break
    assert kill_after > 8
    assert outcomes == {1, 2}


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.soak)])
def test_kills_lose_nothing_but_the_running_turn(model, tmp_path, kills):
    voice, sampling = Voice(tiny_tokenizer(), model), Sampling(temperature=1.0, max_new_tokens=6)
    settings = StreamSettings(budget=Budget(2, 54, 8), decay=0.9, span_after=2)
    moments = random.Random(0)
    told = 0

    def chat_in(session):
        return Chat(model, settings, voice, sampling, seed=5, session=session)

    def talk_until_killed(told_to):
        with Session(tmp_path / "talk", {}) as session:
            chat = chat_in(session)
            while True:
                chat.ask(f"question {chat.turns}")
                os.write(told_to, f"{chat.turns}\n".encode())

    warm = chat_in(None)
    warm.ask("question")
    begun = time.perf_counter()
    warm.ask("question")
    # On a busy machine a turn takes many times longer: kills come within the first few turns on any.
    turn_seconds = max(0.02, time.perf_counter() - begun)
    for kill in range(kills):
        reader, writer = os.pipe()
        # A fork has the model already; a new process would take seconds to load it each time.
        child = os.fork()
        if child == 0:
            try:
                talk_until_killed(writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as file:
            # Every other kill comes behind a turn, however slow the machine is; the others come at any moment.
            first = [file.readline()] if kill % 2 else []
            time.sleep(moments.uniform(0.5, 5) * turn_seconds)
            os.kill(child, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            told = max([told, *map(int, [*first, *file])])
        with Session(tmp_path / "talk", {}) as session:
            chat = chat_in(session)
            assert told <= chat.turns <= told + 1
            told = chat.turns
    whole = chat_in(None)
    for number in range(told):
        whole.ask(f"question {number}")
    assert told >= kills // 2
    assert states_equal(whole.dialogue, chat.dialogue)


def test_half_a_line_of_a_broken_save_is_cut_off(saved, model):
    folder, dialogue = saved
    with (folder / LOG).open("ab") as file:
        file.write(b'{"kind":"turn","tu')
    with Session(folder, {"name": "tiny"}) as session:
        assert [record["turn"] for record in session.records] == [0, 1, 2]
        session.restore(Dialogue(model, SMALL))
        session.save(dialogue, [{"kind": "turn", "turn": 3}])
    with Session(folder, {"name": "tiny"}) as session:
        assert [record["turn"] for record in session.records] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [METADATA, LOG, "state-000003.safetensors"])
def test_a_changed_byte_is_seen(saved, model, name):
    folder, _ = saved
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises(InputError, match=f"{name} was changed"),
        Session(folder, {"name": "tiny"}) as session,
    ):
        session.restore(Dialogue(model, SMALL))


@pytest.mark.parametrize("name", [LOG, "state-000003.safetensors"])
def test_a_missing_file_is_named(saved, model, name):
    folder, _ = saved
    (folder / name).unlink()
    with (
        pytest.raises(InputError, match=f"{name} cannot be read: no such file"),
        Session(folder, {"name": "tiny"}) as session,
    ):
        session.restore(Dialogue(model, SMALL))


def test_a_session_of_something_else_is_refused_and_says_what_differs(model, tmp_path):
    source = ModelSource("a", save_tiny_model(tmp_path / "a"))
    other = ModelSource("b", save_tiny_model(tmp_path / "b", seed=1))
    facts = session_facts(source, model, SMALL, "chat")
    dialogue = Dialogue(model, SMALL)
    dialogue.read_turn([5, 6, 7])
    with Session(tmp_path / "talk", facts) as session:
        session.save(dialogue, [])
    Session(tmp_path / "talk", session_facts(source, streaming("llama"), SMALL, "chat")).close()
    half = streaming("llama")
    half.model.to(torch.bfloat16)
    faded = StreamSettings(budget=SMALL.budget, decay=0.5, span_after=3)
    partial = streaming("gpt_neox")
    for made, said in [
        (
            session_facts(other, model, SMALL, "chat"),
            r"made with something else: model\.weights_sha256: \w{12}\.\.\. t",
        ),
        (session_facts(source, half, SMALL, "chat"), "else: dtype: float32 there, bfloat16 here$"),
        (session_facts(source, model, faded, "chat"), r"else: settings\.decay: 0\.9 there, 0\.5 here$"),
        (session_facts(source, model, SMALL, "vicuna"), "else: template: chat there, vicuna here$"),
        (session_facts(source, partial, SMALL, "chat"), r"else: plan\.layer 0\.keys\.frequencies: "),
    ]:
        with pytest.raises(SettingError, match=said) as refused:
            Session(tmp_path / "talk", made)
        assert refused.value.exit_code == 2
    # A refusal lets go of the folder.
    Session(tmp_path / "talk", facts).close()


def test_one_process_at_a_time(saved):
    folder, dialogue = saved
    with Session(folder, {"name": "tiny"}), pytest.raises(PrerequisiteError, match="is open in another process"):
        Session(folder, {"name": "tiny"})
    session = Session(folder, {"name": "tiny"})
    session.close()
    session.close()
    with pytest.raises(SettingError, match="was closed"):
        session.save(dialogue, [])


def test_folders_that_are_no_session(tmp_path, model):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match=r"is no session: it holds `notes\.txt`"):
        Session(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(PrerequisiteError, match="cannot be opened"):
        Session(tmp_path / "file", {})
    with Session(tmp_path / "new" / "deep", {}) as session, pytest.raises(InputError, match="holds nothing yet"):
        session.restore(Dialogue(model, SMALL))
