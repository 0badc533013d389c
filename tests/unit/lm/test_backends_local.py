"""The local backend: answers that neither the batch nor reuse can change, and prompts computed once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pyllm.data.examples import Example
from pyllm.data.tokens import plain_encoder, text_rows
from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.backends.contract import Completion, Decoding, Message, Request, seed_of
from pyllm.lm.backends.decoding import Decoder
from pyllm.lm.backends.local import LocalBackend, load_local_backend
from pyllm.lm.backends.prefixes import (
    PrefixStore,
    as_ids,
    batches,
    common_tokens,
    distinct_tokens,
    shared_tokens,
)
from pyllm.lm.backends.sampling import choose_tokens, gumbel_noise
from pyllm.lm.backends.slots import Prefix
from pyllm.lm.sources import ModelSource, find_model
from pyllm.lm.tokenizing import find_tokenizer
from tests.support.tiny_models import CONFIGS, save_tiny_model

DEMO = "In the old house by the sea there lived a man who counted the waves each night. " * 2
CPU = torch.device("cpu")


def load(source: ModelSource, *, reuse: bool = True, rows: int | None = None, template: str = "none") -> LocalBackend:
    return load_local_backend(
        source, device=CPU, dtype=torch.float32, reuse=reuse, batch_rows=rows, template=template  # type: ignore[arg-type]
    )  # fmt: skip


def chained(backend: LocalBackend, decoding: Decoding, *, chains: int = 5, calls: int = 3) -> dict[str, Completion]:
    """Chains of calls, each of which goes on from the answer before it, behind one demonstration."""
    found: dict[str, Completion] = {}
    prompts = {f"{chain}/0": f"{DEMO}Number {chain}{' and more' * chain}:" for chain in range(chains)}

    def done(completion: Completion) -> list[Request]:
        found[completion.id] = completion
        chain, call = completion.id.split("/")
        if int(call) + 1 == calls:
            return []
        name = f"{chain}/{int(call) + 1}"
        prompts[name] = f"{prompts[completion.id]}{completion.text}. Then"
        return [Request(name, prompts[name], decoding, seed_of(1, name))]

    backend.answer([Request(name, text, decoding, seed_of(1, name)) for name, text in list(prompts.items())], done)
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_depend_on_no_batch_and_no_reuse(temperature: float) -> None:
    decoding = Decoding(max_new_tokens=10, temperature=temperature, top_p=0.8 if temperature else 1.0)
    texts, computed = [], []
    for reuse, rows in ((False, 1), (True, 1), (True, 3), (False, 16)):
        backend = load(find_model("nano"), reuse=reuse, rows=rows)
        found = chained(backend, decoding)
        texts.append({name: each.text for name, each in found.items()})
        computed.append(backend.work.computed_tokens)
        assert backend.work.prompt_tokens == sum(each.prompt_tokens or 0 for each in found.values())
        spared = sum(each.cached_tokens or 0 for each in found.values())
        assert backend.work.computed_tokens == backend.work.prompt_tokens - spared
        assert sum(each.busy_seconds or 0.0 for each in found.values()) == pytest.approx(backend.work.seconds)
    assert texts[1:] == [texts[0]] * 3
    assert len(set(texts[0].values())) > 5
    assert computed[0] == computed[3]
    assert computed[1] < 0.25 * computed[0]
    assert computed[2] < 0.35 * computed[0]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_greedy_answers_are_those_of_the_model_alone(kind: str, tmp_path: Path) -> None:
    source = find_model(str(save_tiny_model(tmp_path, kind)))
    backend = load(source, rows=3)
    decoding = Decoding(max_new_tokens=6)
    texts = [f"{'the shared beginning of all of them'}{' x' * place}" for place in range(5)]
    found: dict[str, Completion] = {}

    def done(completion: Completion) -> list[Request]:
        found[completion.id] = completion
        return []

    backend.answer([Request(str(place), text, decoding) for place, text in enumerate(texts)], done)
    assert backend.work.computed_tokens < backend.work.prompt_tokens
    model = backend.decoder.model
    for place, text in enumerate(texts):
        ids = backend.wording.ids(text).tolist()
        own: list[int] = []
        for _ in range(6):
            with torch.inference_mode():
                own.append(int(model(torch.tensor([ids + own]), use_cache=False).logits[0, -1].argmax()))
            if own[-1] in backend.wording.end_ids:
                break
        kept = [token for token in own if token not in backend.wording.end_ids]
        assert found[str(place)].text == backend.wording.text(kept)
        assert found[str(place)].generated_tokens == len(own)


def test_near_ties_are_settled_alike_in_every_batch() -> None:
    # Logits one step of rounding apart: what a batch makes of them is chance, so both orders must be in doubt.
    logits = torch.tensor([[4.0, 4.0 + 4e-7, -1.0], [4.0, 3.9, -1.0]])
    chosen = choose_tokens(logits, Decoding(), None)
    assert chosen.doubtful.tolist() == [True, False]
    backend = load(find_model("nano"), rows=4)
    weight = backend.decoder.model.get_output_embeddings().weight.detach()
    with torch.inference_mode():
        weight[500:1000] = weight[3:503].clone()  # twins: exact ties at every step
    first = chained(backend, Decoding(max_new_tokens=6), calls=2)
    assert backend.work.settled_tokens > 0
    backend.batch_rows, backend.reuse = 1, False
    second = chained(backend, Decoding(max_new_tokens=6), calls=2)
    assert {name: each.text for name, each in first.items()} == {name: each.text for name, each in second.items()}


def test_sampling_follows_the_softmax_and_the_nucleus() -> None:
    draws = 20_000
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).repeat(draws, 1)
    noise = gumbel_noise([torch.Generator().manual_seed(3)] * draws, 4)
    for top_p, expected in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.79, [0.625, 0.375, 0.0, 0.0])):
        tokens = choose_tokens(logits, Decoding(temperature=1.0, top_p=top_p), noise).tokens
        shares = torch.bincount(tokens, minlength=4) / draws
        assert (shares - torch.tensor(expected)).abs().max() < 0.015


def one(backend: LocalBackend, prompt: str | tuple[Message, ...], decoding: Decoding) -> Completion:
    found: list[Completion] = []
    backend.answer([Request("r", prompt, decoding)], lambda completion: found.append(completion) or [])  # type: ignore[func-returns-value]
    return found[0]


def test_a_prompt_longer_than_the_context_is_an_error() -> None:
    backend = load(find_model("nano"))
    found = one(backend, "word " * 2000, Decoding(max_new_tokens=5))
    assert found.text is None
    assert "exceed the model's context of 1,280" in str(found.error)
    long = one(backend, "word", Decoding(max_new_tokens=1280))
    assert long.error is not None


def test_the_chat_template_is_the_models_own() -> None:
    backend = load(find_model("nano"), template="auto")
    said = (Message("user", "Name a colour"),)
    expected = backend.wording.ids("Instruction:\nName a colour\nResponse:\n").tolist()
    assert backend.wording.ids(said).tolist() == expected
    assert backend.facts()["template"] == "chat"
    refused = one(backend, (Message("system", "x"), *said), Decoding(max_new_tokens=2))
    assert "the chat template refuses the prompt: only user and assistant turns are known" in str(refused.error)


def test_stop_texts_and_least_tokens() -> None:
    backend = load(find_model("nano"))
    whole = one(backend, DEMO, Decoding(max_new_tokens=24))
    assert whole.text
    stop = whole.text[7:10]
    cut = one(backend, DEMO, Decoding(max_new_tokens=24, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.finish == "stop"
    assert (cut.generated_tokens or 0) < (whole.generated_tokens or 0)
    asked = (Message("user", "Name a colour"),)
    backend = load(find_model("nano"), template="chat")
    ended = one(backend, asked, Decoding(max_new_tokens=200))
    assert ended.finish == "stop"
    least = (ended.generated_tokens or 0) + 5
    longer = one(backend, asked, Decoding(max_new_tokens=least, min_new_tokens=least))
    assert longer.generated_tokens == least
    assert str(longer.text).startswith(str(ended.text))


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    source = find_model(str(save_tiny_model(tmp_path)))
    assert load(source, template="auto").facts()["template"] == "none"
    with pytest.raises(SettingError, match="no chat template"):
        load(source, template="chat")


def test_a_trained_template_is_that_of_training(tmp_path: Path) -> None:
    source = find_model(str(save_tiny_model(tmp_path)))
    backend = load_local_backend(source, device=CPU, dtype=torch.float32, trained_template="alpaca")
    (trained,) = text_rows(
        [Example("", "", 0, "Sort these.", None, "x", None, None)],
        "alpaca",
        plain_encoder(find_tokenizer(source.name)),
        start_id=0,
        end_id=None,
    )
    asked = backend.wording.ids((Message("user", "Sort these."),)).tolist()
    assert trained is not None
    assert trained.ids[: len(asked)] == asked
    assert len(trained.ids) == len(asked) + 1
    assert backend.facts()["template"] == "chat"
    assert backend.facts()["trained_template"] == "alpaca"


def test_a_model_that_remembers_otherwise_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4)
    folder = save_tiny_model(tmp_path)
    transformers.MambaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(PrerequisiteError, match="cannot be read in batches"):
        load(find_model(str(folder)))


def ids(*rows: Sequence[int]) -> list[np.ndarray]:
    return [as_ids(row) for row in rows]


def test_shared_and_distinct_tokens() -> None:
    prompts = ids([1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 9, 9], [7])
    assert shared_tokens(prompts) == [3, 2, 3, 0]
    assert distinct_tokens(prompts) == 4 + 1 + 2 + 1
    assert common_tokens(prompts[0], prompts[0][:2]) == 2


def test_batches_hold_prompts_with_about_as_much_to_read() -> None:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, 9, size=size) for size in generator.integers(1, 900, size=60)]
    shared = [int(generator.integers(0, len(prompt))) for prompt in prompts]
    made = batches(prompts, shared, rows=7, tokens=4000, new_tokens=10)
    assert sorted(number for batch in made for number in batch) == list(range(60))
    for batch in made:
        fresh = [len(prompts[number]) - shared[number] for number in batch]
        assert min(fresh) >= min(0.75 * max(fresh), max(fresh) - 32)
        assert len(batch) <= 7
        assert len(batch) == 1 or len(batch) * (max(len(prompts[number]) for number in batch) + 10) <= 4000


def test_a_store_gives_up_what_was_used_least() -> None:
    def prefix(*tokens: int) -> Prefix:
        states = torch.zeros(1, len(tokens), 4)
        return Prefix(torch.tensor(tokens), ((states, states),))

    store = PrefixStore(3 * 2 * 32)
    store.keep(prefix(1, 2))
    store.keep(prefix(1, 2, 3))  # goes on from the first, which is not kept beside it
    store.keep(prefix(7, 8, 9))
    assert store.longest(as_ids([1, 2, 3, 4]))[1] == 3
    store.keep(prefix(5, 5, 5))
    assert store.longest(as_ids([7, 8, 9]))[1] == 0
    assert store.longest(as_ids([5, 5]))[1] == 2


def test_a_batch_that_memory_is_too_small_for_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(find_model("nano"), rows=8)
    whole = {name: each.text for name, each in chained(backend, Decoding(max_new_tokens=6)).items()}
    forward = Decoder._forward
    calls = 0

    def small(self: Decoder, ids: np.ndarray, *rest: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if len(ids) > 2 and calls % 2:
            raise torch.OutOfMemoryError("too many rows")
        return forward(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "_forward", small)
    found = chained(backend, Decoding(max_new_tokens=6))
    assert {name: each.text for name, each in found.items()} == whole

    def none(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("nothing fits")

    monkeypatch.setattr(Decoder, "_forward", none)
    assert "does not fit into the memory of `cpu`" in str(one(backend, "x", Decoding(max_new_tokens=6)).error)
