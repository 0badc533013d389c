"""The rounds of a batch: prompts read behind their prefixes, then a token for every row until all have ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pyllm.errors import PrerequisiteError
from pyllm.lm.backends.contract import Completion, Finish, Request
from pyllm.lm.backends.prefixes import Ids
from pyllm.lm.backends.sampling import choose_tokens, gumbel_noise
from pyllm.lm.backends.slots import Prefix, SlotCache
from pyllm.lm.backends.wording import Wording, WordingError

_CELLS = {"cpu": 1 << 22, "cuda": 1 << 28}

Remembered = Callable[[], Prefix]
"""Copies what the model remembers of a row that has ended."""


class Row:
    """A request while it is answered.

    Args:
        request: What is asked.
        ids: Its prompt.
        prefix: What is there of it already.
        reused: For how many tokens.
        wording: Turns tokens into text.
    """

    def __init__(self, request: Request, ids: Ids, prefix: Prefix | None, reused: int, wording: Wording) -> None:
        self.request, self.ids, self.prefix, self.reused = request, ids, prefix, reused
        self._wording = wording
        self.generated: list[int] = []
        self.generator: torch.Generator | None = None
        self.finish: Finish | None = None
        self.room = request.decoding.max_new_tokens
        self.fed = self.computed = self.settled = 0
        self.busy_seconds = 0.0
        # A token is a byte at least; some more, for characters that are cut.
        self._tail = max((len(stop.encode()) for stop in request.decoding.stop), default=0) + 8

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._wording.end_ids

    @property
    def fresh(self) -> int:
        """Prompt tokens that are not there yet."""
        return len(self.ids) - self.reused

    @property
    def may_end(self) -> bool:
        """Whether the next token may end the answer."""
        return len(self.generated) >= self.request.decoding.min_new_tokens

    @property
    def read(self) -> list[int]:
        """What the model has read of it: the prompt and the answer but for its last token."""
        return [*self.ids.tolist(), *self.generated[:-1]]

    def seed(self, device: torch.device) -> None:
        """Make its source of chance."""
        if self.request.decoding.temperature > 0.0:
            self.generator = torch.Generator(device).manual_seed(self.request.seed)

    def add(self, token: int) -> None:
        """Take the next token, and see whether the answer ends with it."""
        self.generated.append(token)
        decoding = self.request.decoding
        ended = token in self._wording.end_ids and len(self.generated) > decoding.min_new_tokens
        if ended or (decoding.stop and self._stopped()):
            self.finish = "stop"
        elif len(self.generated) >= decoding.max_new_tokens:
            self.finish = "length"

    def completion(self, seconds: float, batch_size: int) -> Completion:
        """What became of it, in a batch of at most so many."""
        ids = self.generated
        if ids and ids[-1] in self._wording.end_ids and self.finish == "stop":
            ids = ids[:-1]
        text = self._wording.text(ids)
        cuts = [place for stop in self.request.decoding.stop if (place := text.find(stop)) >= 0]
        return Completion(
            self.request.id,
            text[: min(cuts)] if cuts else text,
            self.finish,
            prompt_tokens=len(self.ids),
            cached_tokens=max(len(self.ids) - self.computed, 0),
            generated_tokens=len(self.generated),
            wall_seconds=seconds,
            busy_seconds=self.busy_seconds,
            batch_size=batch_size,
        )

    def _stopped(self) -> bool:
        text = self._wording.text(self.generated[-self._tail :])
        return any(stop in text for stop in self.request.decoding.stop)


class Decoder:
    """A model and the rounds it makes.

    Args:
        model: The transformers model, in evaluation mode.
        context_tokens: Most positions it was made for, or None when it states none.
    """

    def __init__(self, model: PreTrainedModel, context_tokens: int | None) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.device = model.device
        self.token_bytes = 0
        self._exact = model.dtype == torch.float32

    def check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        """See that a prompt and its answer fit into the model's context.

        Raises:
            WordingError: They do not.
        """
        if self.context_tokens is not None and prompt_tokens + new_tokens > self.context_tokens:
            raise WordingError(
                f"the prompt of {prompt_tokens:,} tokens and {new_tokens:,} new ones exceed the model's context of"
                f" {self.context_tokens:,}"
            )

    def extend(self, ids: Ids, prefix: Prefix | None, reused: int) -> Prefix:
        """Compute a prefix, going on from a shorter one."""
        cache = SlotCache([0], [prefix], reused, len(ids))
        self._forward(ids[None, reused:], cache, None, np.arange(reused, len(ids))[None])
        made = cache.prefix(0, 0, ids.tolist())
        self.token_bytes = made.bytes // made.tokens
        return made

    def run(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Remembered]]:
        """Answer rows; each comes when it has ended, and its memory can be copied until the next one comes."""
        started = time.perf_counter()
        cache, starts, slot, logits = self._read(rows)
        self._charge(rows, started, [row.fed for row in rows])
        _even_out(rows)
        active = list(rows)
        while True:
            started = time.perf_counter()
            for row, token in zip(active, self._choose(active, logits), strict=True):
                row.add(token)
            self._charge(active, started, [1] * len(active))
            for place, row in enumerate(active):
                if row.finish is not None:
                    yield row, _remembering(cache, place, starts[place], row)
            left = [place for place, row in enumerate(active) if row.finish is None]
            if not left:
                return
            started = time.perf_counter()
            if len(left) < len(active):
                cache.keep_rows(torch.tensor(left, device=self.device))
                active, starts = [active[place] for place in left], [starts[place] for place in left]
            last = np.asarray([[row.generated[-1]] for row in active])
            positions = np.asarray([[slot - start] for start in starts])
            slot += 1
            logits = self._forward(last, cache, self._mask(starts, slot), positions)
            self._charge(active, started, [1] * len(active))

    def check(self) -> None:
        """Compare a batch behind a prefix with the model's own logits, on a few random tokens.

        Raises:
            PrerequisiteError: They differ: the architecture remembers in a way that slots do not carry.
        """
        generator = torch.Generator().manual_seed(0)
        known = min(int(self.model.config.get_text_config().vocab_size), 1000)
        ids = torch.randint(0, known, (14,), generator=generator).numpy()
        kind = type(self.model).__name__
        hint = "serve it by another program and name that with --endpoint"
        try:
            prefix = self.extend(ids[:6], None, 0)
            rows = [(ids, prefix, 6), (ids[:9], prefix, 5), (ids[7:12], None, 0)]
            cache, starts, slot, first = self._read([_Probe(*row) for row in rows])
            last = np.full((len(rows), 1), ids[0])
            positions = np.asarray([[slot - start] for start in starts])
            second = self._forward(last, cache, self._mask(starts, slot + 1), positions)
        except torch.OutOfMemoryError as error:
            raise PrerequisiteError(f"model `{kind}` leaves no memory on `{self.device}` to answer in") from error
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise PrerequisiteError(f"model `{kind}` cannot be read in batches: {error}", hint=hint) from error
        tolerance = 1e-3 if self._exact else 0.25
        for place, (own, _, _) in enumerate(rows):
            whole = torch.from_numpy(np.append(own, ids[0])[None]).to(self.device)
            expected = self.model(input_ids=whole, use_cache=False).logits[0, -2:].float().log_softmax(-1)
            got = torch.stack([first[place], second[place]]).log_softmax(-1)
            worst = float((got - expected).exp().sub(1).abs().mul(expected.exp()).max())
            if not worst <= tolerance:
                raise PrerequisiteError(
                    f"model `{kind}` cannot be read in batches: a probability is {worst:.3g} off the model's own",
                    hint=hint,
                )

    def _read(self, rows: "Sequence[Row | _Probe]") -> tuple[SlotCache, list[int], int, Float[Tensor, "batch vocab"]]:
        """Read prompts behind their prefixes: the cache, each row's first slot, the next slot, the next logits."""
        lengths = [len(row.ids) for row in rows]
        longest, block = max(lengths), max(row.fresh for row in rows)
        starts = [longest - length for length in lengths]
        cache = SlotCache(starts, [row.prefix for row in rows], longest - block, longest + rows[0].room)
        ids = np.zeros((len(rows), block), dtype=np.int64)
        for number, row in enumerate(rows):
            row.fed = min(block, lengths[number])
            ids[number, block - row.fed :] = row.ids[lengths[number] - row.fed :]
            if isinstance(row, Row):
                row.computed += row.fed
                row.seed(self.device)
        positions = (np.arange(longest - block, longest)[None] - np.asarray(starts)[:, None]).clip(min=0)
        # A stretch at a time: masks and scores have a cell for each pair of a new token and a slot.
        logits = torch.empty(0)
        width = max(_CELLS.get(self.device.type, 1 << 26) // (len(rows) * longest), 16)
        for start in range(0, block, width):
            end = min(start + width, block)
            mask = self._mask(starts, longest - block + end)
            logits = self._forward(ids[:, start:end], cache, mask, positions[:, start:end])
        return cache, starts, longest, logits

    def _choose(self, rows: Sequence[Row], logits: Float[Tensor, "batch vocab"]) -> list[int]:
        decoding = rows[0].request.decoding
        generators = [row.generator for row in rows if row.generator is not None]
        noise = gumbel_noise(generators, logits.shape[-1]) if generators else None
        chosen = choose_tokens(self._allowed(rows, logits), decoding, noise)
        tokens: list[int] = chosen.tokens.tolist()
        if self._exact:
            for place in chosen.doubtful.nonzero()[:, 0].tolist():
                row = rows[place]
                alone = self._allowed([row], self._alone(row))
                own = None if noise is None else noise[place : place + 1]
                tokens[place] = int(choose_tokens(alone, decoding, own).tokens[0])
        return tokens

    def _allowed(self, rows: Sequence[Row], logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        ends = sorted(rows[0].end_ids)
        for place, row in enumerate(rows):
            if not row.may_end:
                logits[place, ends] = -torch.inf
        return logits

    def _alone(self, row: Row) -> Float[Tensor, "1 vocab"]:
        """Logits of a row's next token, computed in the one way that no batch and no prefix changes."""
        ids = np.concatenate([row.ids, np.asarray(row.generated, dtype=np.int64)])
        row.settled += len(ids)
        return self._forward(ids[None], SlotCache([0], [None], 0, len(ids)), None, np.arange(len(ids))[None])

    def _mask(self, starts: Sequence[int], slots: int) -> Int[Tensor, "batch slots"] | None:
        if not any(starts):
            return None
        return torch.from_numpy((np.arange(slots)[None] >= np.asarray(starts)[:, None]).astype(np.int64)).to(
            self.device
        )

    def _forward(
        self, ids: Int[np.ndarray, "batch new"], cache: SlotCache, mask: Tensor | None, positions: np.ndarray
    ) -> Float[Tensor, "batch vocab"]:
        output = self.model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=mask,
            position_ids=torch.from_numpy(positions).to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _charge(self, rows: Sequence[Row], started: float, shares: Sequence[int]) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = (time.perf_counter() - started) / max(sum(shares), 1)
        for row, share in zip(rows, shares, strict=True):
            row.busy_seconds += seconds * share


def _even_out(rows: Sequence[Row]) -> None:
    """Share what a row computed beyond its own prompt with rows that had less to compute.

    One row brings the prefix of a batch, and rows with little to read are read as far as the others.
    """
    beyond = 0
    for row in [*rows, *rows]:
        row.computed += beyond
        beyond = max(row.computed - len(row.ids), 0)
        row.computed -= beyond
    rows[-1].computed += beyond


def _remembering(cache: SlotCache, place: int, start: int, row: Row) -> Remembered:
    return lambda: cache.prefix(place, start, row.read)


@dataclass(slots=True)
class _Probe:
    """A row of the check, which is read and not answered."""

    ids: Ids
    prefix: Prefix | None
    reused: int
    room: int = 1
    fed: int = 0

    @property
    def fresh(self) -> int:
        return len(self.ids) - self.reused
