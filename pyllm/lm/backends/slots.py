"""Keys and values of a batch of sequences, in buffers that are made once.

Sequences of a batch end at the same slot, so that every forward pass writes the same slots of all of them; in front of
the shorter ones are slots that the mask hides. A key was rotated for its position before it came here, so a prefix can
be laid down at any slot. Every layer keeps everything: windows of attention are a matter of the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

LayerStates = tuple[Tensor, Tensor]
"""Keys and values of one layer, each `[kv_heads, tokens, head_dim]`."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A stretch of tokens from position 0 on, as the model remembers it.

    Args:
        ids: The tokens.
        layers: Their keys and values.
    """

    ids: Int[Tensor, " tokens"]
    layers: tuple[LayerStates, ...]

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """What its keys and values take."""
        return sum(part.nbytes for layer in self.layers for part in layer)


class _BufferLayer(DynamicLayer):
    """One layer's buffers."""

    def __init__(self, rows: int, slots: int, filled: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows, self._slots, self._filled = rows, slots, filled
        self._buffers: list[Tensor] = []

    def make(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, alike in type and place to `[..., kv_heads, _, head_dim]`."""
        for states in (key_states, value_states):
            shape = (self._rows, states.shape[-3], self._slots, states.shape[-1])
            self._buffers.append(states.new_zeros(shape))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True
        self._show()

    def lay(self, row: int, start: int, layer: LayerStates, tokens: int) -> None:
        """Lay the first `tokens` of a prefix down in a row."""
        for buffer, states in zip(self._buffers, layer, strict=True):
            buffer[row, :, start : start + tokens] = states[:, :tokens]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.make(key_states, value_states)
        end = self._filled + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._filled : end] = states
        self._filled = end
        self._show()
        return self.keys, self.values  # type: ignore[return-value]

    def keep_rows(self, rows: Tensor) -> None:
        """Forget the other rows."""
        self._rows = len(rows)
        self._buffers = [buffer.index_select(0, rows) for buffer in self._buffers]
        self._show()

    def part(self, row: int, start: int, end: int) -> LayerStates:
        """A copy of some slots of a row."""
        keys, values = (buffer[row, :, start:end].clone() for buffer in self._buffers)
        return keys, values

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._filled] for buffer in self._buffers)


class SlotCache(Cache):
    """The buffers of all layers, behind the prefixes that rows begin with.

    Args:
        starts: The slot of each row's first token.
        prefixes: What each row begins with, or None.
        filled: Slots that count as written: each row's prefix is cut there.
        slots: How many there are in all.
    """

    def __init__(self, starts: Sequence[int], prefixes: Sequence[Prefix | None], filled: int, slots: int) -> None:
        super().__init__(layers=[])
        self._sizes = len(starts), slots, filled
        known = next((prefix for prefix in prefixes if prefix is not None), None)
        for number, layer in enumerate(known.layers if known is not None else ()):
            made = self._made()
            made.make(*layer)
            for row, (start, prefix) in enumerate(zip(starts, prefixes, strict=True)):
                if prefix is not None and filled > start:
                    made.lay(row, start, prefix.layers[number], filled - start)
            self.layers.append(made)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one layer down; all it has written come back."""
        while len(self.layers) <= layer_idx:
            self.layers.append(self._made())
        return self._buffers()[layer_idx].update(key_states, value_states)

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Forget all but these rows."""
        for layer in self._buffers():
            layer.keep_rows(rows)

    def prefix(self, row: int, start: int, ids: Sequence[int]) -> Prefix:
        """What a row holds of these tokens, which begin at slot `start`."""
        layers = tuple(layer.part(row, start, start + len(ids)) for layer in self._buffers())
        return Prefix(torch.tensor(list(ids), dtype=torch.int64), layers)

    def _made(self) -> _BufferLayer:
        rows, slots, filled = self._sizes
        return _BufferLayer(rows, slots, filled)

    def _buffers(self) -> list[_BufferLayer]:
        return cast(list[_BufferLayer], self.layers)
