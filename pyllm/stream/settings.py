"""How a dialogue is remembered: the budget, the policy, and the paper's settings by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyllm.errors import SettingError
from pyllm.stream.cache import Positions

Score = Literal["surprisal", "as-published"]
"""`surprisal` is the paper's token entropy; `as-published` is what its released code computes instead."""
FirstToken = Literal["carried", "max"]
"""What a turn's first token is scored by: the logits behind the turn before, or the turn's largest score."""
Ties = Literal["newer", "older"]
"""Which of two tokens with equal scores stays."""

PIECE_TOKENS = 64
"""A turn longer than the room it can have is read in pieces of this many tokens, each making room for itself."""


DEFAULT_HORIZON_TURNS = 20
LIVE_SPAN_AFTER = 8
"""What a dialogue that is answered takes along behind a surprising token, as measured: docs/stream-measuring.md."""
"""How many turns back a decay that follows from a horizon remembers, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many tokens a cache holds, and for what.

    Args:
        sinks: The first tokens of the dialogue, which always stay.
        entropy: Tokens kept for their score; a coming turn is paid from these.
        recent: The newest tokens that were not chosen otherwise.

    Raises:
        SettingError: A part is negative, or nothing is left beside the sinks.
    """

    sinks: int = 4
    entropy: int = 988
    recent: int = 32

    def __post_init__(self) -> None:
        for name, value in (("sinks", self.sinks), ("entropy tokens", self.entropy), ("recent", self.recent)):
            if value < 0:
                raise SettingError(f"{name} is {value}: it must be 0 or more")
        if self.room < 1:
            raise SettingError("entropy tokens and recent are both 0: no turn would fit beside the sinks")

    @property
    def tokens(self) -> int:
        """Most tokens in the cache."""
        return self.sinks + self.entropy + self.recent

    @property
    def room(self) -> int:
        """Most tokens that room can be made for at once."""
        return self.entropy + self.recent

    def pieces(self, count: int, *, pinned: int = 0) -> list[int]:
        """Lengths of the parts in which `count` tokens are read, each of which gets room of its own.

        Args:
            count: Tokens to read.
            pinned: Tokens beside the sinks that must not leave.
        """
        room = self.room - pinned
        if count <= room:
            return [count]
        piece = min(PIECE_TOKENS, room)
        return [piece] * (count // piece) + ([count % piece] if count % piece else [])


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Everything that decides what a dialogue remembers.

    Args:
        policy: A name of `pyllm.stream.policies`, or `module:attribute` of the user's own.
        budget: How much stays; `full` ignores it.
        score: What a token is worth to `sirllm`, and what is reported of every token.
        first_token: How a turn's first token is scored; `as-published` always takes the turn's largest score.
        decay: Factor on every score once a turn, for `sirllm`.
        horizon_turns: How many turns back to remember: the factor then follows from what was read, turn by turn (see
            `pyllm.stream.horizon`). None leaves it as it is.
        span_after: A token counts as much as any of this many tokens before it: a source takes those after it along.
        span_before: The same the other way: a source takes tokens before it along, as far as they were read.
        ties: Which of two equal tokens stays; None is `newer`, or `older` under `reference`.
        positions: Which positions the tokens that stay have.
        reference: Do what only the published code does: multiply scores turn by turn, and let `streaming` overflow
            where a turn is longer than the recent tokens.
        seed: Of the policy `random`.

    Raises:
        SettingError: A value is out of its range.
    """

    policy: str = "sirllm"
    budget: Budget = Budget()
    score: Score = "surprisal"
    first_token: FirstToken = "carried"
    decay: float = 1.0
    horizon_turns: int | None = None
    span_after: int = 0
    span_before: int = 0
    ties: Ties | None = None
    positions: Positions = "cache"
    reference: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay <= 1.0:
            raise SettingError(f"decay is {self.decay}: it must be from 0 to 1")
        if self.horizon_turns is not None:
            if self.horizon_turns < 1:
                raise SettingError(f"horizon turns is {self.horizon_turns}: it must be 1 or more")
            if self.decay != 1.0:
                raise SettingError(f"decay is {self.decay}, and a horizon of {self.horizon_turns} turns decides it too")
        for name, value in (("span after", self.span_after), ("span before", self.span_before)):
            if value < 0:
                raise SettingError(f"{name} is {value}: it must be 0 or more")

    @property
    def newer_first(self) -> bool:
        """Whether the newer of two equal tokens stays."""
        return self.ties == "newer" if self.ties is not None else not self.reference

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them; a horizon is named where there is one."""
        made = asdict(self)
        if self.horizon_turns is None:
            del made["horizon_turns"]  # as older sessions have it
        return made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StreamSettings":
        """The settings that `as_dict` gave."""
        return cls(**{**values, "budget": Budget(**values["budget"])})


@dataclass(frozen=True, slots=True)
class Preset:
    """Published settings.

    Args:
        budget: Sinks, entropy and recent tokens.
        decay: Factor on every score once a turn.
    """

    budget: Budget
    decay: float


PRESETS: dict[str, Preset] = {
    "paper-grocery": Preset(Budget(4, 1020, 0), 1.0),
    "paper-dailydialog": Preset(Budget(4, 508, 0), 0.7),
    "paper-rps": Preset(Budget(4, 1020, 0), 0.9),
}
"""The experiments of the paper. Source: SirLLM, arXiv 2405.12528, section 4 and the scripts of its code."""
