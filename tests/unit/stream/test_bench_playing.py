"""What the choice benches measure, against plain forward passes over the same tokens and against published code."""

import json

import numpy as np
import pytest
import torch

from pyllm.errors import InputError, PrerequisiteError
from pyllm.lm.loading import load_tokenizer
from pyllm.lm.sources import find_model
from pyllm.stream.bench.arms import Arm
from pyllm.stream.bench.choices import ChoiceWork, measure_choices
from pyllm.stream.bench.fewshot import asked_behind, measure_shots, play_shots
from pyllm.stream.bench.playing import choice, first_token_nats, hold_budget, play
from pyllm.stream.bench.tasks import Conversation, Item, read_task
from pyllm.stream.bench.wording import Asked, Wording
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import load_stream_model
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.bench_data import grocery, player
from tests.support.stream_models import streaming
from tests.support.tiny_models import VOCABULARY, tiny_tokenizer

CHATML = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FULL = Arm("full", None)


@pytest.fixture(scope="module")
def model():
    return streaming()


def wording(template="vicuna", chat_template=None):
    return Wording(tiny_tokenizer(chat_template=chat_template), template, VOCABULARY)


@torch.inference_mode()
def plain_log_probabilities(model, ids):
    return model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def ids_of(text):
    return tiny_tokenizer()([text], add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("history", ["self", "gold"])
def test_the_full_cache_against_plain_forward_passes(model, tmp_path, history):
    (conversation,) = read_task("grocery", [grocery(tmp_path / "keys.jsonl", 1, 2)])
    found = play(model, wording(), "grocery", conversation, FULL, history=history)
    before, chosen, unlikely = [], "", 0.0
    for item in conversation.items:
        before += ids_of(f"USER: {item.text}\n\nASSISTANT:")
        answers = [ids_of(f" {answer}") for answer in item.answers]
        # The whole text anew for each answer, as the published code reads it.
        scores = plain_log_probabilities(model, before)[-1]
        firsts = np.array([float(scores[answer[0]]) for answer in answers])
        said = []
        for answer in answers:
            read = plain_log_probabilities(model, before + answer)
            said.append(tiny_tokenizer().decode(read[len(before) - 1 : -1].argmax(-1)).replace(" ", ""))
        matches = [place for place, text in enumerate(said) if text == item.answers[place]]
        choice_here = matches[0] if matches else int(firsts.argmax())
        chosen += "ABCD"[choice_here]
        if item.part == "question":
            unlikely -= firsts[item.gold] - np.logaddexp.reduce(firsts)
        before += answers[choice_here if history == "self" else item.gold]
    assert found["chosen"] == chosen
    assert found["gold_nats"] == pytest.approx(unlikely, rel=1e-4)
    assert (found["tokens"], found["cache_tokens"], found["evictions"]) == (len(before), len(before), 0)
    assert (found["questions"], found["recalls"], found["facts_known"]) == (2, 1, 1)
    assert found["fact_kept"] == found["fact_tokens"] == len("salt")
    assert found["right"] == sum(
        a == b for a, b, p in zip(chosen, found["gold"], found["parts"], strict=True) if p == "q"
    )


def test_an_answer_of_several_tokens_wins_where_the_model_would_say_it(model):
    """The likeliest first token may begin another answer: the one that the model says to its end is chosen."""
    asked_text = "Which one?"
    start = ids_of(f"USER: {asked_text}\n\nASSISTANT:")
    said = []
    for _ in range(3):
        said.append(int(plain_log_probabilities(model, [*start, *said])[-1].argmax()))
    tokenizer = tiny_tokenizer()
    asked = wording()

    answers = Asked(tuple(start), (tuple(ids_of("?!")), tuple(said), (said[0], 5)), (), None)
    texts = tuple(tokenizer.decode(list(ids)).replace(" ", "") for ids in answers.answers)
    item = Item("x", asked_text, texts, 0, texts)
    dialogue = Dialogue(model, StreamSettings(budget=Budget(2, 60, 4)))
    dialogue.begin_turn()
    dialogue.reserve(len(start) + 4)
    dialogue.feed(start)
    cached = dialogue.cache.tokens
    nats = first_token_nats(dialogue, answers)
    assert choice(dialogue, asked, item, answers, nats) == 1
    assert dialogue.cache.tokens == cached  # nothing of the look stays
    # No answer is what the model would say: the likeliest first token decides, and of equal ones the first.
    other = Item("x", asked_text, ("no", "never", "not"), 0, ("no", "never", "not"))
    assert choice(dialogue, asked, other, answers, nats) == int(nats.argmin()) == 1


def test_a_bounded_cache_keeps_its_budget_and_says_what_is_left(model, tmp_path):
    (conversation,) = read_task("grocery", [grocery(tmp_path / "keys.jsonl", 1, 3)])
    kept = {}
    for arm in (Arm("streaming", 90), Arm("sirllm", 90, recent=10, span=4, decay="auto", horizon_turns=2), FULL):
        found = play(model, wording(), "grocery", conversation, arm, history="self")
        kept[arm.policy] = found["fact_kept"]
        if arm.cache is not None:
            assert found["cache_tokens"] <= 90
            assert found["evictions"] > 0
        assert (found["ratio"] is None) == (found["beyond_horizon"] is None) == (arm.horizon_turns is None)
    assert kept["streaming"] == 0
    assert kept["full"] == 4
    with pytest.raises(RuntimeError, match="91 tokens are in a cache of 90 under `streaming cache 90`"):
        hold_budget(Arm("streaming", 90), 91)


def test_a_game(model, tmp_path):
    (game,) = read_task("rps", [player(tmp_path / "p.jsonl", "ABCAB")])
    found = play(model, wording(), "rps", game, Arm("streaming", 300), history="self")
    wanted = "".join(
        "W" if own == item.answers[item.gold] else "T" if own == item.answers[item.played] else "L"
        for own, item in zip(found["chosen"], game.items, strict=True)
    )
    assert found["outcomes"] == wanted
    assert len(wanted) == 5


def test_a_turn_in_the_models_own_template():
    asked = wording("auto", CHATML)
    item = Item("x", "Which one? ", ("A", "B"), 0, ("a", "b"))
    tokenizer = tiny_tokenizer()
    first, later = (asked.asked(item, opens=opens) for opens in (True, False))
    assert tokenizer.decode(first.ids) == tokenizer.decode(later.ids) == "[user]Which one?\n[assistant]"
    assert [tokenizer.decode(answer) for answer in later.answers] == ["A", "B"]
    assert tokenizer.decode(later.closing) == "\n"
    assert later.most_tokens == len(later.ids) + 2
    with pytest.raises(PrerequisiteError, match="has no chat template"):
        wording("chat")
    with pytest.raises(InputError, match="turn `x`: the tokenizer gives token"):
        Wording(tiny_tokenizer(), "vicuna", 5).asked(item, opens=True)


def test_shots_are_earlier_turns_written_out_again(model, tmp_path):
    (conversation,) = read_task("grocery", [grocery(tmp_path / "keys.jsonl", 1, 2)])
    items = conversation.items
    tokenizer = tiny_tokenizer()
    asked = asked_behind(wording(), [(items[0], 0), (items[1], 2)], items[2])
    before = f"USER: {items[0].text}\n\nASSISTANT: OK\nUSER: {items[1].text}\n\nASSISTANT: C\n"
    assert tokenizer.decode(asked.ids) == f"{before}USER: {items[2].text}\n\nASSISTANT:"
    alone = [
        play_shots(model, wording(), "grocery", Conversation("x", (item,)), shots=0, history="self")["chosen"]
        for item in items
    ]
    assert play_shots(model, wording(), "grocery", conversation, shots=0, history="gold")["chosen"] == "".join(alone)
    # With every earlier turn as a shot, the text is that of the whole dialogue so far but for the line breaks.
    found = play_shots(model, wording(), "grocery", conversation, shots=9, history="gold")
    assert found["cache_tokens"] > sum(len(ids_of(item.text)) for item in items)


def test_a_run_goes_on_and_grows(model, tmp_path):
    path = tmp_path / "lines.jsonl"
    conversations = tuple(read_task("grocery", [grocery(tmp_path / "keys.jsonl", 2, 1)]))
    arms = (Arm("streaming", 90), Arm("sirllm", 90, recent=8))

    def run(count, some, where=path):
        work = ChoiceWork("grocery", conversations[:count], some)
        return measure_choices(model, wording(), [work], where, key={"model": "x"})

    run(1, arms[:1])
    first = path.read_bytes()
    table, reports = run(2, arms)
    assert path.read_bytes().startswith(first)
    assert len(path.read_bytes().splitlines()) == 1 + 4
    whole, again = run(2, arms, tmp_path / "other.jsonl")
    assert table.equals(whole)
    assert reports == again
    # A dialogue of the same name that asks something else is not taken for it.
    (changed,) = read_task("grocery", [grocery(tmp_path / "keys.jsonl", 1, 2)])
    conversations = (changed,)
    run(1, arms[:1])
    assert len(path.read_bytes().splitlines()) == 1 + 5


def test_the_published_shots_go_on_across_dialogues(model, tmp_path):
    path = tmp_path / "lines.jsonl"
    conversations = read_task("grocery", [grocery(tmp_path / "keys.jsonl", 2, 1)])
    table, report = measure_shots(
        model, wording(), "grocery", conversations, path, shots=(2,), history="gold", key={}, reference=True
    )
    shots = [(item, item.gold) for item in conversations[0].items]
    apart = play_shots(
        model, wording(), "grocery", conversations[1], shots=2, history="gold", before=shots, reference=True
    )
    assert table["chosen"].to_list()[1] == apart["chosen"]
    assert table["tokens"].to_list()[1] == apart["tokens"]
    assert report["arms"][0]["shots"] == 2


RUNS = ["04_mha", *(pytest.param(name, marks=pytest.mark.soak) for name in ("15_mha", "24_gqa", "27_mha", "28_gqa"))]


@pytest.mark.parametrize("run_id", RUNS)
def test_the_published_code_answers_the_same(shared_dir, run_id):
    """From its data files: every answer, every token read, every eviction."""
    folder, data = shared_dir / "reference" / "sirllm", shared_dir / "data" / "sirllm"
    if not folder.is_dir() or not data.is_dir():
        pytest.skip("needs the numbers and the data of the published code in ../shared, which are not here")
    runs = json.loads((folder / "expected.json").read_text())["runs"]
    run = next(run for run in runs if run["run_id"].startswith(run_id))
    source = find_model(str(folder / "model" / run["model"]))
    model = load_stream_model(source, device=torch.device("cpu"), dtype=torch.float32)
    own = Wording(load_tokenizer(source), "vicuna", 2048)
    kind, _, rest = run["conv_id"].partition("_")
    if kind == "grocery":
        named = {each.name: each for each in read_task("grocery", [data / "keys.jsonl"])}
        task, conversations = "grocery", [named[name] for name in rest.split("_")]
    elif kind == "rps":
        path = data / "rock_paper_scissors_dominant_paper.jsonl"
        task, conversations = "rps", read_task("rps", [path], rounds=60)
    else:
        named = {each.name: each for each in read_task("dailydialog", [data / "dailydialog.jsonl"], lines=None)}
        task, conversations = "dailydialog", [named[name] for name in ("901", "905", "915", "924", "944", "949")]
    if run["method"].startswith("fewshot"):
        _, shots, answers = run["method"].split("_")
        found, before = [], []
        for each in conversations:
            found.append(
                play_shots(
                    model, own, task, each, shots=int(shots), history="gold" if answers == "gold" else "self",
                    before=before, reference=True,
                )
            )  # fmt: skip
            answered = [ord(letter) - ord("A") for letter in found[-1]["chosen"]]
            answered = [item.gold for item in each.items] if answers == "gold" else answered
            before = list(zip(each.items, answered, strict=True))
    else:
        budget = run["start_size"] + run["entropy_size"] + run["recent_size"]
        arm = Arm(
            {"sirllm": "sirllm", "streamllm": "streaming"}[run["method"]], budget, sinks=run["start_size"],
            recent=run["recent_size"], decay=run["decay"], first_token="max", ties="older",
            score="as-published" if run["score"] == "as_coded" else "surprisal",
        )  # fmt: skip
        found = [play(model, own, task, each, arm, history="self") for each in conversations]
        assert sum(each["tokens"] for each in found) == sum(len(turn["fed_ids"]) for turn in run["turns"])
        assert sum(each["evictions"] for each in found) == run["evictions"]
    assert "".join(each["chosen"] for each in found) == "".join("ABCDE"[turn["pred"]] for turn in run["turns"])
