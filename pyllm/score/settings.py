"""What fixes the numbers of a scoring run."""

from dataclasses import dataclass
from typing import Literal

from pyllm.errors import SettingError

SCORING_VERSION = 1
"""Raised whenever a change of code could change a number; a ledger of another version is never mixed in."""

REFERENCE_ANCHOR_TOKENS = 200
DEFAULT_ANCHOR_TOKENS = 512


@dataclass(frozen=True, slots=True)
class AnchorSpec:
    """Where the anchors come from.

    Args:
        kind: A file of examples, rows of the input drawn at random, or rows nearest to K-Means centres.
        count: How many; 0 for a file (all of its rows).
        path: The file; empty otherwise.
    """

    kind: Literal["file", "random", "kmeans"]
    count: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "AnchorSpec":
        """Read `FILE`, `random:N` or `kmeans:N`.

        Raises:
            SettingError: N is missing or no positive whole number.
        """
        kind, colon, number = text.partition(":")
        if not text or text.lower() in ("random", "kmeans"):
            raise SettingError(f"anchors `{text}`: a number is missing", hint="e.g. kmeans:100, or a file of examples")
        if not colon or kind not in ("random", "kmeans"):
            return cls("file", path=text)
        if not number.isascii() or not number.isdigit() or int(number) == 0:
            raise SettingError(f"anchors `{text}`: `{number}` is not a positive whole number", hint="e.g. kmeans:100")
        return cls("random" if kind == "random" else "kmeans", int(number))


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Settings of a scoring run.

    Args:
        anchors: Where the anchors come from.
        model: Folder, hub id, or `nano`.
        reference: Reproduce the published code (`docs/methods/nuggets.md`).
        template: `nuggets` or `chat`.
        max_anchor_tokens: Anchors are cut to this many tokens; None is 512, or 200 in reference mode.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        max_batch_tokens: Most anchor tokens of one forward pass; None chooses.
        seed: Seed of the anchor choice.
        encoder: Encoder whose embeddings K-Means clusters; None takes the model's own last hidden states.

    Raises:
        SettingError: They contradict each other.
    """

    anchors: AnchorSpec
    model: str
    reference: bool = False
    template: Literal["nuggets", "chat"] = "nuggets"
    max_anchor_tokens: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    max_batch_tokens: int | None = None
    seed: int = 0
    encoder: str | None = None

    def __post_init__(self) -> None:
        if self.template not in ("nuggets", "chat"):
            raise SettingError(f"template `{self.template}` is unknown", hint="use nuggets or chat")
        if self.reference and self.template != "nuggets":
            raise SettingError(f"--compat reference has its own template, not `{self.template}`")
        if self.reference and self.dtype not in ("auto", "float32"):
            raise SettingError(f"--compat reference computes in float32, not `{self.dtype}`")
        if self.max_anchor_tokens is not None and self.max_anchor_tokens < 2:
            raise SettingError(f"--max-anchor-tokens {self.max_anchor_tokens} leaves nothing to score (at least 2)")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise SettingError(f"--max-batch-tokens {self.max_batch_tokens} is below 1")
        if self.encoder is not None and self.anchors.kind != "kmeans":
            raise SettingError("--encoder is used by kmeans anchors only")

    @property
    def anchor_tokens(self) -> int:
        """Where anchors are cut, before the model's context is known."""
        if self.max_anchor_tokens is not None:
            return self.max_anchor_tokens
        return REFERENCE_ANCHOR_TOKENS if self.reference else DEFAULT_ANCHOR_TOKENS
