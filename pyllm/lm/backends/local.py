"""A local transformers model as a backend: batches, prefixes computed once, answers that no batch can change.

Requests that begin alike are answered together, and what they share is computed once. Follow-up requests come first
(depth first), while what their predecessors left is at hand. In float32, answers are the same for any batch size, with
and without reuse: see `pyllm.lm.backends.sampling` for how near ties are settled. In shorter types rounding shows.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyllm.data.tokens import TrainingTemplate
from pyllm.errors import PrerequisiteError
from pyllm.lm.backends.contract import Completion, Decoding, Done, Request
from pyllm.lm.backends.decoding import Decoder, Row
from pyllm.lm.backends.prefixes import (
    LEAST_GAIN_TOKENS,
    Ids,
    PrefixStore,
    as_ids,
    batches,
    common_tokens,
    shared_tokens,
)
from pyllm.lm.backends.slots import Prefix
from pyllm.lm.backends.wording import TemplateName, Wording, WordingError
from pyllm.lm.loading import load_pretrained, load_tokenizer
from pyllm.lm.sources import ModelSource
from pyllm.lm.templates import give_template
from pyllm.lm.tokenizing import find_tokenizer

_log = logging.getLogger(__name__)

_BATCH_ROWS = {"cpu": 16, "cuda": 64}
_STORE_BYTES = 1 << 31
_BATCH_BYTES = 1 << 31
_FREE_MEMORY_SHARE = 0.4


@dataclass(slots=True)
class Work:
    """What a local backend has done.

    Args:
        prompt_tokens: Of all prompts.
        computed_tokens: Prompt tokens that went through the model, those of shared prefixes included.
        settled_tokens: Tokens that went through it again to settle near ties.
        generated_tokens: Of all answers.
        seconds: In which the model computed.
        batches: How many there were.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    settled_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    batches: int = 0


@dataclass(slots=True)
class _Waiting:
    """A request that waits, as tokens.

    Args:
        request: What is asked.
        ids: Its prompt.
        shared: Tokens at its beginning that another request has too.
        left: What its predecessor left.
        ended: Whether it was answered.
    """

    request: Request
    ids: Ids
    shared: int = 0
    left: Prefix | None = None
    ended: bool = False


