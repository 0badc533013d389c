"""What the published SirLLM code does in each step, in our own words and on the same weights: the twin of its speed.

Keys are cached unrotated and all of them are rotated in every layer of every forward pass; attention is unfused;
entropies are a Python list that is sorted in Python; an eviction indexes the keys and values of every layer with a
Python list; every answer of a question is read with its whole prompt, and softmax and logarithm are taken over all
logits. Source: `docs/methods/sirllm.md`; no line of it is theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache

NAME = "published_twin"
_angles: list[tuple[Tensor, Tensor]] = []
"""Cosines and sines of the positions up to the newest token, of the pass that runs."""


def _rotated(numbers: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    left, right = numbers.chunk(2, -1)
    return numbers * cosines + torch.cat([-right, left], -1) * sines


def _attention(
    _: nn.Module, query: Tensor, key: Tensor, value: Tensor, __: Tensor | None, *, scaling: float, **___: object
) -> tuple[Tensor, None]:
    new, cached = query.shape[2], key.shape[2]
    cosines, sines = _angles[-1]
    query = _rotated(query, cosines[cached - new :], sines[cached - new :])
    key = _rotated(key, cosines, sines)
    share = query.shape[1] // key.shape[1]
    if share > 1:
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = query @ key.transpose(2, 3) * scaling
    ahead = torch.full((new, cached), float("-inf")).triu(cached - new + 1)
    weights = (scores + ahead).softmax(-1, dtype=torch.float32)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)
# The function above masks for itself.
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


@dataclass
class PublishedTwin:
    """A dialogue as the published code keeps it.

    Args:
        model: A Llama in float32 on the CPU, with attention `NAME`.
        start: First tokens, always kept.
        entropy: Tokens kept for their entropy.
        recent: Newest tokens, as far as there is room.
    """

    model: PreTrainedModel
    start: int
    entropy: int
    recent: int

    def __post_init__(self) -> None:
        self.cache = DynamicCache(config=self.model.config)
        self.entropies: list[float] = []
        self.kept_positions: list[int] = []
        self._seen = 0

    def forward(self, ids: list[int]) -> Tensor:
        """Logits behind each token; the cache takes the tokens in. Position 0 leaves keys as they are."""
        end = len(self.entropies) + len(ids)
        decoder = self.model.get_decoder()
        cosines, sines = decoder.rotary_emb(torch.empty(1), torch.arange(end)[None])
        _angles.append((cosines[0], sines[0]))
        try:
            made = self.model(
                input_ids=torch.tensor([ids]),
                position_ids=torch.zeros(1, len(ids), dtype=torch.int64),
                past_key_values=self.cache,
                use_cache=True,
            )
        finally:
            _angles.pop()
        logits: Tensor = made.logits[0]
        return logits

    def entropies_of(self, ids: list[int], logits: Tensor) -> list[float]:
        """What its code attaches to each token: of its own probability behind itself, moved on by one."""
        every = -torch.log(torch.softmax(logits, -1))
        own = every.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
        return [max(own), *own[:-1]]

    def make_room(self, coming: int) -> None:
        """Evict, if the coming tokens do not fit."""
        count, most = len(self.entropies), self.start + self.entropy + self.recent
        if count + coming <= most:
            return
        ranked = sorted(range(count), key=lambda place: -self.entropies[place])
        kept = set(range(min(self.start, count))) | set(ranked[: self.entropy - coming])
        for place in reversed(range(count)):
            if len(kept) >= most - coming:
                break
            kept.add(place)
        order = sorted(kept)
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, order], layer.values[:, :, order]
        self.entropies = [self.entropies[place] for place in order]
        self.kept_positions = [self.kept_positions[place] for place in order]

    def read(self, ids: list[int]) -> Tensor:
        """Take tokens in with their entropies; logits behind the last."""
        logits = self.forward(ids)
        self._take(ids, self.entropies_of(ids, logits))
        return logits[-1]

    def answer(self, prompt: list[int], options: list[list[int]]) -> int:
        """Read a question once for each of its answers, and keep the likeliest one. The choice."""
        self.make_room(len(prompt) + max(map(len, options)))
        before = self._tensors()
        made, likeliest, behind = [], [], []
        for option in options:
            ids = [*prompt, *option]
            self._put(before)
            logits = self.forward(ids)
            behind.append(self._tensors())
            made.append(self.entropies_of(ids, logits))
            likeliest.append(float(logits[len(prompt) - 1].log_softmax(-1)[option[0]]))
        best = max(range(len(options)), key=likeliest.__getitem__)
        self._put(behind[best])
        self._take([*prompt, *options[best]], made[best])
        return best

    def _tensors(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer; each pass makes new ones."""
        return [(layer.keys, layer.values) for layer in self.cache.layers if layer.is_initialized]

    def _put(self, tensors: list[tuple[Tensor, Tensor]]) -> None:
        if not tensors:
            self.cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in zip(self.cache.layers, tensors, strict=False):
            layer.keys, layer.values = keys, values

    def _take(self, ids: list[int], entropies: list[float]) -> None:
        self.entropies += entropies
        self.kept_positions += range(self._seen, self._seen + len(ids))
        self._seen += len(ids)
