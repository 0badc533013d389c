"""One causal language model, ready to read packs: the decoder, the head in float32, and what they can take.

The head is applied here, in float32 and only to the rows asked for, a block at a time, so that no tensor over the
whole vocabulary and all positions ever exists. Whether decoder plus head give what the model itself gives is
checked once, on a few random tokens, when a model is loaded: an architecture that this module does not understand is
refused there and never scored wrongly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from pyllm.errors import PrerequisiteError
from pyllm.lm.attention import ATTENTION_NAME, PackLayout, PrefixCache, forward_pack

_HEAD_CELLS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Logits held at once: what stays in a core's cache on a CPU, 128 MiB on a GPU."""
_HEAD_ROWS = 256
"""But at least these rows, so that reading the head's weights is worth it."""


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A loaded model.

    Args:
        model: The transformers model, in evaluation mode.
        decoder: Its decoder: token ids to last hidden states after the final norm.
        head: Output embedding in float32, `[vocab, dim]`.
        head_bias: Its bias, or None.
        softcap: Soft cap of the final logits (Gemma), or None.
        logit_scale: Factor on the final logits (Cohere, Granite); 1 where there is none.
        context_tokens: Most positions the model was made for, or None when it states none.
    """

    model: PreTrainedModel
    decoder: nn.Module
    head: Float[Tensor, "vocab dim"]
    head_bias: Float[Tensor, " vocab"] | None
    softcap: float | None
    logit_scale: float
    context_tokens: int | None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.head.device

    @property
    def vocabulary(self) -> int:
        """Number of classes of the head."""
        return int(self.head.shape[0])

    @property
    def changes_while_reading(self) -> bool:
        """Whether a forward pass leaves something behind in the model, so that two must not run side by side.

        Rotary embeddings of the kinds `dynamic` and `longrope` keep frequencies that follow the longest position seen.
        """
        kinds = [str(getattr(module, "rope_type", "")) for module in self.decoder.modules()]
        return any("dynamic" in kind or "longrope" in kind for kind in kinds)

    def pack_states(
        self, input_ids: Int[Tensor, " packed"], layout: PackLayout, cache: PrefixCache | None = None
    ) -> Float[Tensor, "packed dim"]:
        """Last hidden states of a pack; see `pyllm.lm.attention.forward_pack`."""
        return forward_pack(self.decoder, input_ids, layout, cache)

    def prefix_cache(self, prefix_ids: list[int]) -> PrefixCache | None:
        """Keys and values of a shared prefix, or None for an empty one."""
        if not prefix_ids:
            return None
        cache = PrefixCache()
        ids = torch.tensor(prefix_ids, device=self.device)
        self.pack_states(ids, PackLayout((len(prefix_ids),), self.device), cache)
        cache.freeze()
        return cache

    def target_nats(
        self, states: Float[Tensor, "answers dim"], targets: Int[Tensor, " answers"]
    ) -> Float[Tensor, " answers"]:
        """Log-probability of each target token given the state that predicts it; natural log, float32."""
        block = max(_HEAD_ROWS, _HEAD_CELLS.get(self.device.type, 1 << 25) // self.vocabulary)
        parts = []
        for start in range(0, len(targets), block):
            logits = self._logits(states[start : start + block])
            wanted = logits.gather(1, targets[start : start + block, None])[:, 0]
            largest = logits.amax(-1, keepdim=True)
            # log-sum-exp in place: the logits are not needed any more, and a second copy would leave the cache
            parts.append(wanted - largest[:, 0] - logits.sub_(largest).exp_().sum(-1).log())
        return torch.cat(parts) if parts else states.new_empty(0, dtype=torch.float32)

    def _logits(self, states: Float[Tensor, "answers dim"]) -> Float[Tensor, "answers vocab"]:
        logits = linear(states.float(), self.head, self.head_bias)
        if self.logit_scale != 1.0:
            logits *= self.logit_scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def causal_lm(model: PreTrainedModel) -> CausalLM:
    """Wrap a loaded transformers model and check that it can be read in packs.

    Raises:
        PrerequisiteError: The model is no causal LM, or its architecture does something that packs do not carry.
    """
    kind = type(model).__name__
    output = model.get_output_embeddings()
    if output is None or not hasattr(output, "weight"):
        raise PrerequisiteError(f"model `{kind}` has no language-model head", hint="give a causal language model")
    config = model.config.get_text_config()
    scaling = getattr(config, "logits_scaling", None)
    wrapped = CausalLM(
        model=model.eval(),
        decoder=model.get_decoder(),
        head=output.weight.detach().float(),
        head_bias=None if getattr(output, "bias", None) is None else output.bias.detach().float(),
        softcap=getattr(config, "final_logit_softcapping", None),
        logit_scale=1.0 / scaling if scaling else float(getattr(config, "logit_scale", None) or 1.0),
        context_tokens=getattr(config, "max_position_embeddings", None),
    )
    _check_packs(wrapped, kind)
    return wrapped


@torch.inference_mode()
def _check_packs(lm: CausalLM, kind: str) -> None:
    """Compare packed log-probabilities with the model's own on a few random tokens.

    Raises:
        PrerequisiteError: They differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    prefix_tokens, lengths = 5, (4, 6, 6)
    total = prefix_tokens + sum(lengths)
    ids = torch.randint(0, min(lm.vocabulary, 1000), (total,), generator=generator).to(lm.device)
    prefix, rest = ids[:prefix_tokens], ids[prefix_tokens:]
    expected, got = [], []
    lm.model.set_attn_implementation("eager")
    for sequence in rest.split(lengths):
        logits = lm.model(torch.cat([prefix, sequence])[None], use_cache=False).logits[0, prefix_tokens:-1].float()
        expected.append(logits.log_softmax(-1).gather(1, sequence[1:, None])[:, 0])
    lm.model.set_attn_implementation(ATTENTION_NAME)
    try:
        states = lm.pack_states(rest, PackLayout(lengths, lm.device), lm.prefix_cache(prefix.tolist()))
        for part, sequence in zip(states.split(lengths), rest.split(lengths), strict=True):
            got.append(lm.target_nats(part[:-1], sequence[1:]))
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise PrerequisiteError(f"model `{kind}` cannot be read in packs: {error}") from error
    tolerance = 1e-3 if lm.model.dtype == torch.float32 else 0.25
    worst = float((torch.cat(got) - torch.cat(expected)).abs().max())
    if not worst <= tolerance:
        raise PrerequisiteError(
            f"model `{kind}` cannot be read in packs: a log-probability is {worst:.3g} nats off the model's own",
            hint="it is no causal language model, or its attention or head is of a kind not supported yet",
        )
