"""What somebody says in a long dialogue: names of things early, small talk, and at the end questions for the names."""

from dataclasses import dataclass
from random import Random

from pyllm.stream.recall_task import NAMES, THINGS, asking, small_talk, telling

FACTS = 6
_EARLY_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Talk:
    """The user's side of a dialogue.

    Args:
        said: What the user says, turn by turn; the last turns ask for `names`, in order.
        things: What has a name.
        names: The names.
    """

    said: tuple[str, ...]
    things: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def first_question(self) -> int:
        """The turn that asks for the first name."""
        return len(self.said) - len(self.names)

    @property
    def told_turns(self) -> tuple[int, ...]:
        """The turn that tells each name."""
        return tuple(
            next(turn for turn, text in enumerate(self.said) if thing in text and name in text)
            for thing, name in zip(self.things, self.names, strict=True)
        )


def draw_talk(turns: int, seed: int) -> Talk:
    """Draw a dialogue whose names are told in its first third.

    Args:
        turns: Turns before the questions.
        seed: Equal seeds give equal dialogues.
    """
    draw = Random(f"talk {seed}")
    things, names = draw.sample(THINGS, FACTS), draw.sample(NAMES, FACTS)
    said = [small_talk(draw)[0] for _ in range(turns - FACTS)]
    early = round(_EARLY_SHARE * turns)
    places = sorted(draw.sample(range(early), FACTS))
    for place, thing, name in zip(places, things, names, strict=True):
        said.insert(place, telling(draw, thing, name))
    return Talk((*said, *(asking(thing) for thing in things)), tuple(things), tuple(names))
