"""The caches of many dialogues in one pool, so that one forward pass serves dialogues of unequal length.

Idea: a dialogue that works stands in a row of common buffers, from place 0 on, whatever its length. A forward pass
covers a range of rows: each row's new tokens first and then padding, written behind what the row holds. What every
token may look at follows from its own place in its own row, by the model's own rule: the mask that transformers makes
for each kind of layer is asked for those places in place of the common ones. Padding stands at a place of its row
that exists, is written nowhere, and its results are dropped; a place that holds nothing is behind every token's own.

Passes are cut so that padding costs less than what is read: dialogues with one token go together, and of the others
those within a factor of two. Rows are dense: the last row takes the place of one that leaves, so that the range of
a pass is a view and nothing is copied.

Invariants: a row holds to rounding what a dialogue of its own would hold; `state` and `restore` are those of
`BoundedCache`, to the bit. A model is tried when its pool is made, and refused there if a batch differs from single
dialogues. Not for threads: one at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.cache import BoundedCache, DialogueCache
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.layers import Layer, buffer_tokens
from pyllm.stream.masks import masks_by
from pyllm.stream.model import StreamModel, difference_of_logits, random_ids, tolerance
from pyllm.stream.passes import Pass, covered_rows, entries_of, groups_of, rows_in_common
from pyllm.stream.places import Move, Places
from pyllm.stream.reading import Forward
from pyllm.stream.rotation import Angles
from pyllm.stream.settings import StreamSettings
from pyllm.stream.shelves import Shelf
from pyllm.stream.surprisal import predictions
from pyllm.stream.watching import watching


class Asked(NamedTuple):
    """What a dialogue must read.

    Args:
        dialogue: A dialogue that stands in the pool.
        ids: Its tokens.
    """

    dialogue: Dialogue
    ids: Int[Tensor, " new"]


class _PoolLayer(CacheLayerMixin):
    """One layer of a pool, as transformers sees it."""

    is_sliding = False

    def __init__(self, pool: "Pool", shelf: Shelf, place: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pool, self._shelf, self._place = pool, shelf, place
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Take in the tokens of a forward pass."""
        running = self._pool.running
        self._shelf.write(self._place, running.entries, (key_states, value_states))
        return self._shelf.shown(self._place, running.rows, running.tokens)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002  (transformers names it)
        """Keys that the pass sees, and the place of the first."""
        return self._pool.running.tokens, 0

    def get_seq_length(self) -> int:
        """Of no use here: every row has its own."""
        return 0

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


class PoolRow:
    """The cache of one dialogue in a pool, between forward passes. Made by `Pool.join`."""

    def __init__(self, pool: "Pool", number: int, places: Places) -> None:
        self._pool = pool
        self.number = number
        """Its row now; it changes when others leave."""
        self.places = places
        self._moved = False
        self._window_written_at = torch.empty(0, dtype=torch.int64)

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self.places.tokens

    def place(self, count: int) -> Int[Tensor, " new"]:
        """Positions of the tokens of the next forward pass."""
        before = self.tokens
        shifts = self.places.rebase(count)
        if shifts is not None:
            angles = Angles(shifts, self._pool.device)
            for shelf in self._pool.shelves:
                shelf.turn_in_place(self.number, before, angles)
        return self.places.add(count)

    @torch.inference_mode()
    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Take every other token out."""
        move: Move | None = self.places.keep(kept)
        if move is None:
            return
        angles = None if move.shifts is None else Angles(move.shifts, self._pool.device)
        self._moved = self._moved or angles is not None
        for shelf in self._pool.shelves:
            shelf.gather(self.number, move, angles)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens out again."""
        self.places.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self.places.reset()
        self._moved = False

    def keys_of_layers(self) -> list[Float[Tensor, "1 kv_heads cached head_dim"]]:
        """Keys of the layers that remember, in the order of the model."""
        return [shelf.keys(place, self.number, self.tokens) for shelf, place in self._pool.layers_in_order]

    def bytes_held(self) -> int:
        """Memory of its row."""
        return sum(shelf.bytes_of_row() for shelf in self._pool.shelves)

    def state(self) -> dict[str, Tensor]:
        """As `BoundedCache.state`, which may go on from it."""
        named = {**self.places.state(), "window_written_at": self._window_written_at.clone()}
        if self.tokens:
            for shelf in self._pool.shelves:
                named |= shelf.state(self.number, self.tokens, moved=self._moved)
        return named

    @torch.inference_mode()
    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:  # noqa: ARG002  (the pool's is known)
        """Take over what `state` gave, also that of a `BoundedCache`."""
        self.places.restore(state)
        self._pool.make_room(self.tokens)
        self._moved = False
        for shelf in self._pool.shelves:
            self._moved = shelf.restore(self.number, state) or self._moved


