"""One dialogue: turns go in, tokens that no longer fit go out, and each turn's trace is kept.

A turn is read so: room is made once for the whole of it (in pieces, each with room of its own, when it is longer than
the room there can be), then older scores fade by one turn, then the tokens are read and scored. A turn may go on after
it was read, as an answer that is sampled token by token: `feed` makes room whenever the cache is full, for a block of
tokens at a time, and nothing fades again until the next turn begins.

Cost: the forward passes; an eviction is a choice among the cached tokens and one gather and rotation of keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from pyllm.errors import SettingError
from pyllm.stream.cache import BoundedCache, DialogueCache
from pyllm.stream.memory import Memory
from pyllm.stream.model import StreamModel
from pyllm.stream.policies import policy_of
from pyllm.stream.reading import Forward, Reads, read_alone
from pyllm.stream.settings import StreamSettings
from pyllm.stream.surprisal import Prediction, TurnScores, takes_largest
from pyllm.stream.watching import watching


@dataclass(frozen=True, slots=True)
class TurnTrace:
    """What a turn did.

    Args:
        cache_tokens_before: Tokens in the cache when it began.
        kept: Original positions that survived its last eviction, ascending; None when none was needed.
        nats: Score of each token fed.
        cache_tokens_after: Tokens in the cache now.
    """

    cache_tokens_before: int
    kept: Int[ndarray, " kept"] | None
    nats: Float[ndarray, " fed"]
    cache_tokens_after: int


def limit_warning(model: StreamModel, settings: StreamSettings) -> str | None:
    """What to say of a cache that is larger than what the model was made for; None where it is not."""
    limit, tokens = model.context_tokens, settings.budget.tokens
    if settings.policy == "full" or limit is None or tokens <= limit:
        return None
    return f"a cache of {tokens:,} tokens is larger than the {limit:,} positions that model `{model.name}` was made for"


class Dialogue:
    """A dialogue over a bounded cache.

    Args:
        model: The model; many dialogues may share it.
        settings: What decides who stays.

    Raises:
        SettingError: There is no such policy, or the model cannot have such positions.
        PrerequisiteError: The policy watches attention, and the model's cannot be watched.

    Example:
        >>> dialogue = Dialogue(model, StreamSettings(budget=Budget(4, 220, 32)))  # doctest: +SKIP
        >>> dialogue.read_turn([5, 17, 2]).cache_tokens_after  # doctest: +SKIP
        3
    """

    def __init__(self, model: StreamModel, settings: StreamSettings) -> None:
        self.model = model
        self.settings = settings
        self.memory = Memory(settings, policy_of(settings))
        self.cache: DialogueCache = self.new_cache()
        """Its own, or a row of a pool while it reads beside others."""
        self.part_tokens = model.forward_tokens
        """Most tokens of one forward pass."""
        self._next: Prediction | None = None
        self._scores: TurnScores | None = None
        self._before = 0
        self._kept: Int[ndarray, " kept"] | None = None
        self._fades = False
        if self.memory.watches == "attention":
            model.watch()

    def new_cache(self) -> BoundedCache:
        """An empty cache of its own, as it begins with."""
        settings = self.settings
        return BoundedCache(
            self.model.plan,
            positions=settings.positions,
            capacity_tokens=settings.budget.tokens if self.memory.evicts else 0,
            limit_tokens=self.model.context_tokens,
        )

    @property
    def logits(self) -> Float[Tensor, " vocab"] | None:
        """What the model predicts next, in float32; None before the first token."""
        return None if self._next is None else self._next.logits

    @property
    def likeliest(self) -> int | None:
        """The token of the largest of these logits; None before the first token."""
        if self._next is None:
            return None
        known = self._next.likeliest
        return int(self._next.logits.argmax()) if known is None else known[0]

    def begin_turn(self) -> None:
        """Begin a turn; its decay waits until room for its first tokens has been made."""
        memory = self.memory
        if self._fades:  # the turn before had no tokens, and counts all the same
            memory.decay()
        memory.begin_turn()
        largest = takes_largest(self.settings.score, self.settings.first_token, first_turn=self._next is None)
        self._scores = TurnScores(self.settings.score, largest)
        self._before, self._kept = self.cache.tokens, None
        self._fades = memory.turn > 0

    def read_turn(self, ids: Sequence[int]) -> TurnTrace:
        """Begin a turn and read all of it."""
        self.begin_turn()
        self.feed(ids)
        return self.trace()

    def reserve(self, count: int) -> None:
        """Make room at once for tokens of the present turn that are fed in parts, as far as there can be room."""
        self._make_room(min(count, self.memory.pieces(count)[0]), 1)

    def feed(self, ids: Sequence[int], *, block: int = 1) -> Float[ndarray, " new"]:
        """Read more tokens of the present turn.

        Args:
            ids: The tokens.
            block: When the cache is full, make room for at least this many, so that single tokens evict rarely. The
                budget is never exceeded.

        Returns:
            Their scores.

        Raises:
            SettingError: No turn has begun, or pinned tokens leave no room.
            PrerequisiteError: The model gives no number for a token.
        """
        return read_alone(self.feeding(ids, block=block), self.read)

    def feeding(self, ids: Sequence[int], *, block: int = 1) -> Reads[Float[ndarray, " new"]]:
        """`feed` as a piece of work whose forward passes are run by someone else."""
        if self._scores is None:
            raise SettingError("no turn has begun: call `begin_turn` first")
        if not len(ids):
            return np.empty(0)
        start, first = 0, len(self._scores.nats)
        whole = torch.tensor(list(ids), dtype=torch.int64)
        for length in self.memory.pieces(len(ids)):
            self._make_room(length, block)
            if self._fades:
                self.memory.decay()
                self._fades = False
            piece = whole[start : start + length]
            for part in (piece,) if length <= self.part_tokens else piece.split(self.part_tokens):
                self._take_in(part, (yield part))
            start += length
        self._check_budget()
        return self._scores.nats[first:]

    def peek(self, ids: Sequence[int]) -> Float[Tensor, "new vocab"]:
        """What the model would predict behind each of some tokens, in float32; nothing is kept of them.

        Room for them must have been made with `reserve`.

        Raises:
            SettingError: They do not fit, or positions are `native-sliding`, where nothing can be taken back.
        """
        if self.settings.positions == "native-sliding":
            raise SettingError("tokens cannot be taken back with `native-sliding` positions", hint="use `cache`")
        if self.memory.evicts and self.cache.tokens + len(ids) > self.settings.budget.tokens:
            raise SettingError(f"{len(ids)} tokens do not fit behind {self.cache.tokens}", hint="call `reserve` first")
        logits = self.read(torch.tensor(list(ids), dtype=torch.int64)).logits
        self.cache.crop(-len(ids))
        return logits

    def read(self, ids: Int[Tensor, " new"]) -> Forward:
        """Run a forward pass of its own over tokens; the cache takes them in, and nothing else does.

        Raises:
            SettingError: It stands in a pool, which runs its passes.
        """
        cache = self.cache
        if not isinstance(cache, BoundedCache):
            raise SettingError("the dialogue reads beside others just now", hint="wait until its turn is done")
        if self.memory.watches != "attention":
            return Forward(self.model.read(ids, cache))
        with watching(cache.tokens + len(ids)) as seen:
            logits = self.model.read(ids, cache)
        rows = seen.rows()
        return Forward(logits, None if rows is None else rows[0].double().cpu().numpy())

    def trace(self) -> TurnTrace:
        """What the present turn did so far."""
        nats = np.empty(0) if self._scores is None else self._scores.nats.copy()
        return TurnTrace(self._before, self._kept, nats, self.cache.tokens)

    def pin(self, positions: Sequence[int]) -> int:
        """Keep tokens whatever comes, as far as they are still there.

        Args:
            positions: Their original positions.

        Returns:
            How many are pinned now.

        Raises:
            SettingError: They leave no room for a turn; nothing is pinned then.
        """
        memory = self.memory
        pinned = memory.pinned.copy()
        memory.pinned = pinned | np.isin(memory.positions, np.asarray(positions, np.int64))
        try:
            memory.pieces(1)
        except SettingError:
            memory.pinned = pinned
            raise
        return int(np.count_nonzero(memory.pinned))

    def unpin(self) -> None:
        """Let every pinned token leave again."""
        self.memory.pinned[:] = False

    def forget(self, positions: Sequence[int]) -> int:
        """Take tokens out at once, sinks and pinned ones too.

        Args:
            positions: Their original positions.

        Returns:
            How many were there.
        """
        stays = ~np.isin(self.memory.positions, np.asarray(positions, np.int64))
        gone = int(np.count_nonzero(~stays))
        if gone:
            kept = np.flatnonzero(stays)
            self.memory.forget(kept)
            self.cache.keep(torch.from_numpy(kept))
        return gone

    def switch(self, settings: StreamSettings) -> None:
        """Let another rule decide from the next eviction on; what is held stays.

        Args:
            settings: The rule: policy, budget, decay, spans, ties and seed may be others than before.

        Raises:
            SettingError: There is no such policy, pinned tokens would leave no room, or something else would change.
            PrerequisiteError: The policy watches attention, and the model's cannot be watched.
        """
        fixed = ("score", "first_token", "positions", "reference")
        for name in fixed:
            if getattr(settings, name) != getattr(self.settings, name):
                raise SettingError(f"{name.replace('_', ' ')} cannot change within a dialogue")
        policy = policy_of(settings)
        if getattr(policy, "watches", "nothing") == "attention":
            self.model.watch()
        self.memory.switch(settings, policy)
        self.settings = settings

    def _make_room(self, count: int, block: int) -> None:
        memory = self.memory
        if not memory.evicts:
            return
        if self.cache.tokens + count <= self.settings.budget.tokens:
            return
        kept = memory.make_room(max(count, memory.pieces(block)[0]), self._key_similarity)
        if kept is not None:
            self.cache.keep(torch.from_numpy(kept))
            self._kept = memory.positions.copy()

    def _take_in(self, ids: Int[Tensor, " new"], seen: Forward) -> None:
        assert self._scores is not None
        place = f"turn {self.memory.turn + 1}"
        if seen.attention is not None:
            self.memory.observe(seen.attention)
        begun = len(self._scores.nats) > 0
        nats, self._next = self._scores.add(ids.to(seen.logits.device), seen.logits, self._next, place, seen.after)
        self.memory.append(nats)
        if begun and self._scores.first_takes_largest:
            self.memory.rescore(self.memory.seen - len(self._scores.nats), float(self._scores.nats[0]))

    def _check_budget(self) -> None:
        most = self.settings.budget.tokens
        if self.memory.evicts and not self.memory.overflows and self.cache.tokens > most:
            message = f"{self.cache.tokens} tokens are in a cache of {most}"
            raise RuntimeError(message)

    def _key_similarity(self) -> Float[ndarray, " cached"]:
        """Cosine of each key and the mean direction of all, the mean over heads and layers."""
        total = torch.zeros(self.cache.tokens, dtype=torch.float64)
        layers = self.cache.keys_of_layers()
        for keys in layers:
            numbers = keys[0].float()
            anchor = normalize(numbers, dim=-1).mean(1, keepdim=True)
            total += cosine_similarity(numbers, anchor, dim=-1).mean(0).double().cpu()
        return (total / max(1, len(layers))).numpy()

    def state(self) -> dict[str, Tensor]:
        """Everything to go on from to the bit, between two turns, as tensors by name."""
        named = {f"cache.{name}": part for name, part in self.cache.state().items()}
        named |= {f"memory.{name}": torch.from_numpy(part.copy()) for name, part in self.memory.state().items()}
        if self._next is not None:
            named |= {"logits": self._next.logits.cpu(), "log_sum": self._next.log_sum.cpu()}
        return named

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, in a dialogue with the same model and settings."""

        def part(start: str) -> dict[str, Any]:
            return {name.removeprefix(start): each for name, each in state.items() if name.startswith(start)}

        self.cache.restore(part("cache."), self.model.device)
        self.memory.restore({name: each.numpy().copy() for name, each in part("memory.").items()})
        device = self.model.device
        has_next = "logits" in state
        self._next = Prediction(state["logits"].to(device), state["log_sum"].to(device)) if has_next else None
        self._scores, self._fades = None, False
