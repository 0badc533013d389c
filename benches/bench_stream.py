"""The bounded cache against plain transformers, against what the published code does, and with many dialogues.

Usage: python benches/bench_stream.py [--models nano,54m] [--caches 512,1024] [--rounds N] [--only PARTS] [--json FILE]

One process and one thread in float32; the contestants take turns within every round, and a round's figures are
compared with each other only. CPU seconds of the thread; medians of the rounds (lowest to highest). Before anything is
timed, what the contestants keep is compared.

decode    an answer token by token in a full cache: choosing it, its score, and making room for 32 or for 1 at a time,
          against transformers' own cache at the same lengths, which grows there and is cut back outside the timing
question  questions with answers to choose among, cache 512: the prompt once and the answers from its logits, against
          a pass for each answer (`published_twin.py`); useful tokens are the prompt and the chosen answer
tokens    one token after another with room for one at a time, cache 512, against the same twin
choosing  who stays of 1,024 tokens: the choice alone, all of making room, and a sort in Python
batch     64 dialogues that generate together, and one alone; wall seconds
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from published_twin import NAME, PublishedTwin
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache

from pyllm.lm.sources import find_model
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.memory import Memory
from pyllm.stream.model import StreamModel, stream_model
from pyllm.stream.policies import policy_of
from pyllm.stream.selection import highest, within_budget
from pyllm.stream.settings import Budget, StreamSettings

STEPS = 32
PROMPT, ANSWERS = 58, 5
"""As the questions of the grocery task have them."""
Times = dict[str, list[float]]


def random_llama(layers: int, width: int, vocabulary: int) -> PreTrainedModel:
    """Random weights: what a forward pass costs does not depend on them."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


def models_of(name: str) -> tuple[StreamModel, PreTrainedModel, PreTrainedModel]:
    """The same weights for us, for plain transformers, and for the twin."""

    def made(attention: str) -> PreTrainedModel:
        if name == "54m":
            model = random_llama(12, 512, 32_000)
            model.set_attn_implementation(attention)
            return model.eval()
        folder = find_model(name).folder
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()

    return stream_model(made("sdpa"), name), made("sdpa"), made(NAME)


def ids_of(model: PreTrainedModel, count: int, seed: int) -> list[int]:
    """Random tokens."""
    vocabulary = int(model.config.vocab_size)
    return np.random.default_rng(seed).integers(3, vocabulary, count).tolist()


def clocked(times: Times, name: str, work: Callable[[], object], units: int = 1) -> None:
    """Note the thread's CPU seconds of some work, a unit of it."""
    started = time.thread_time()
    work()
    times.setdefault(name, []).append((time.thread_time() - started) / units)


def in_turns(rounds: int, contestants: dict[str, Callable[[Times], None]]) -> Times:
    """Let the contestants take turns, from the other end in every second round; the first round is not counted."""
    times: Times = {}
    for number in range(rounds + 1):
        names = list(contestants)
        for name in names if number % 2 else reversed(names):
            contestants[name](times)
        if not number:
            times.clear()
    return times


def filled(model: StreamModel, cache: int, **more: Any) -> Dialogue:
    """A dialogue that has a full cache and evicted before."""
    dialogue = Dialogue(model, StreamSettings(budget=Budget(4, cache - 36, 32), **more))
    dialogue.read_turn(ids_of(model.model, 2 * cache, 1))
    dialogue.begin_turn()
    return dialogue