class Pool:
    """A pool. See the module docstring.

    Args:
        model: The model of all dialogues.

    Raises:
        PrerequisiteError: A batch of dialogues of this model differs from single ones.
    """

    def __init__(self, model: StreamModel) -> None:
        self.model = model
        self.device = model.device
        ids = random_ids(model.model)
        alone = BoundedCache(model.plan)
        expected = model.read(ids, alone)
        self.shelves: list[Shelf] = []
        self.layers_in_order: list[tuple[Shelf, int]] = []
        self._cache = Cache(layers=self._make_layers(alone))
        self._rows: list[Dialogue] = []
        self._capacity = (0, 0)
        self._running: Pass | None = None
        self._try(ids, expected)

    def _make_layers(self, alone: BoundedCache) -> list[Any]:
        alike: dict[tuple[Any, ...], list[int]] = {}
        likes: dict[int, tuple[Tensor, Tensor]] = {}
        for number, (plan, layer) in enumerate(zip(self.model.plan.layers, alone.layers, strict=True)):
            if isinstance(layer, Layer) and layer.keys is not None and layer.values is not None:
                likes[number] = layer.keys, layer.values
                sizes = tuple((part.shape[1], part.shape[3], part.dtype) for part in likes[number])
                alike.setdefault((plan.keys, plan.values, sizes), []).append(number)
        made: list[Any] = [DummyLayer() for _ in alone.layers]
        where: dict[int, tuple[Shelf, int]] = {}
        for numbers in alike.values():
            shelf = Shelf(numbers, self.model.plan.layers[numbers[0]], likes[numbers[0]])
            self.shelves.append(shelf)
            for place, number in enumerate(numbers):
                made[number] = _PoolLayer(self, shelf, place)
                where[number] = shelf, place
        self.layers_in_order = [where[number] for number in sorted(where)]
        return made

    @property
    def running(self) -> Pass:
        """The forward pass that runs."""
        assert self._running is not None
        return self._running

    @property
    def rows(self) -> int:
        """How many dialogues stand in it."""
        return len(self._rows)

    def bytes_held(self) -> int:
        """Memory of all rows, used or not."""
        return self._capacity[0] * sum(shelf.bytes_of_row() for shelf in self.shelves)

    @torch.inference_mode()
    def join(self, dialogue: Dialogue) -> None:
        """Let a dialogue stand in the pool, with what its cache holds. Between two of its forward passes.

        Raises:
            SettingError: Its positions are `native-sliding`: layers of a row would hold different tokens.
        """
        if dialogue.settings.positions == "native-sliding":
            raise SettingError("dialogues with `native-sliding` positions cannot share a pool", hint="use `cache`")
        cache: DialogueCache = dialogue.cache
        row = PoolRow(self, len(self._rows), Places(dialogue.settings.positions, self.model.context_tokens))
        self._rows.append(dialogue)
        try:
            row.restore(cache.state(), self.device)
        except BaseException:
            self._rows.pop()
            raise
        dialogue.cache = row

    @torch.inference_mode()
    def leave(self, dialogue: Dialogue) -> None:
        """Give a dialogue a cache of its own again, with what its row holds."""
        row = dialogue.cache
        assert isinstance(row, PoolRow)
        dialogue.cache = own = dialogue.new_cache()
        try:
            own.restore(row.state(), self.device)
        finally:
            self._take_out(row)

    def _take_out(self, row: PoolRow) -> None:
        last = self._rows.pop()
        moved = last.cache
        if row.number < len(self._rows):
            assert isinstance(moved, PoolRow)
            for shelf in self.shelves:
                shelf.move_row(moved.number, row.number, moved.tokens)
            moved.number = row.number
            self._rows[row.number] = last
        if not self._rows:
            self._resize(0, 0)

    @torch.inference_mode()
    def make_room(self, tokens: int) -> None:
        """Let every dialogue that stands here have a row of at least so many places."""
        rows, capacity = self._capacity
        if len(self._rows) <= rows and tokens <= capacity:
            return
        if len(self._rows) > rows:
            rows = max(len(self._rows), 2 * rows)
        if tokens > capacity:
            budgets = [each.settings.budget.tokens if each.memory.evicts else 2 * capacity for each in self._rows]
            # Twice as many each time, but not more than anybody will use.
            capacity = buffer_tokens(max(tokens, min(2 * capacity, max(budgets))))
        self._resize(rows, capacity)

    def _resize(self, rows: int, tokens: int) -> None:
        for shelf in self.shelves:
            shelf.resize(rows, tokens)
        self._capacity = rows, tokens

    def read(self, asked: Sequence[Asked]) -> list[Forward | Exception]:
        """Read tokens of many dialogues; what each was given, in the order they were asked.

        Args:
            asked: Different dialogues that stand here, with at least one token each.

        Returns:
            For each what it was given, or what its pass failed with; then its row is as before.
        """
        made: dict[int, Forward | Exception] = {}
        for group in groups_of([len(each.ids) for each in asked], self.model.forward_tokens):
            members = [asked[number] for number in group]
            try:
                results: Sequence[Forward | Exception] = self._forward(members)
            except Exception as error:  # noqa: BLE001  (it belongs to whom the dialogues belong to)
                results = [error] * len(group)
            made |= dict(zip(group, results, strict=True))
        return [made[number] for number in range(len(asked))]

    @torch.inference_mode()
    def _forward(self, asked: Sequence[Asked]) -> list[Forward]:
        rows = [_row_of(each.dialogue) for each in asked]
        counts = [len(each.ids) for each in asked]
        before = [row.tokens for row in rows]
        longest = max(held + count for held, count in zip(before, counts, strict=True))
        self.make_room(longest)
        covered = covered_rows([row.number for row in rows])
        batch = [covered.index(row.number) for row in rows]
        ids, positions, places = (torch.zeros(len(covered), max(counts), dtype=torch.int64) for _ in range(3))
        try:
            for each, row, at, held, count in zip(asked, rows, batch, before, counts, strict=True):
                own = row.place(count)
                ids[at, :count] = each.ids
                # Padding stands where the last token stands.
                positions[at], positions[at, :count] = own[-1], own
                places[at], places[at, :count] = held + count - 1, torch.arange(held, held + count)
            numbers = [row.number for row in rows]
            entries = entries_of(numbers, batch, before, counts, self.device)
            self._running = Pass(rows_in_common(covered, self.device), longest, entries)
            watched = any(each.dialogue.memory.watches == "attention" for each in asked)
            logits, attention = self._run(ids, positions, places, longest if watched else None)
        except BaseException:
            for row, held in zip(rows, before, strict=True):
                row.crop(held - row.tokens)
            raise
        finally:
            self._running = None
        ends = predictions(logits[batch, [count - 1 for count in counts]])
        made = []
        for each, at, held, count, after in zip(asked, batch, before, counts, ends, strict=True):
            seen = None
            if attention is not None and each.dialogue.memory.watches == "attention":
                seen = attention[at, :count, : held + count].double().cpu().numpy()
            made.append(Forward(logits[at, :count], seen, after))
        return made

    def _run(
        self,
        ids: Int[Tensor, "batch new"],
        positions: Int[Tensor, "batch new"],
        places: Int[Tensor, "batch new"],
        watched: int | None,
    ) -> tuple[Float[Tensor, "batch new vocab"], Float[Tensor, "batch new cached"] | None]:
        def logits() -> Float[Tensor, "batch new vocab"]:
            with masks_by(places.to(self.device)):
                output = self.model.model(
                    input_ids=ids.to(self.device),
                    position_ids=positions.to(self.device),
                    past_key_values=self._cache,
                    use_cache=True,
                )
            made: Tensor = output.logits.float()
            return made

        if watched is None:
            return logits(), None
        with watching(watched) as seen:
            made = logits()
        return made, seen.rows()

    def _try(self, ids: Int[Tensor, " fed"], expected: Float[Tensor, "fed vocab"]) -> None:
        """Read the same tokens in two rows of unequal length and compare with one dialogue alone.

        Raises:
            PrerequisiteError: They differ by more than rounding.
        """
        dialogues = [Dialogue(self.model, StreamSettings()) for _ in range(3)]
        for dialogue in dialogues:
            self.join(dialogue)
        first, second, third = dialogues
        cut, end = len(ids) // 2, len(ids)
        worst = 0.0
        try:
            for parts in (
                [(first, 0, cut), (second, 0, 2)],
                [(first, cut, cut + 1), (third, 0, 1), (second, 2, 3)],
                [(first, cut + 1, end), (second, 3, end - 2), (third, 1, end)],
            ):
                for (_, start, stop), seen in zip(
                    parts, self.read([Asked(each, ids[start:stop].cpu()) for each, start, stop in parts]), strict=True
                ):
                    if isinstance(seen, Exception):
                        raise seen
                    worst = max(worst, difference_of_logits(seen.logits, expected[start:stop], expected))
        except (ValueError, TypeError, RuntimeError, IndexError, KeyError) as error:
            raise PrerequisiteError(
                f"dialogues of model `{self.model.name}` cannot share a forward pass: {error}"
            ) from error
        finally:
            for dialogue in dialogues:
                self.leave(dialogue)
        if not worst <= tolerance(self.model.model):
            raise PrerequisiteError(
                f"dialogues of model `{self.model.name}` cannot share a forward pass: a logit is {worst:.3g} of their"
                " standard deviation off what it is alone"
            )


def _row_of(dialogue: Dialogue) -> PoolRow:
    row = dialogue.cache
    if not isinstance(row, PoolRow):
        raise SettingError("the dialogue does not stand in the pool")
    return row
