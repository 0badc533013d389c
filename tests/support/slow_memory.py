"""The slow, obvious twin of a dialogue's memory: plain lists, scores multiplied turn by turn, sorting, no pruning."""

from dataclasses import dataclass, field

from pyllm.stream.settings import Budget


@dataclass
class SlowMemory:
    """Who stays under SirLLM's rule with spans.

    Args:
        budget: The budget.
        decay: Factor on every score once a turn.
        after: How many tokens a source takes along behind it.
        before: How many in front of it.
        newer_first: Which of two equal tokens stays.
    """

    budget: Budget
    decay: float = 1.0
    after: int = 0
    before: int = 0
    newer_first: bool = True
    cached: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    scores: list[float] = field(default_factory=list)
    """Of every token ever read, by original position."""

    def fade(self) -> None:
        self.scores = [score * self.decay for score in self.scores]

    def spread(self, position: int) -> float:
        first, last = max(0, position - self.after), min(len(self.scores) - 1, position + self.before)
        return max(self.scores[source] for source in range(first, last + 1))

    def make_room(self, count: int) -> list[int] | None:
        if len(self.cached) + count <= self.budget.tokens:
            return None
        stays = {position for position in self.cached if position < self.budget.sinks or position in self.pinned}
        extra = len([position for position in stays if position >= self.budget.sinks])
        ranked = sorted(
            self.cached,
            key=lambda at: (-self.spread(at), -self.scores[at], -at if self.newer_first else at),
        )
        stays |= set(ranked[: max(0, self.budget.entropy - count - extra)])
        for position in reversed(self.cached):
            if len(stays) < self.budget.tokens - count:
                stays.add(position)
        self.cached = sorted(stays)
        return self.cached

    def read(self, scores: list[float]) -> None:
        self.cached += range(len(self.scores), len(self.scores) + len(scores))
        self.scores += scores
