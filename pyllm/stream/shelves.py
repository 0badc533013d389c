"""Keys and values of many dialogues in common buffers: a shelf for all layers that are alike.

Idea: layers whose heads have the same sizes and turn by the same rotation stand in one tensor, so that whatever
happens to a dialogue (tokens leave, it moves to another row, it comes and goes) is a few operations for all layers
and not a few for each. What a row holds and where is decided by `pyllm.stream.pool`.

Invariants: a buffer never holds anything but numbers, because a masked place of NaN would still spoil a sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from pyllm.stream.places import Move
from pyllm.stream.rotation import Angles, LayerPlan

_NAMES = ("keys", "values")


@dataclass(frozen=True, slots=True)
class Entries:
    """The new tokens of a forward pass, one number each in every list.

    Args:
        rows: Row of the pool.
        places: Place in it.
        batch: Place of its dialogue in the pass.
        tokens: Place in the dialogue's part of the pass.
    """

    rows: Int[Tensor, " entries"]
    places: Int[Tensor, " entries"]
    batch: Int[Tensor, " entries"]
    tokens: Int[Tensor, " entries"]


class Shelf:
    """Keys and values of the layers that are alike.

    Args:
        layers: Their numbers in the model.
        plan: How they rotate.
        likes: Keys and values of any tokens of one such layer: [1, heads, tokens, width] each.
    """

    def __init__(self, layers: Sequence[int], plan: LayerPlan, likes: tuple[Tensor, Tensor]) -> None:
        self._layers = list(layers)
        self._rotations = (plan.keys, plan.values)
        self._buffers: list[Float[Tensor, "layers rows heads capacity width"]] = [
            like.new_zeros((len(layers), 0, like.shape[1], 0, like.shape[3])) for like in likes
        ]
        self._written: list[Tensor | None] = [None, None]

    def write(self, layer: int, entries: Entries, new: tuple[Tensor, Tensor]) -> None:
        """Take in what one layer made of new tokens.

        Args:
            layer: Place of the layer among those of the shelf.
            entries: Where they belong.
            new: Keys and values: [batch, heads, tokens, width] each.
        """
        for number, part in enumerate(new):
            picked = part[entries.batch, :, entries.tokens]
            self._buffers[number][layer][entries.rows, :, entries.places] = picked
            written = self._written[number]
            if written is not None:
                written[layer][entries.rows, :, entries.places] = picked

    def shown(self, layer: int, rows: slice | Int[Tensor, " batch"], tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer as the attention of a forward pass sees them."""
        keys, values = (buffer[layer][:, :, :tokens][rows] for buffer in self._buffers)
        return keys, values

    def resize(self, rows: int, tokens: int) -> None:
        """Make the buffers as large as given; what fits stays."""
        if not rows:
            self._written = [None, None]
        self._buffers = [_resized(buffer, rows, tokens) for buffer in self._buffers]
        self._written = [None if buffer is None else _resized(buffer, rows, tokens) for buffer in self._written]

    def gather(self, row: int, move: Move, angles: Angles | None) -> None:
        """Move tokens of a row; see `Move`."""
        device = self._buffers[0].device
        kept, first = move.moved.to(device), move.first
        end = first + len(kept)
        for number, buffer in enumerate(self._buffers):
            rotation, written = self._rotations[number], self._written[number]
            if rotation is not None and angles is not None:
                if written is None:
                    written = self._written[number] = buffer.clone()
                moved = written[:, row].index_select(2, kept)
                buffer[:, row, :, first:end] = rotation.turned(moved, *angles.of(rotation))
            else:
                moved = (buffer if written is None else written)[:, row].index_select(2, kept)
                buffer[:, row, :, first:end] = buffer[:, row].index_select(2, kept)
            if written is not None:
                written[:, row, :, first:end] = moved

    def turn_in_place(self, row: int, tokens: int, angles: Angles) -> None:
        """Rotate all keys of a row from where they are, with nothing kept of what they were."""
        for number, buffer in enumerate(self._buffers):
            rotation, written = self._rotations[number], self._written[number]
            if rotation is not None:
                part = buffer[:, row, :, :tokens]
                part.copy_(rotation.turned(part, *angles.of(rotation)))
                if written is not None:
                    written[:, row, :, :tokens] = part

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Let a row stand in another's place."""
        for buffer in [*self._buffers, *self._written]:
            if buffer is not None:
                buffer[:, target, :, :tokens] = buffer[:, source, :, :tokens]

    def keys(self, layer: int, row: int, tokens: int) -> Float[Tensor, "1 heads cached width"]:
        """Keys of a row in one layer."""
        return self._buffers[0][layer, row : row + 1, :, :tokens]

    def bytes_of_row(self) -> int:
        """Memory of each row."""
        held = [*self._buffers, *(buffer for buffer in self._written if buffer is not None)]
        return sum(buffer[:, :1].numel() * buffer.element_size() for buffer in held)

    def state(self, row: int, tokens: int, *, moved: bool) -> dict[str, Tensor]:
        """What a row holds, named as a single dialogue's layers name it.

        Args:
            row: The row.
            tokens: Tokens in it.
            moved: Whether its keys stand elsewhere than they were written.
        """
        named = {}
        for place, layer in enumerate(self._layers):
            for name, buffer, written in zip(_NAMES, self._buffers, self._written, strict=True):
                named[f"layer.{layer}.{name}"] = buffer[place, row : row + 1, :, :tokens].clone()
                if moved and written is not None:
                    named[f"layer.{layer}.written_{name}"] = written[place, row : row + 1, :, :tokens].clone()
        return named

    def restore(self, row: int, state: Mapping[str, Tensor]) -> bool:
        """Take over what `state` gave into a row; whether its keys stand elsewhere than they were written."""
        moved = False
        for place, layer in enumerate(self._layers):
            for number, name in enumerate(_NAMES):
                part = state.get(f"layer.{layer}.{name}")
                if part is None:
                    continue
                buffer = self._buffers[number]
                buffer[place, row, :, : part.shape[2]] = part[0].to(buffer.device)
                written = state.get(f"layer.{layer}.written_{name}")
                if written is not None and self._written[number] is None:
                    self._written[number] = buffer.clone()
                present = self._written[number]
                if present is not None:
                    present[place, row, :, : part.shape[2]] = (part if written is None else written)[0].to(
                        buffer.device
                    )
                moved = moved or written is not None
        return moved


def _resized(buffer: Tensor, rows: int, tokens: int) -> Tensor:
    layers, old_rows, heads, old_tokens, width = buffer.shape
    made = buffer.new_zeros((layers, rows, heads, tokens, width))
    rows, tokens = min(rows, old_rows), min(tokens, old_tokens)
    made[:, :rows, :, :tokens] = buffer[:, :rows, :, :tokens]
    return made