def decode(models: tuple[StreamModel, PreTrainedModel, PreTrainedModel], cache: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a token, ours in blocks of 32 and of 1, and plain transformers' at the same lengths."""
    ours, plain, _ = models

    def answering(block: int) -> Callable[[Times], None]:
        dialogue = filled(ours, cache)
        dialogue.feed(ids_of(plain, 3 * STEPS, 2), block=block)
        while block > 1 and dialogue.cache.tokens < cache:
            dialogue.feed([5], block=block)

        def answer() -> None:
            for _ in range(STEPS):
                assert dialogue.logits is not None
                dialogue.feed([int(dialogue.logits.argmax())], block=block)
                if dialogue.cache.tokens > cache:
                    sys.exit(f"{dialogue.cache.tokens} tokens are in a cache of {cache}")

        return lambda times: clocked(times, f"block {block}", answer, STEPS)

    whole = DynamicCache(config=plain.config)
    with torch.inference_mode():
        plain(input_ids=torch.tensor([ids_of(plain, cache - STEPS, 3)]), past_key_values=whole, use_cache=True)

    def growing(times: Times) -> None:
        def answer() -> None:
            token = 5
            with torch.inference_mode():
                for _ in range(STEPS):
                    made = plain(input_ids=torch.tensor([[token]]), past_key_values=whole, use_cache=True)
                    token = int(made.logits[0, -1].argmax())

        clocked(times, "transformers", answer, STEPS)
        whole.crop(-STEPS)

    times = in_turns(rounds, {"block 32": answering(32), "transformers": growing, "block 1": answering(1)})
    return told(times, against="transformers", unit="ms", scale=1e3)


def question(models: tuple[StreamModel, PreTrainedModel, PreTrainedModel], rounds: int) -> dict[str, Any]:
    """Milliseconds a useful token of questions with answers to choose among."""
    ours, _, twin_model = models
    settings = StreamSettings(
        budget=Budget(4, 508, 0), score="as-published", first_token="max", decay=0.7, reference=True
    )
    dialogue, twin = Dialogue(ours, settings), PublishedTwin(twin_model, 4, 508, 0)
    length = PROMPT + 1
    asked = [(ids_of(twin_model, PROMPT, seed), [[7 + n] for n in range(ANSWERS)]) for seed in range(rounds + 12)]
    number = {"ours": 0, "twin": 0}
    chosen: dict[str, list[int]] = {"ours": [], "twin": []}

    def ask_ours() -> None:
        prompt, answers = asked[number["ours"]]
        dialogue.begin_turn()
        dialogue.reserve(length)
        dialogue.feed(prompt)
        assert dialogue.logits is not None
        likeliest = dialogue.logits.log_softmax(-1)[[answer[0] for answer in answers]]
        best = int(likeliest.argmax())
        dialogue.feed(answers[best])
        chosen["ours"].append(best)
        number["ours"] += 1

    @torch.inference_mode()
    def ask_twin() -> None:
        if number["twin"]:
            twin.make_room(length)
            twin.entropies = [entropy * 0.7 for entropy in twin.entropies]
        chosen["twin"].append(twin.answer(*asked[number["twin"]]))
        number["twin"] += 1

    for _ in range(10):
        ask_ours()
        ask_twin()
    times = in_turns(
        rounds,
        {"ours": lambda times: clocked(times, "ours", ask_ours, length),
         "twin": lambda times: clocked(times, "twin", ask_twin, length)},
    )  # fmt: skip
    agree(dialogue, twin)
    if chosen["ours"] != chosen["twin"]:
        sys.exit("the twin chose other answers")
    return told(times, against="twin", unit="ms", scale=1e3)


def tokens(models: tuple[StreamModel, PreTrainedModel, PreTrainedModel], rounds: int) -> dict[str, Any]:
    """Milliseconds a token, one after another in a full cache, evicting at each."""
    ours, _, twin_model = models
    settings = StreamSettings(budget=Budget(4, 508, 0), score="as-published", first_token="max", reference=True)
    blocks = Dialogue(ours, settings)
    single, twin = Dialogue(ours, settings), PublishedTwin(twin_model, 4, 508, 0)
    first = ids_of(twin_model, 500, 4)
    with torch.inference_mode():
        twin.read(first)
    for dialogue in (single, blocks):
        dialogue.read_turn(first)

    def read(dialogue: Dialogue, block: int) -> Callable[[Times], None]:
        given = iter(ids_of(twin_model, STEPS * (rounds + 1), 5))

        def some() -> None:
            for _ in range(STEPS):
                # A turn of one token, as the published code's long-text run has it.
                dialogue.begin_turn()
                dialogue.feed([next(given)], block=block)

        return lambda times: clocked(times, f"block {block}", some, STEPS)

    given = iter(ids_of(twin_model, STEPS * (rounds + 1), 5))

    @torch.inference_mode()
    def some() -> None:
        for _ in range(STEPS):
            twin.make_room(1)
            twin.read([next(given)])

    contestants = {"block 1": read(single, 1), "twin": lambda times: clocked(times, "twin", some, STEPS)}
    times = in_turns(rounds, {**contestants, "block 32": read(blocks, 32)})
    agree(single, twin)
    return told(times, against="twin", unit="ms", scale=1e3)


def agree(dialogue: Dialogue, twin: PublishedTwin) -> None:
    """End the bench if the twin holds other tokens: then the times say nothing."""
    if dialogue.memory.positions.tolist() != twin.kept_positions or dialogue.memory.evictions < 3:
        sys.exit("the twin keeps other tokens")


def choosing(rounds: int) -> dict[str, Any]:
    """Microseconds of choosing among 1,024 tokens."""
    random = np.random.default_rng(6)
    scores = random.exponential(2.0, 1024)
    held = np.arange(1024) < 4
    settings = StreamSettings(budget=Budget(4, 988, 32))
    entropies = scores.tolist()

    def memory_of(after: int) -> Callable[[Times], None]:
        made = StreamSettings(budget=settings.budget, span_after=after)
        memory = Memory(made, policy_of(made))
        memory.begin_turn()
        memory.append(scores)

        def evict(times: Times) -> None:
            clocked(times, f"making room, spans of {after}", lambda: memory.make_room(32, lambda: np.empty(0)))
            memory.append(random.exponential(2.0, 32))
            memory.begin_turn()

        return evict

    def partition() -> object:
        return within_budget(highest(scores, 956, newer_first=True), held, 992)

    def python_sort() -> object:
        return sorted(sorted(range(1024), key=lambda place: -entropies[place])[:956])

    times = in_turns(
        20 * rounds,
        {
            "the choice": lambda times: clocked(times, "the choice", partition),
            "making room": memory_of(0),
            "with spans": memory_of(4),
            "a sort in Python": lambda times: clocked(times, "a sort in Python", python_sort),
        },
    )
    return told(times, against="a sort in Python", unit="us", scale=1e6)


def batch(model: StreamModel, cache: int, new_tokens: int) -> dict[str, Any]:
    """Tokens a second of 64 dialogues that generate together and of one alone, each with a full cache."""
    from many_dialogues import speed_of

    settings = StreamSettings(budget=Budget(4, cache - 36, 32))
    speeds = {
        count: speed_of(model, settings, dialogues=count, prompt_tokens=cache, new_tokens=new_tokens)
        for count in (1, 64)
    }
    return {
        "unit": "tokens/s",
        "cache": cache,
        **{f"{count} dialogues": round(speed.tokens_per_second, 1) for count, speed in speeds.items()},
        "ratio": round(speeds[64].tokens_per_second / speeds[1].tokens_per_second, 2),
    }


def told(times: Times, *, against: str, unit: str, scale: float) -> dict[str, Any]:
    """Median, lowest and highest of each, and of the ratios to one of them within the rounds."""
    rows = {}
    for name, figures in times.items():
        ratios = [base / figure for base, figure in zip(times[against], figures, strict=True)]
        rows[name] = {
            "median": round(statistics.median(figures) * scale, 3),
            "lowest": round(min(figures) * scale, 3),
            "highest": round(max(figures) * scale, 3),
            "times_faster": round(statistics.median(ratios), 3),
            "times_faster_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return {"unit": unit, "against": against, "contestants": rows}


def show(title: str, made: dict[str, Any]) -> None:
    """Print one part."""
    print(title)
    if "contestants" not in made:
        print("  " + ", ".join(f"{name} {value}" for name, value in made.items()))
        return
    for name, row in made["contestants"].items():
        low, high = row["times_faster_range"]
        print(
            f"  {name:24} {row['median']:9.3f} {made['unit']} ({row['lowest']:.3f}-{row['highest']:.3f}),"
            f" {row['times_faster']:.2f} times {made['against']} ({low:.2f}-{high:.2f})"
        )


def main() -> None:
    """Run the parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="nano,54m", help="folders, hub ids, nano, or 54m (random weights)")
    parser.add_argument("--caches", default="512,1024")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="decode,question,tokens,choosing,batch")
    parser.add_argument("--batch-cache", type=int, default=128)
    parser.add_argument("--batch-tokens", type=int, default=32)
    parser.add_argument("--json", type=Path)
    choices = parser.parse_args()
    torch.set_num_threads(1)
    parts = choices.only.split(",")
    found: dict[str, Any] = {}
    for name in choices.models.split(",") if set(parts) - {"choosing"} else []:
        models = models_of(name)
        for cache in map(int, choices.caches.split(",") if "decode" in parts else []):
            found[f"decode, {name}, cache {cache}"] = decode(models, cache, choices.rounds)
            show(*list(found.items())[-1])
        for part, run in (("question", question), ("tokens", tokens)):
            if part in parts:
                found[f"{part}, {name}, cache 512"] = run(models, choices.rounds)
                show(*list(found.items())[-1])
        if "batch" in parts:
            found[f"batch, {name}"] = batch(models[0], choices.batch_cache, choices.batch_tokens)
            show(*list(found.items())[-1])
    if "choosing" in parts:
        found["choosing among 1,024 tokens"] = choosing(choices.rounds)
        show(*list(found.items())[-1])
    if choices.json is not None:
        facts = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.processor()}
        facts |= {"transformers": transformers.__version__, "rounds": str(choices.rounds)}
        choices.json.write_text(json.dumps({"facts": facts, "parts": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
