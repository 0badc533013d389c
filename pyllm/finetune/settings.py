"""The settings of a finetuning run, with what a recipe and a model decide filled in."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyllm.data.tokens import TrainingTemplate
from pyllm.errors import SettingError

FINETUNE_VERSION = 1
"""Goes up when equal settings and data begin to give other weights."""

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16"]

RecipeName = Literal["nuggets"]

LORA_LEARNING_RATE = 2e-4
"""Ten times that of all weights. Source: "LoRA Without Regret", in the documentation of TRL."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is taken where the user says nothing.

    Args:
        template: How an example becomes text; None follows the model.
        epochs: Times that each example is seen.
        batch_examples: Examples of a step.
        learning_rate: The highest, for all weights.
        max_length: Most tokens of an example.
        schedule: How the learning rate falls.
        warmup: Share of the steps in which it rises.
        weight_decay: 0 makes AdamW Adam.
    """

    template: TrainingTemplate | None = None
    epochs: float = 3.0
    batch_examples: int = 64
    learning_rate: float = 2e-5
    max_length: int = 2048
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0


RECIPES: dict[RecipeName | None, Recipe] = {None: Recipe(), "nuggets": Recipe(template="alpaca")}
"""By name. `nuggets` is that of the paper, and where it says enough, the usual one.

Source: NUGGETS (arXiv 2312.10302), section 4.1 (Adam, 2e-5, batch of 64, 3 epochs, 2048 tokens), and the README of its
code (cosine, warm-up 0.03, no weight decay).
"""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A low-rank adapter on every linear layer but the head.

    Args:
        rank: Rank of the update.
        alpha: Its scale is `alpha / rank`.
        dropout: Share of the adapter's inputs that is dropped while training.

    Source: LoRA (arXiv 2106.09685).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1 or self.alpha < 1:
            raise SettingError(f"a LoRA rank of {self.rank} and an alpha of {self.alpha}: both begin at 1")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"a LoRA dropout of {self.dropout:g} is not from 0 to below 1")


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How to train.

    Args:
        model: A folder, a hub id, or `nano`.
        template: How an example becomes text.
        max_length: Most tokens of an example; longer ones are cut at their end.
        epochs: Times that each example is seen; need not be whole.
        max_tokens: Most tokens of the whole run, each as often as it is seen; None sets no limit.
        batch_examples: Examples of an optimizer step; None when steps are counted in tokens.
        batch_tokens: Tokens of an optimizer step, in packs of `max_length`; None when steps are counted in examples.
        learning_rate: The highest.
        schedule: How it falls behind the warm-up.
        warmup: Share of the steps in which it rises.
        weight_decay: 0 makes AdamW Adam.
        seed: Of the order of the examples, of dropout and of a new adapter.
        lora: An adapter instead of all weights.
        precision: `auto` is bf16 on a GPU, with all-weights training keeping its own weights in fp32, and fp32 on the
            CPU.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them; None does so
            on a GPU.
        padded: Pad the examples of a forward pass to one length instead of putting them side by side.
        micro_batch_tokens: Most tokens of one forward pass; None chooses by device. One example is never split.
        fsdp: Shard weights, gradients and optimizer over the processes (FSDP2).
        recipe: The recipe that filled in what was left open.

    Raises:
        SettingError: A value is out of range, or two contradict each other.
    """

    model: str
    template: TrainingTemplate
    max_length: int = 2048
    epochs: float = 3.0
    batch_examples: int | None = 64
    batch_tokens: int | None = None
    learning_rate: float = 2e-5
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    seed: int = 0
    lora: LoraSettings | None = None
    precision: Precision = "auto"
    device: str = "auto"
    activation_checkpointing: bool | None = None
    padded: bool = False
    micro_batch_tokens: int | None = None
    fsdp: bool = False
    max_tokens: int | None = None
    recipe: RecipeName | None = None

    def __post_init__(self) -> None:
        """Check ranges and contradictions."""
        if (self.batch_examples is None) == (self.batch_tokens is None):
            raise SettingError("a step is counted either in examples or in tokens: give one of the two")
        for name in ("batch_examples", "batch_tokens", "micro_batch_tokens", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"`{name}` is {value}: at least 1 is wanted")
        if not 2 <= self.max_length <= 65_536:
            raise SettingError(f"`max_length` is {self.max_length}: between 2 and 65536 is wanted")
        if not 0 < self.epochs <= 10_000:
            raise SettingError(f"{self.epochs:g} epochs are not above 0 and at most 10000")
        if not 0 < self.learning_rate < 10:
            raise SettingError(f"a learning rate of {self.learning_rate:g} is not above 0 and below 10")
        if not 0 <= self.warmup < 1:
            raise SettingError(f"a warm-up of {self.warmup:g} is not a share from 0 to below 1")
        if self.weight_decay < 0:
            raise SettingError(f"a weight decay of {self.weight_decay:g} is below 0")
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed {self.seed} is not from 0 to 4294967295")
        if self.padded and self.batch_tokens is not None:
            raise SettingError(
                "`--padded` and `--batch-tokens` contradict each other: packs are not padded", hint="use --batch-size"
            )

    def facts(self) -> dict[str, Any]:
        """What of it decides the weights; the device and how much memory is used do so only by rounding."""
        facts = asdict(self)
        for name in ("model", "device", "activation_checkpointing"):
            del facts[name]
        return facts
