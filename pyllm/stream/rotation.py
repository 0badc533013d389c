"""How a model rotates its keys by position, learnt from the loaded model itself.

Idea: one token alone in an empty cache attends to itself only, so nothing but the rotation tells the caches of two
positions apart. What stands in a layer's cache at position p is the rotation of what stands there at position 0.
Every frequency table that the model holds is tried, in both orders of pairs and at both ends of a head; the one that
explains what the model did is the layer's rotation. A model whose keys or values follow the position in another way
(learned positions are added before the keys are made) cannot be re-numbered and is refused.

Cost: four forward passes of eight tokens. Source: RoPE, arXiv 2104.09864.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from pyllm.errors import PrerequisiteError

Pairs = Literal["half", "interleaved"]
"""Which two numbers turn together: those half a rotation apart (Llama), or neighbours (GPT-J)."""

PROBED_POSITIONS = (1, 13, 500)
_PROBED_TOKENS = 8
_MOST_ERROR = 0.03
"""Of the right rotation: float32 4e-6, bfloat16 9e-3 at most. Of a wrong one: 0.6 and more."""
_CLEARLY_WORSE = 10.0
_NO_ERROR = 1e-6


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation of some of the numbers of a head.

    Args:
        frequencies: Angle of each pair at position 1, in radians, as exact fractions of float32.
        pairs: Which numbers turn together.
        first: Where in a head the rotated numbers begin.
    """

    frequencies: tuple[float, ...]
    pairs: Pairs
    first: int

    @property
    def width(self) -> int:
        """How many numbers of a head are rotated."""
        return 2 * len(self.frequencies)

    def turned(
        self,
        numbers: Float[Tensor, "... kept head_dim"],
        cosines: Float[Tensor, "kept pairs"],
        sines: Float[Tensor, "kept pairs"],
    ) -> Float[Tensor, "... kept head_dim"]:
        """Numbers rotated by given angles, computed in float32 and rounded once to the type they came in."""
        result = numbers.clone()
        into, part = (each[..., self.first : self.first + self.width] for each in (result, numbers))
        left, right = self._halves(part)
        one, other = left.float(), right.float()
        into_left, into_right = self._halves(into)
        into_left.copy_(one * cosines - other * sines)
        into_right.copy_(other * cosines + one * sines)
        return result

    def _halves(self, part: Tensor) -> tuple[Tensor, Tensor]:
        if self.pairs == "half":
            return part[..., : self.width // 2], part[..., self.width // 2 :]
        return part[..., 0::2], part[..., 1::2]

    def as_dict(self) -> dict[str, Any]:
        """What decides the rotation, as JSON holds it."""
        return {"frequencies": list(self.frequencies), "pairs": self.pairs, "first": self.first}


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What one layer's cache holds.

    Args:
        stores: Whether it holds anything: a layer that shares the cache of another one does not.
        window: How many tokens a sliding layer looks back on, itself counted, or None.
        keys: Rotation of its keys; None where they do not follow the position.
        values: The same of its values, which hold the rotated part in multi-head latent attention.
    """

    stores: bool
    window: int | None
    keys: Rotation | None
    values: Rotation | None


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """The rotation of every layer of a model.

    Args:
        layers: The layers in order.
        error: Root mean square error of the worst layer's rotation, relative to the keys.
    """

    layers: tuple[LayerPlan, ...]
    error: float

    @property
    def has_sliding_layers(self) -> bool:
        """Whether some layers look back on a window only."""
        return any(layer.window is not None for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """What decides every layer's rotation, as JSON holds it; the measured error is left out."""
        return {
            "layers": [
                {
                    "stores": layer.stores,
                    "window": layer.window,
                    "keys": layer.keys and layer.keys.as_dict(),
                    "values": layer.values and layer.values.as_dict(),
                }
                for layer in self.layers
            ]
        }


class Angles:
    """Cosines and sines of one shift of many tokens, shared by the layers that rotate alike.

    Args:
        shifts: Positions to move each token by.
        device: Where the layers are.
    """

    def __init__(self, shifts: Int[Tensor, " kept"], device: torch.device) -> None:
        self._shifts = shifts.to("cpu", torch.float64)
        self._device = device
        self._made: dict[tuple[float, ...], tuple[Tensor, Tensor]] = {}

    def of(self, rotation: Rotation) -> tuple[Float[Tensor, "kept pairs"], Float[Tensor, "kept pairs"]]:
        """Cosines and sines in float32, of angles that were multiplied out in float64."""
        made = self._made.get(rotation.frequencies)
        if made is None:
            angles = self._shifts[:, None] * torch.tensor(rotation.frequencies, dtype=torch.float64)
            made = angles.cos().float().to(self._device), angles.sin().float().to(self._device)
            self._made[rotation.frequencies] = made
        return made


@torch.inference_mode()
def probe_rotations(model: PreTrainedModel, name: str, *, context_tokens: int | None) -> RotationPlan:
    """Learn how a model rotates its keys.

    Args:
        model: The model as it will be used: on its device, in its type.
        name: What messages call it.
        context_tokens: Most positions that it was made for, or None.

    Raises:
        PrerequisiteError: Its tokens cannot be re-numbered or forgotten; the message says why.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise PrerequisiteError(f"model `{name}` cannot be streamed: it takes no positions, so none can be re-numbered")
    last = (context_tokens or PROBED_POSITIONS[-1] + 1) - 1
    places = sorted({min(place, last) for place in PROBED_POSITIONS} - {0})
    start = _cached(model, 0)
    moved = [_cached(model, place) for place in places]
    plans, worst = [], 0.0
    for number, layer in enumerate(start):
        kind = type(layer)
        if kind is DummyLayer:
            plans.append(LayerPlan(stores=False, window=None, keys=None, values=None))
            continue
        if kind not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise PrerequisiteError(
                f"model `{name}` cannot be streamed: layer {number} keeps a state from which no token can be taken"
                f" out again ({kind.__name__})",
                hint="give a model whose layers are all attention",
            )
        found = []
        for part in ("keys", "values"):
            there = [getattr(each[number], part) for each in moved]
            rotation, error = _explain(model, getattr(layer, part), there, places)
            if error > _MOST_ERROR:
                raise PrerequisiteError(
                    f"model `{name}` cannot be streamed: the {part} of layer {number} follow the position in a way"
                    " that no rotation explains (learned or absolute positions)",
                    hint="give a model with rotary positions",
                )
            found.append(rotation)
            worst = max(worst, error)
        window = int(layer.sliding_window) if kind is DynamicSlidingWindowLayer else None
        plans.append(LayerPlan(True, window, found[0], found[1]))
    if not any(plan.stores for plan in plans):
        raise PrerequisiteError(f"model `{name}` cannot be streamed: it keeps no keys and values")
    return RotationPlan(tuple(plans), worst)


def _cached(model: PreTrainedModel, position: int) -> Sequence[Any]:
    """The layers of the cache behind eight one-token sequences at one position."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(0, min(vocabulary, 1000), (_PROBED_TOKENS, 1), generator=generator).to(model.device)
    output = model(input_ids=ids, position_ids=torch.full_like(ids, position), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        return ()
    layers: Sequence[Any] = cache.layers
    return layers


def _explain(
    model: PreTrainedModel,
    start: Float[Tensor, "rows kv_heads 1 head_dim"],
    moved: Sequence[Float[Tensor, "rows kv_heads 1 head_dim"]],
    places: Sequence[int],
) -> tuple[Rotation | None, float]:
    """The rotation that carries a layer's numbers from position 0 to others, and its relative error.

    None is no rotation at all. The error is infinite where two different rotations explain it about as well.
    """
    scale = max(float(start.float().square().mean().sqrt()), torch.finfo(torch.float32).tiny)

    def error_of(made: Sequence[Tensor]) -> float:
        squares = [(one.float() - other.float()).square().mean() for one, other in zip(made, moved, strict=True)]
        return float(torch.stack(squares).mean().sqrt()) / scale

    still = [start] * len(places)
    if error_of(still) < _NO_ERROR:
        return None, 0.0
    tried: list[tuple[float, Rotation | None, list[Tensor]]] = [(error_of(still), None, still)]
    for rotation in _candidates(model, start.shape[-1]):
        made = []
        for place in places:
            angles = Angles(torch.tensor([place]), start.device)
            made.append(rotation.turned(start.float(), *angles.of(rotation)))
        tried.append((error_of(made), rotation, made))
    tried.sort(key=lambda each: each[0])
    error, best, made = tried[0]
    for other_error, _, other in tried[1:]:
        apart = sum(float((one - two).float().square().mean()) for one, two in zip(made, other, strict=True))
        # Two names for one rotation are no conflict: tables of two kinds of layers may be equal.
        if (apart / len(places)) ** 0.5 / scale > _MOST_ERROR and other_error <= _CLEARLY_WORSE * error:
            return best, float("inf")
    return best, error


def _candidates(model: PreTrainedModel, head_dim: int) -> Iterator[Rotation]:
    """Every rotation that the model's own tables allow for heads of this size."""
    tables = {
        tuple(buffer.detach().float().flatten().tolist()): None
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq")
    }
    width = getattr(model.config.get_text_config(), "rotary_dim", None)
    if not tables and width:
        # The GPT-J family keeps a table of sines instead, always of base 10,000.
        tables[tuple((10_000.0 ** (-torch.arange(0, width, 2) / width)).tolist())] = None
    for table in tables:
        width = 2 * len(table)
        if not table or width > head_dim:
            continue
        for pairs in ("half", "interleaved"):
            for first in sorted({0, head_dim - width}):
                yield Rotation(table, pairs, first)
