"""The layers of a bounded cache: keys and values in buffers that are written in place, and the keys as they came.

What they hold and where it stands is decided by `pyllm.stream.cache`, for all layers alike.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from pyllm.errors import SettingError
from pyllm.stream.rotation import Angles, LayerPlan, Rotation

_GROWTH = 64
"""Buffers grow to a multiple of this many tokens."""


class Layer(CacheLayerMixin):
    """Keys and values of one layer, in buffers that are written in place."""

    is_croppable = True

    def __init__(self, plan: LayerPlan, capacity: int, *, is_sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_sliding = is_sliding
        self._rotations: tuple[Rotation | None, Rotation | None] = plan.keys, plan.values
        self._least = capacity
        self._length = 0
        self._buffers: list[Tensor] = []
        self._written: list[Tensor | None] = [None, None]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for the first tokens."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [part.new_empty((*part.shape[:2], 0, part.shape[3])) for part in (key_states, value_states)]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the tokens of a forward pass."""
        if key_states.shape[0] != 1:
            raise SettingError(f"a bounded cache holds one dialogue, and was given {key_states.shape[0]}")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[2]
        self._grow(end)
        for number, new in enumerate((key_states, value_states)):
            self._buffers[number][:, :, self._length : end] = new
            written = self._written[number]
            if written is not None:
                written[:, :, self._length : end] = new
        return self._set_length(end)

    def _set_length(self, length: int) -> tuple[Tensor, Tensor]:
        """Count so many tokens as held; their keys and values."""
        self._length = length
        keys, values = self._buffers
        self.keys, self.values = held = keys[:, :, :length], values[:, :, :length]
        return held

    def _grow(self, tokens: int) -> None:
        if tokens <= self._buffers[0].shape[2]:
            return
        # At least what was asked for, then twice as much each time: a cache without end is not copied for each turn.
        room = max(tokens, self._least, 2 * self._buffers[0].shape[2])
        room = buffer_tokens(room)

        def larger(buffer: Tensor) -> Tensor:
            made = buffer.new_empty((*buffer.shape[:2], room, buffer.shape[3]))
            made[:, :, : self._length] = buffer[:, :, : self._length]
            return made

        self._buffers = [larger(buffer) for buffer in self._buffers]
        self._written = [None if buffer is None else larger(buffer) for buffer in self._written]

    def gather(self, kept: Int[Tensor, " moved"], first: int, angles: Angles | None) -> None:
        """Move tokens to the places from `first` on.

        Args:
            kept: Where they stand now.
            first: Everything before this place stays as it is.
            angles: How far the positions of these tokens are from those they were written at; None leaves keys as
                they are.
        """
        if not self.is_initialized:
            return
        end = first + len(kept)
        for number, buffer in enumerate(self._buffers):
            rotation, written = self._rotations[number], self._written[number]
            if rotation is not None and angles is not None:
                if written is None:
                    written = self._written[number] = buffer.clone()
                moved = written.index_select(2, kept)
                buffer[:, :, first:end] = rotation.turned(moved, *angles.of(rotation))
            else:
                moved = (buffer if written is None else written).index_select(2, kept)
                buffer[:, :, first:end] = buffer.index_select(2, kept)
            if written is not None:
                written[:, :, first:end] = moved
        self._set_length(end)

    def turn_in_place(self, angles: Angles) -> None:
        """Rotate all keys from where they are, with nothing kept of what they were."""
        if self.is_initialized:
            for buffer, rotation in zip(self._buffers, self._rotations, strict=True):
                if rotation is not None:
                    part = buffer[:, :, : self._length]
                    part.copy_(rotation.turned(part, *angles.of(rotation)))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next forward pass sees, and the place of the first."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self._length

    def get_max_length(self) -> int:
        """No limit of its own: who feeds it makes room."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens out again.

        Args:
            tokens_to_remove: How many, as a negative number, as transformers has it.
        """
        if self.is_initialized:
            self._set_length(max(0, self._length - abs(tokens_to_remove)))

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.is_initialized = False
        self._length, self._buffers, self._written = 0, [], [None, None]

    def batch_repeat_interleave(self, repeats: int) -> None:  # noqa: ARG002  (transformers names it)
        """Refused: see the class."""
        raise _one_dialogue()

    def batch_select_indices(self, indices: Tensor) -> None:  # noqa: ARG002  (transformers names it)
        """Refused: see the class."""
        raise _one_dialogue()

    def reorder_cache(self, beam_idx: Tensor) -> None:  # noqa: ARG002  (transformers names it)
        """Refused: see the class."""
        raise _one_dialogue()

    def bytes_held(self) -> int:
        """Memory of all buffers."""
        held = [*self._buffers, *(buffer for buffer in self._written if buffer is not None)]
        return sum(buffer.numel() * buffer.element_size() for buffer in held)

    def state(self) -> dict[str, Tensor]:
        """Everything to go on from, by name."""
        if not self.is_initialized:
            return {}
        names = ("keys", "values", "written_keys", "written_values")
        buffers = zip(names, [*self._buffers, *self._written], strict=True)
        return {name: buffer[:, :, : self._length].clone() for name, buffer in buffers if buffer is not None}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave."""
        self.reset()
        if not state:
            return
        keys, values = state["keys"].to(device), state["values"].to(device)
        self.lazy_initialization(keys[:, :, :0], values[:, :, :0])
        self._grow(keys.shape[2])
        self.update(keys, values)
        for number, name in enumerate(("written_keys", "written_values")):
            if name in state:
                written = torch.empty_like(self._buffers[number])
                written[:, :, : self._length] = state[name].to(device)
                self._written[number] = written


class WindowLayer(Layer):
    """A layer that looks back on a window and keeps just that, as the tokens came."""

    def __init__(self, plan: LayerPlan, window: int) -> None:
        super().__init__(plan, 2 * window, is_sliding=True)
        self._kept = window - 1
        self._seen = 0

    @property
    def held(self) -> int:
        """Tokens that the next forward pass sees."""
        return min(self._seen, self._kept)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the tokens of a forward pass; what has left the window goes before the next one."""
        self._forget_old()
        self._seen += key_states.shape[2]
        return super().update(key_states, value_states)

    def _forget_old(self) -> None:
        if self._length > self._kept:
            first = self._length - self._kept
            super().gather(torch.arange(first, self._length, device=self.device), 0, None)

    def shift(self, angles: Angles) -> None:
        """Rotate every token held to a new position, all by the same way."""
        self._forget_old()
        super().gather(torch.arange(self._length, device=self.device), 0, angles)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As transformers has it: counted in tokens ever seen."""
        return self.held + query_length, self._seen - self.held

    def get_seq_length(self) -> int:
        """Tokens ever seen, on which transformers builds the mask of this layer."""
        return self._seen

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what has left the window cannot come back."""
        if tokens_to_remove:
            raise SettingError("tokens cannot be taken back with `native-sliding` positions", hint="use `cache`")

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._seen = 0

    def restore_seen(self, seen: int) -> None:
        """Say how many tokens it has ever seen."""
        self._seen = seen


def buffer_tokens(tokens: int) -> int:
    """How many tokens a buffer has places for that was made for so many."""
    return -(-tokens // _GROWTH) * _GROWTH


def _one_dialogue() -> SettingError:
    return SettingError(
        "a bounded cache holds one dialogue, so beams cannot share it", hint="decode greedily or by sampling"
    )
