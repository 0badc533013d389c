"""Attention for many short sequences packed behind one shared prefix.

Idea: the tokens of all sequences of a pack stand in one row of length T, without padding, so that every projection
and MLP of the model runs once over T tokens. Only attention knows where one sequence ends: each token attends to the
whole prefix (held once, as keys and values of length P) and causally to its own sequence. Sequences of similar
length share one call ("bucket"), so the cost is O(sum of n * (P + n)), never O(T^2).

The function is registered with transformers' `AttentionInterface`, so no model class is patched. transformers builds
no mask for a name that is not in its mask table; sliding windows and soft caps arrive as keyword arguments and are
applied here.

Invariants: results do not depend on which sequences share a pack (beyond float rounding); the prefix is never copied
into the cache of a sequence, and a pack never changes the prefix.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

ATTENTION_NAME = "pyllm_shared_prefix"
PACKED_ATTENTION_NAME = "pyllm_packed"
_MOST_PADDING = 1.125
"""Sequences share a bucket while the longest is at most this many times the shortest."""


class _PrefixLayer(DynamicLayer):
    """Keys and values of the prefix; once frozen, new ones pass through without being kept."""

    frozen = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.frozen:
            super().update(key_states, value_states, *args, **kwargs)
        return key_states, value_states


class PrefixCache(Cache):
    """A cache that holds one prefix for every layer and forgets everything that comes after it."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_PrefixLayer)

    def freeze(self) -> None:
        """Keep what is there and store nothing more."""
        for layer in self.layers:
            if isinstance(layer, _PrefixLayer):
                layer.frozen = True

    def layer(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of one layer, each `[1, kv_heads, prefix, head_dim]`, or None when there is no prefix."""
        layer = self.layers[index] if index < len(self.layers) else None
        if not isinstance(layer, _PrefixLayer) or not layer.frozen or layer.keys is None or layer.values is None:
            return None
        return layer.keys, layer.values


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Sequences of similar length that are read in one call.

    Args:
        rows: How many.
        longest: Tokens of the longest; the others are padded to it.
        cells: The token that stands in each cell of `rows * longest`.
        real: The cells that are no padding.
        tokens: The tokens that those stand for.
    """

    rows: int
    longest: int
    cells: Int[Tensor, " cells"]
    real: Int[Tensor, " real"]
    tokens: Int[Tensor, " real"]

    def gather(self, states: Float[Tensor, "heads packed head_dim"]) -> Float[Tensor, "heads rows longest head_dim"]:
        """The states of this bucket's tokens."""
        chosen = states.index_select(1, self.cells)
        return chosen.view(states.shape[0], self.rows, self.longest, states.shape[2])


@dataclass(frozen=True, slots=True)
class PackLayout:
    """Where the sequences of a pack stand.

    Args:
        lengths: Tokens of each sequence, in pack order.
        device: Where the index tensors live.
    """

    lengths: tuple[int, ...]
    device: torch.device
    offsets: Int[Tensor, " seq"] = field(init=False)
    buckets: tuple[_Bucket, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        offsets = torch.cat([torch.arange(length) for length in self.lengths])
        object.__setattr__(self, "offsets", offsets.to(self.device))
        object.__setattr__(self, "buckets", tuple(self._bucket(starts, members) for members in self._similar()))

    def _similar(self) -> list[list[int]]:
        """Sequence numbers grouped by similar length, shortest first."""
        groups: list[list[int]] = []
        shortest = 0
        for number in sorted(range(len(self.lengths)), key=lambda number: self.lengths[number]):
            length = self.lengths[number]
            if not groups or length > _MOST_PADDING * shortest:
                groups.append([])
                shortest = length
            groups[-1].append(number)
        return groups

    def _bucket(self, starts: Sequence[int], members: Sequence[int]) -> _Bucket:
        longest = max(self.lengths[number] for number in members)
        step = torch.arange(longest)
        start = torch.tensor([starts[number] for number in members])[:, None]
        length = torch.tensor([self.lengths[number] for number in members])[:, None]
        # Padding repeats the last real token: it stands after every real one, so the causal mask hides it.
        cells = (start + torch.minimum(step[None, :], length - 1)).reshape(-1)
        real = (step[None, :] < length).reshape(-1).nonzero()[:, 0]
        device = self.device
        return _Bucket(len(members), longest, cells.to(device), real.to(device), cells[real].to(device))


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the attention function must know about the forward pass that is running."""

    layout: PackLayout
    cache: PrefixCache | None
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, longest: int, prefix_tokens: int, window: int | None, like: Tensor) -> Tensor:
        """What is added to the scores of a bucket: 0 or minus infinity; made once for all layers."""
        key = longest, prefix_tokens, window
        if key not in self.masks:
            allowed = _allowed(longest, prefix_tokens, window, like.device)
            self.masks[key] = like.new_zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
        return self.masks[key]


_scope: ContextVar[_Scope] = ContextVar("pyllm_shared_prefix_scope")
_scopes = WeakTensorKeyDictionary()
"""By the tensor of sequence borders, which all layers of a forward pass are given and its backward pass again."""


def forward_pack(
    decoder: nn.Module, input_ids: Int[Tensor, " packed"], layout: PackLayout, cache: PrefixCache | None = None
) -> Float[Tensor, "packed dim"]:
    """Last hidden states (after the final norm) of a pack.

    Args:
        decoder: A transformers decoder whose attention is `ATTENTION_NAME`.
        input_ids: Tokens of all sequences, one after the other.
        layout: Where the sequences stand.
        cache: A frozen prefix: the sequences stand behind it, their positions start at its length. A new cache is
            filled instead, by a pack of one sequence. None: no prefix, nothing is kept.
    """
    prefix_tokens = cache.get_seq_length() if cache is not None else 0
    token = _scope.set(_Scope(layout, cache))
    try:
        outputs = decoder(
            input_ids=input_ids[None, :],
            position_ids=(layout.offsets + prefix_tokens)[None, :],
            past_key_values=cache,
            use_cache=cache is not None,
        )
    finally:
        _scope.reset(token)
    states: Tensor = outputs.last_hidden_state[0]
    return states


def _allowed(longest: int, prefix_tokens: int, window: int | None, device: torch.device) -> Tensor:
    """Which of `prefix + own` keys each of `longest` queries may see: `[longest, prefix + longest]`, bool."""
    query = torch.arange(longest, device=device)[:, None] + prefix_tokens
    key = torch.arange(prefix_tokens + longest, device=device)[None, :]
    allowed = key <= query
    if window is not None:
        allowed &= key > query - window
    return allowed


def _soft_capped(
    query: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor, scaling: float, softcap: float, dropout: float
) -> Tensor:
    scores = torch.tanh(query @ keys.transpose(-1, -2) * (scaling / softcap)) * softcap
    weights = (scores + mask).softmax(-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout) @ values


def shared_prefix_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads packed head_dim"],
    key: Float[Tensor, "1 kv_heads packed head_dim"],
    value: Float[Tensor, "1 kv_heads packed value_dim"],
    _attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Float[Tensor, "1 packed heads value_dim"], None]:
    """The attention of one layer over a pack; called by transformers. See the module docstring."""
    scope = _scope.get()
    prefix = scope.cache.layer(int(module.layer_idx)) if scope.cache is not None else None  # type: ignore[arg-type]
    return _attend(
        scope, query, key, value, prefix=prefix, scaling=scaling, sliding_window=sliding_window, softcap=softcap
    )


def packed_attention(
    _module: nn.Module,
    query: Float[Tensor, "1 heads packed head_dim"],
    key: Float[Tensor, "1 kv_heads packed head_dim"],
    value: Float[Tensor, "1 kv_heads packed value_dim"],
    _attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Int[Tensor, " seq_and_one"] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Float[Tensor, "1 packed heads value_dim"], None]:
    """The attention of one layer over a pack without a prefix, which training and its backward pass go through.

    Where sequences begin comes as transformers hands it to kernels for packed rows; without it the row is one sequence.
    """
    if cu_seq_lens_q is None:
        cu_seq_lens_q = torch.tensor([0, query.shape[2]], dtype=torch.int32)
    if cu_seq_lens_q not in _scopes:
        lengths = tuple(cu_seq_lens_q.diff().tolist())
        _scopes[cu_seq_lens_q] = _Scope(PackLayout(lengths, query.device), None)
    return _attend(
        _scopes[cu_seq_lens_q],
        query,
        key,
        value,
        scaling=scaling,
        sliding_window=sliding_window,
        softcap=softcap,
        dropout=dropout,
    )


def _attend(
    scope: _Scope,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    prefix: tuple[Tensor, Tensor] | None = None,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
    dropout: float = 0.0,
) -> tuple[Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, kv_heads = query.shape[1], key.shape[1]
    share = heads // kv_heads
    output = query.new_empty(query.shape[2], heads, value.shape[-1])
    for bucket in scope.layout.buckets:
        rows, longest = bucket.rows, bucket.longest
        keys, values = (bucket.gather(part[0]).transpose(0, 1) for part in (key, value))
        if prefix is not None:
            keys = torch.cat([prefix[0].expand(rows, -1, -1, -1), keys], dim=2)
            values = torch.cat([prefix[1].expand(rows, -1, -1, -1), values], dim=2)
        # Query heads that share a key head stand below each other, so that no key is copied for them.
        own = bucket.gather(query[0]).unflatten(0, (kv_heads, share)).permute(2, 0, 1, 3, 4)
        own = own.reshape(rows, kv_heads, share * longest, -1)
        mask = scope.mask(longest, keys.shape[2] - longest, sliding_window, query).repeat(share, 1)
        if softcap is None:
            mixed = scaled_dot_product_attention(own, keys, values, attn_mask=mask, scale=scaling, dropout_p=dropout)
        else:
            mixed = _soft_capped(own, keys, values, mask=mask, scaling=scaling, softcap=softcap, dropout=dropout)
        mixed = mixed.unflatten(2, (share, longest)).permute(0, 3, 1, 2, 4).reshape(rows * longest, heads, -1)
        output.index_copy_(0, bucket.tokens, mixed.index_select(0, bucket.real))
    return output[None], None


AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
AttentionInterface.register(PACKED_ATTENTION_NAME, packed_attention)


def packs(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Sequence numbers cut into packs of at most `max_tokens` tokens, similar lengths together.

    A sequence that is longer makes a pack of its own. Deterministic: longest first, ties by number.
    """
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    result: list[list[int]] = []
    room = 0
    for number in order:
        if not result or lengths[number] > room:
            result.append([])
            room = max_tokens
        result[-1].append(number)
        room -= lengths[number]
    return result


def starts_of(lengths: Sequence[int]) -> list[int]:
    """Where each sequence of a pack begins."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts[:-1]
