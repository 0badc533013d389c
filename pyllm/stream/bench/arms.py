"""What is compared: policies with their settings, as a grid, of one budget for each cache size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyllm.errors import SettingError
from pyllm.stream.policies import POLICY_NAMES, SCORED_POLICIES
from pyllm.stream.settings import Budget, FirstToken, Score, StreamSettings, Ties

Decay = float | Literal["auto"]
"""A fixed factor a turn, or one that follows from a horizon."""

_PLAIN = ("full", "window", "streaming", "interval", "interval-literal")
"""Policies that have no use for recent tokens, spans or decay: the newest or the evenly spread stay as they are."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy with all that decides what it keeps.

    Args:
        policy: Its name.
        cache: Tokens that it keeps; None for `full`.
        sinks: First tokens, always kept.
        recent: Newest tokens kept, where the policy knows them.
        span: Tokens behind a high score that are kept with it.
        decay: Factor on scores once a turn.
        horizon_turns: For a decay of `auto`.
        score: What a token is worth.
        first_token: How a turn's first token is scored.
        ties: Which of two equal tokens stays.
        seed: Of the policy `random`.
    """

    policy: str
    cache: int | None
    sinks: int = 4
    recent: int = 0
    span: int = 0
    decay: Decay = 1.0
    horizon_turns: int | None = None
    score: Score = "surprisal"
    first_token: FirstToken = "carried"
    ties: Ties = "newer"
    seed: int = 0

    @property
    def kind(self) -> str:
        """The policy and its span, as `--policies` names them."""
        return f"{self.policy}+{self.span}" if self.span else self.policy

    @property
    def label(self) -> str:
        """What tells it from all other arms of a run."""
        parts = [self.kind]
        if self.cache is not None:
            parts.append(f"cache {self.cache}")
        if self.policy not in _PLAIN:
            parts.append(f"recent {self.recent}")
        if self.decay == "auto":
            parts.append(f"decay auto {self.horizon_turns}")
        elif self.decay != 1.0:
            parts.append(f"decay {self.decay:g}")
        if self.score != "surprisal":
            parts.append(self.score)
        return " ".join(parts)

    @property
    def settings(self) -> StreamSettings:
        """How a dialogue is remembered.

        Raises:
            SettingError: The cache has no place beside sinks and recent tokens, or a value is out of its range.
        """
        auto = self.decay == "auto"
        return StreamSettings(
            policy=self.policy,
            budget=Budget() if self.cache is None else self._budget(self.cache),
            score=self.score,
            first_token=self.first_token,
            decay=1.0 if self.decay == "auto" else self.decay,
            horizon_turns=self.horizon_turns if auto else None,
            span_after=self.span,
            ties=self.ties,
            seed=self.seed,
        )

    def _budget(self, cache: int) -> Budget:
        recent = 0 if self.policy in _PLAIN else self.recent
        if cache <= self.sinks + recent:
            raise SettingError(
                f"a cache of {cache:,} tokens has no place beside {self.sinks:,} sinks and {recent:,} recent tokens",
                hint="give a larger cache, or fewer of these",
            )
        return Budget(self.sinks, cache - self.sinks - recent, recent)

    def facts(self) -> dict[str, Any]:
        """The arm as tables and reports hold it."""
        return {
            "arm": self.label,
            "policy": self.policy,
            "cache": self.cache,
            "recent": None if self.policy in _PLAIN else self.recent,
            "span": self.span,
            "decay": None if self.policy in _PLAIN else str(self.decay),
            "horizon_turns": self.horizon_turns,
            "score": self.score,
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """Which arms to make.

    Args:
        policies: Names, each with `+A` behind it for a span of A tokens, or without one for all of `spans`.
        caches: Sizes.
        recents: Newest tokens kept.
        spans: For policies that score tokens and are named without a span.
        decays: For policies that decay has a part in.
        horizons: In turns, each an arm for a decay of `auto`.
        scores: For `sirllm`.
        sinks: First tokens, always kept.
        first_token: How a turn's first token is scored.
        ties: Which of two equal tokens stays.
        seed: Of the policy `random`.

    Raises:
        SettingError: Nothing is named, or a value is out of its range.
    """

    policies: tuple[str, ...]
    caches: tuple[int, ...]
    recents: tuple[int, ...] = (32,)
    spans: tuple[int, ...] = (0, 8)
    decays: tuple[Decay, ...] = (1.0,)
    horizons: tuple[int, ...] = (20,)
    scores: tuple[Score, ...] = ("surprisal",)
    sinks: int = 4
    first_token: FirstToken = "carried"
    ties: Ties = "newer"
    seed: int = 0

    def __post_init__(self) -> None:
        named = {"policies": self.policies, "cache sizes": self.caches, "recent tokens": self.recents}
        named |= {"spans": self.spans, "decays": self.decays, "horizons": self.horizons, "scores": self.scores}
        for name, values in named.items():
            if not values:
                raise SettingError(f"no {name} are given")
        for name, numbers in (("cache", self.caches), ("span", self.spans), ("recent", self.recents)):
            for number in numbers:
                if number < (name == "cache"):
                    raise SettingError(f"{name} is {number}: it must be {int(name == 'cache')} or more")

    def arms(self) -> list[Arm]:
        """Every combination that makes a difference, once, in the order given.

        Raises:
            SettingError: A policy's span is no number, or a value does not fit the others.
        """
        made: dict[str, Arm] = {}
        for name in self.policies:
            for arm in self._of_policy(name):
                arm.settings  # noqa: B018  (refuses what does not fit)
                made.setdefault(arm.label, arm)
        return list(made.values())

    def _of_policy(self, name: str) -> list[Arm]:
        policy, plus, span = name.rpartition("+") if "+" in name else (name, "", "")
        if plus and not span.isdecimal():
            raise SettingError(
                f"policy `{name}`: `{span}` is no number of tokens", hint="write sirllm+8 for a span of 8"
            )
        own = policy not in POLICY_NAMES
        fades = policy == "sirllm" or own
        scored = policy in SCORED_POLICIES or own
        spans = (int(span),) if plus else self.spans if scored else (0,)
        recents = (0,) if policy in _PLAIN else self.recents
        decays: list[tuple[Decay, int | None]] = []
        for decay in self.decays if fades else (1.0,):
            decays += [(decay, horizon) for horizon in self.horizons] if decay == "auto" else [(decay, None)]
        return [
            Arm(
                policy, cache, self.sinks, recent, width, decay, horizon, score, self.first_token, self.ties, self.seed
            )
            for cache in ((None,) if policy == "full" else self.caches)
            for score in (self.scores if policy == "sirllm" else ("surprisal",))
            for recent in recents
            for width in spans
            for decay, horizon in decays
        ]  # fmt: skip


def baseline_of(arms: Sequence[Arm], wanted: str | None) -> dict[str, str]:
    """For each arm, by label, the arm that it is compared with.

    Args:
        arms: All of them.
        wanted: A label, or a policy with its span: then the first arm of that kind with the same cache, recent
            tokens and score, as far as there is one. None is `streaming` where it is there, else the first arm.

    Raises:
        SettingError: No arm is called so.
    """
    name = wanted if wanted is not None else ("streaming" if any(arm.kind == "streaming" for arm in arms) else None)
    named = [arm for arm in arms if name in (arm.label, arm.kind)] if name is not None else list(arms[:1])
    if not named:
        known = ", ".join(dict.fromkeys(arm.kind for arm in arms))
        raise SettingError(f"baseline `{name}` is not among the arms", hint=f"name one of {known}, or a whole arm")

    def likeness(arm: Arm, other: Arm) -> tuple[bool, ...]:
        return tuple(getattr(arm, each) == getattr(other, each) for each in ("cache", "recent", "score"))

    return {arm.label: max(named, key=lambda other: likeness(arm, other)).label for arm in arms}
