"""A cache of keys and values from which tokens are taken out between forward passes.

Idea: transformers stores keys after their rotation. When tokens leave, those that stay are gathered and rotated to
their new positions, all layers from one set. A rotated key is never rotated again, because in sixteen bits each
rotation rounds the slow dimensions back to where they were: the key as it was written is kept beside the working one
from the first move on, and every later working key is one rotation of it, in float32, rounded once.

Cost: nothing while nothing leaves; then one gather and one rotation of what stands behind the first gap. Memory is
that of keys and values, and of the keys once more after the first move.

Invariants: between two forward passes all layers hold the same tokens (with native sliding, the layers that look
back on a window hold the last tokens instead); nothing leaves inside `update`, because masks and positions were made
for the length before it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer

from pyllm.errors import SettingError
from pyllm.stream.layers import Layer, WindowLayer
from pyllm.stream.places import Places, Positions
from pyllm.stream.rotation import Angles, RotationPlan

__all__ = ["BoundedCache", "DialogueCache", "Positions"]


class DialogueCache(Protocol):
    """What a dialogue asks of its cache between forward passes: one of its own, or a row of a pool."""

    @property
    def tokens(self) -> int:
        """Tokens held."""

    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Take every other token out; `kept` are the places of those that stay, ascending."""

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens out again; how many, as a negative number."""

    def reset(self) -> None:
        """Forget everything."""

    def keys_of_layers(self) -> list[Float[Tensor, "1 kv_heads cached head_dim"]]:
        """Keys of the layers that remember, as the next forward pass will see them."""

    def bytes_held(self) -> int:
        """Memory of keys and values."""

    def state(self) -> dict[str, Tensor]:
        """Everything to go on from to the bit, as tensors by name."""

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave, whichever kind of cache gave it."""


class BoundedCache(Cache):
    """The cache of one dialogue. See the module docstring.

    Args:
        plan: How the model rotates its keys.
        positions: Which positions the tokens that stay have.
        capacity_tokens: Room to make at once; it grows where that is not enough.
        limit_tokens: Most positions of the model, for `rebase`; None never rebases.

    Raises:
        SettingError: `native-sliding` was asked of a model without such layers.
    """

    def __init__(
        self,
        plan: RotationPlan,
        *,
        positions: Positions = "cache",
        capacity_tokens: int = 0,
        limit_tokens: int | None = None,
    ) -> None:
        native = positions == "native-sliding"
        if native and not plan.has_sliding_layers:
            raise SettingError("`native-sliding` positions: the model has no sliding layers", hint="use `cache`")
        if native and all(layer.window is not None or not layer.stores for layer in plan.layers):
            raise SettingError(
                "`native-sliding` positions: every layer of the model slides, so nothing would be remembered",
                hint="use `cache`",
            )
        layers: list[Any] = []
        for layer in plan.layers:
            if not layer.stores:
                layers.append(DummyLayer())
            elif native and layer.window is not None:
                layers.append(WindowLayer(layer, layer.window))
            else:
                layers.append(Layer(layer, capacity_tokens, is_sliding=False))
        super().__init__(layers=layers)
        self._places = Places(positions, limit_tokens)
        self._longest_window = max((layer.window or 1) for layer in plan.layers) if native else 1
        self._window_written_at = torch.empty(0, dtype=torch.int64)
        """The same of the last tokens that came, for the layers with a window."""

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self._places.tokens

    def start_at(self, position: int) -> None:
        """Give the first token of an empty cache another position than 0."""
        self._places.next = position

    @torch.inference_mode()
    def place(self, count: int) -> Int[Tensor, "1 new"]:
        """Positions of the tokens of the next forward pass, which must follow."""
        shifts = self._places.rebase(count)
        if shifts is not None:
            angles = Angles(shifts, self._device())
            for layer in self._full_layers():
                layer.turn_in_place(angles)
        new = self._places.add(count)
        if self._longest_window > 1:
            self._window_written_at = torch.cat([self._window_written_at, new])[-(self._longest_window - 1) :]
        return new[None]

    @torch.inference_mode()
    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Take every other token out. Call it between forward passes.

        Args:
            kept: Places in the cache of the tokens that stay, ascending.
        """
        move = self._places.keep(kept)
        if move is None:
            return
        moved = move.moved.to(self._device())
        angles = None if move.shifts is None else Angles(move.shifts, self._device())
        for layer in self._full_layers():
            layer.gather(moved, move.first, angles)
        self._shift_windows()

    def _shift_windows(self) -> None:
        for layer in self.layers:
            if isinstance(layer, WindowLayer) and layer.is_initialized:
                now = torch.arange(self._places.next - layer.held, self._places.next)
                written = self._window_written_at[len(self._window_written_at) - layer.held :]
                layer.shift(Angles(now - written, self._device()))

    def _full_layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer) and not layer.is_sliding]

    def _device(self) -> torch.device:
        return next((layer.device for layer in self._full_layers() if layer.is_initialized), torch.device("cpu"))

    @torch.inference_mode()
    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens out again, as if they had never been fed.

        Args:
            tokens_to_remove: How many, as a negative number, as transformers has it.
        """
        super().crop(tokens_to_remove)
        self._places.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()  # type: ignore[no-untyped-call]
        self._places.reset()
        self._window_written_at = self._window_written_at[:0]

    def keys_of_layers(self) -> list[Float[Tensor, "1 kv_heads cached head_dim"]]:
        """Keys of the layers that remember, as the next forward pass will see them."""
        return [layer.keys for layer in self._full_layers() if layer.keys is not None]

    def bytes_held(self) -> int:
        """Memory of keys and values."""
        return sum(layer.bytes_held() for layer in self.layers if isinstance(layer, Layer))

    def state(self) -> dict[str, Tensor]:
        """Everything to go on from to the bit, as tensors by name."""
        named = {**self._places.state(), "window_written_at": self._window_written_at.clone()}
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Layer):
                named |= {f"layer.{number}.{name}": part for name, part in layer.state().items()}
                if isinstance(layer, WindowLayer):
                    named[f"layer.{number}.seen"] = torch.tensor([layer.get_seq_length()])
        return named

    @torch.inference_mode()
    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave, in a cache made with the same settings."""
        self._places.restore(state)
        self._window_written_at = state["window_written_at"].clone()
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Layer):
                start = f"layer.{number}."
                parts = {name.removeprefix(start): part for name, part in state.items() if name.startswith(start)}
                seen = parts.pop("seen", None)
                layer.restore(parts, device)
                if isinstance(layer, WindowLayer) and seen is not None:
                    layer.restore_seen(int(seen))