@dataclass(slots=True)
class LocalBackend:
    """A model in this process.

    Args:
        decoder: The model and its rounds.
        wording: How prompts become tokens and tokens text.
        identity: What decides the answers: digests of weights and tokenizer.
        reuse: Compute what prompts share once.
        batch_rows: Most requests at once; None for what suits the device.
    """

    decoder: Decoder
    wording: Wording
    identity: dict[str, Any]
    reuse: bool = True
    batch_rows: int | None = None
    work: Work = field(default_factory=Work)

    def facts(self) -> dict[str, Any]:
        """Digests of the model, its type and device, and how prompts are written."""
        return {
            "backend": "local",
            **self.identity,
            "dtype": str(self.decoder.model.dtype).removeprefix("torch."),
            "device": self.decoder.device.type,
            "template": self.wording.template,
        }

    @torch.inference_mode()
    def answer(self, requests: Iterable[Request], done: Done) -> None:
        """See `pyllm.lm.backends.contract.Backend`."""
        store = PrefixStore(self._store_bytes())
        stack = self._planned(self._waiting(requests, done), store)
        while stack:
            batch = stack.pop()
            following: list[_Waiting] = []
            try:
                self._run(batch, done, store, following)
            except torch.OutOfMemoryError:
                store.clear()
                torch.cuda.empty_cache()
                stack += self._smaller(batch, done)
            stack += self._planned(following, store)

    def _smaller(self, batch: Sequence[_Waiting], done: Done) -> list[list[_Waiting]]:
        """What is left of a batch that memory was too small for, in two; one alone is an error."""
        left = [each for each in batch if not each.ended]
        if len(batch) == 1 and left:
            (each,) = left
            reason = f"the prompt of {len(each.ids):,} tokens does not fit into the memory of `{self.decoder.device}`"
            after = self._waiting(done(Completion(each.request.id, error=reason)), done)
            return [after] if after else []
        _log.info("a batch of %d does not fit into memory: it is read in two", len(batch))
        half = len(left) // 2
        return [part for part in (left[half:], left[:half]) if part]

    def _waiting(self, requests: Iterable[Request], done: Done) -> list[_Waiting]:
        """Requests as tokens; those that cannot be asked are done with at once."""
        ready: list[_Waiting] = []
        asked = list(requests)
        while asked:
            following: list[Request] = []
            for request in asked:
                try:
                    ids = self.wording.ids(request.prompt)
                    self.decoder.check_length(len(ids), request.decoding.max_new_tokens)
                except WordingError as error:
                    following += done(Completion(request.id, error=str(error), attempts=0))
                    continue
                ready.append(_Waiting(request, ids))
            asked = following
        return ready

    def _planned(self, ready: Sequence[_Waiting], store: PrefixStore) -> list[list[_Waiting]]:
        """Requests as batches, the one to run first at the end."""
        if self.reuse:
            for each, shared in zip(ready, shared_tokens([each.ids for each in ready]), strict=True):
                left = 0 if each.left is None else common_tokens(each.left.ids.numpy(), each.ids)
                each.shared = max(shared, store.seen(each.ids), left)
        alike: dict[Decoding, list[_Waiting]] = {}
        for each in ready:
            alike.setdefault(each.request.decoding, []).append(each)
        planned: list[list[_Waiting]] = []
        for decoding, members in alike.items():
            cut = batches(
                [each.ids for each in members],
                [each.shared for each in members],
                rows=self._most_rows(),
                tokens=self._batch_tokens(),
                new_tokens=decoding.max_new_tokens,
            )
            planned += [[members[place] for place in batch] for batch in cut]
        return planned[::-1]

    def _run(self, batch: Sequence[_Waiting], done: Done, store: PrefixStore, following: list[_Waiting]) -> None:
        """Answer a batch; what follows from it is added to `following`, with what the model remembers for it."""
        started = time.perf_counter()
        asked = {each.request.id: each for each in batch}
        rows = [self._row(each, store) for each in batch]
        for row, remembered in self.decoder.run(rows):
            self._count(row)
            asked[row.request.id].ended = True
            after = self._waiting(done(row.completion(time.perf_counter() - started, self._most_rows())), done)
            following += after
            for each in after if self.reuse else ():
                gain = common_tokens(as_ids(row.read), each.ids) - store.longest(each.ids)[1]
                if gain >= LEAST_GAIN_TOKENS:
                    each.left = remembered()
        self.work.batches += 1

    def _row(self, each: _Waiting, store: PrefixStore) -> Row:
        prefix, reused, computed, seconds = self._prefix(each, store)
        row = Row(each.request, each.ids, prefix, reused, self.wording)
        row.computed, row.busy_seconds = computed, seconds
        return row

    def _prefix(self, each: _Waiting, store: PrefixStore) -> tuple[Prefix | None, int, int, float]:
        """What a prompt can begin with: prefix, tokens of it, tokens computed for it now, seconds that took."""
        if not self.reuse:
            return None, 0, 0, 0.0
        most = len(each.ids) - 1
        prefix, reused = store.longest(each.ids)
        if each.left is not None:
            own = common_tokens(each.left.ids.numpy(), each.ids)
            if own > reused:
                prefix, reused = each.left, own
        wanted = min(each.shared, most)
        computed, seconds = 0, 0.0
        if each.left is None and wanted - reused >= LEAST_GAIN_TOKENS:
            started = time.perf_counter()
            prefix = self.decoder.extend(each.ids[:wanted], prefix, min(reused, wanted - 1))
            computed, seconds = wanted - min(reused, wanted - 1), time.perf_counter() - started
            reused = wanted
            store.keep(prefix)
        return prefix, min(reused, most), computed, seconds

    def _count(self, row: Row) -> None:
        self.work.prompt_tokens += len(row.ids)
        self.work.computed_tokens += row.computed
        self.work.settled_tokens += row.settled
        self.work.generated_tokens += len(row.generated)
        self.work.seconds += row.busy_seconds

    def _most_rows(self) -> int:
        return self.batch_rows or _BATCH_ROWS.get(self.decoder.device.type, 16)

    def _store_bytes(self) -> int:
        if self.decoder.device.type != "cuda":
            return _STORE_BYTES
        free, _ = torch.cuda.mem_get_info(self.decoder.device)
        return int(free * _FREE_MEMORY_SHARE / 2)

    def _batch_tokens(self) -> int:
        """Most tokens of a batch, answers included, so that they fit beside the store."""
        if self.decoder.device.type != "cuda":
            return _BATCH_BYTES // max(self.decoder.token_bytes, 1)
        free, _ = torch.cuda.mem_get_info(self.decoder.device)
        return int(free * _FREE_MEMORY_SHARE) // max(self.decoder.token_bytes, 1)


def load_local_backend(
    source: ModelSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    template: TemplateName = "auto",
    trained_template: TrainingTemplate | None = None,
    reuse: bool = True,
    batch_rows: int | None = None,
) -> LocalBackend:
    """Load a model as a backend.

    Args:
        source: The model.
        device: Where to put it.
        dtype: Type of its weights.
        template: How conversations are written.
        trained_template: Write them as training under this template does; None for the tokenizer's own.
        reuse: Compute what prompts share once.
        batch_rows: Most requests at once; None for what suits the device.

    Raises:
        PrerequisiteError: It is no causal language model, does not fit, or remembers in a way that is not known.
        SettingError: The template is `chat`, and the tokenizer has none.
    """
    tokenizer = load_tokenizer(source)
    if trained_template is not None:
        give_template(tokenizer, trained_template, find_tokenizer(source.name))
    model = load_pretrained(source, dtype=dtype, attention=None)
    try:
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise PrerequisiteError(
            f"model `{source.name}` does not fit into the memory of `{device}`", hint="use a smaller --dtype"
        ) from error
    config = model.config.get_text_config()
    wording = Wording(tokenizer, model.generation_config, int(config.vocab_size), template)
    decoder = Decoder(model, getattr(config, "max_position_embeddings", None))
    with torch.inference_mode():
        decoder.check()
    identity: dict[str, Any] = {**source.digests()}
    if trained_template is not None:
        identity["trained_template"] = trained_template
    return LocalBackend(decoder, wording, identity, reuse, batch_rows)
